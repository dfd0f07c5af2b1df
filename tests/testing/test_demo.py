"""How a demonstration runs: its lines, its object, its exit codes, and that nothing is left of it."""

import asyncio
import io
import json
import os
import signal
from pathlib import Path

import pytest

from robin.testing.demos import demo as framework
from robin.testing.demos.demo import Demo, DemoRefused, run_demo


async def good(demo: Demo) -> None:
    demo.say("alpha called")
    demo.check("the service call", ok=True, quiet=True)
    demo.check("direct call -> 401", ok=True)


async def test_checks_are_printed_and_counted():
    out = io.StringIO()
    assert await run_demo("sample", good, out=out) == 0
    assert out.getvalue() == "alpha called\ncheck ok: direct call -> 401\ndemo sample: PASS 2/2\n"


async def test_a_failed_check_is_named_with_what_was_seen():
    async def bad(demo: Demo) -> None:
        await good(demo)
        demo.check("replay -> 403", ok=False, detail="200", quiet=True)

    out = io.StringIO()
    assert await run_demo("sample", bad, out=out) == 1
    assert out.getvalue().splitlines()[-2:] == ["check FAILED: replay -> 403 (200)", "demo sample: FAIL 2/3"]


async def test_json_is_one_object():
    out = io.StringIO()
    assert await run_demo("sample", good, out=out, as_json=True) == 0
    assert json.loads(out.getvalue()) == {
        "demo": "sample",
        "passed": True,
        "ok": 2,
        "total": 2,
        "checks": [{"check": "the service call", "ok": True}, {"check": "direct call -> 401", "ok": True}],
        "output": ["alpha called"],
    }


async def test_without_a_check_nothing_was_shown():
    async def empty(_: Demo) -> None:
        pass

    assert await run_demo("sample", empty, out=io.StringIO()) == 1


@pytest.mark.parametrize("failure", [ValueError("no"), DemoRefused("port 1 is taken"), None])
async def test_what_it_started_is_closed_however_it_ends(failure, monkeypatch):
    monkeypatch.setattr(framework, "LONGEST_S", 0.05)
    closed, folders = [], []

    async def run(demo: Demo) -> None:
        demo.stack.callback(closed.append, True)
        folders.append(demo.folder)
        (demo.folder / "file").write_text("x")
        if failure is None:
            await asyncio.Event().wait()
        raise failure

    out = io.StringIO()
    if isinstance(failure, DemoRefused):
        with pytest.raises(DemoRefused):
            await run_demo("sample", run, out=out)
    else:
        assert await run_demo("sample", run, out=out) == 1
        assert out.getvalue().endswith("demo sample: FAIL 0/1\n")
    assert closed == [True]
    assert not Path(folders[0]).exists()


@pytest.mark.parametrize(("keep", "code"), [(True, 0), (False, 130)])
async def test_a_signal_ends_it(keep, code):
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()
        for _ in range(5):  # other tasks run meanwhile
            await asyncio.sleep(0)

    async def run(demo: Demo) -> None:
        demo.stack.push_async_callback(close)
        demo.to_try.append("curl http://127.0.0.1:1/")
        await good(demo)
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        if not keep:
            await closed.wait()
            demo.check("its parts still run", ok=False)

    out = io.StringIO()
    assert await run_demo("sample", run, out=out, keep=keep) == code
    assert "FAILED" not in out.getvalue()
    assert ("curl http://127.0.0.1:1/" in out.getvalue()) == keep
