"""RobinProcess: readiness from the child's own lines, an end that is always reached, and nothing left when the parent is killed."""

import asyncio
import json
import os
import signal
import sys

import pytest
from tests.testing.asking import ask

from robin.testing.process import ChildFailed, RobinProcess, SidecarProcess
from robin.testing.waiting import eventually

READY = """
import json, os, signal, sys
print("hello", file=sys.stderr)
print(json.dumps({"event": "started", "environment": sorted(os.environ), "arguments": sys.argv[1:]}), flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('{"event": "started"}', flush=True)
signal.pause()
"""
PARENT = """
import asyncio, sys
from robin.testing.process import RobinProcess

async def main():
    async with RobinProcess(program=(sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()")) as child:
        await child.line("ready")
        print('{"event": "child", "pid": %d}' % child.pid, flush=True)
        await child.returned(timeout_s=60)

asyncio.run(main())
"""


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


async def test_an_event_is_awaited_and_returned_whole():
    async with RobinProcess("one", "two", settings={"ROBIN_X": "1"}, program=program(READY)) as child:
        entry = await child.event("started")
        assert entry["arguments"] == ["one", "two"]
        assert set(entry["environment"]) <= {"ROBIN_X", "PYTHONUNBUFFERED", "LC_CTYPE"}
        assert await child.line("hello") == "hello"
        assert child.stderr == ["hello"]
        assert [json.loads(line)["event"] for line in child.stdout] == ["started"]
        pid = child.pid
    assert child.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_child_that_ends_before_it_is_ready_is_reported_with_its_last_lines():
    async with RobinProcess(program=program("raise SystemExit('robin: ROBIN_X (from env): bad; fix it')")) as child:
        with pytest.raises(
            ChildFailed, match=r"ended with 1 before the event 'started'\n  stderr: robin: ROBIN_X \(from env\): bad; fix it"
        ):
            await child.event("started")


async def test_a_child_that_is_not_ready_in_time_is_reported():
    async with RobinProcess(program=program(READY)) as child:
        await child.event("started")
        with pytest.raises(ChildFailed, match=r"the event 'more' did not come in 0\.2 s"):
            await child.event("more", timeout_s=0.2)


async def test_a_child_that_ignores_term_is_killed_at_the_deadline():
    async with RobinProcess(program=program(STUBBORN)) as child:
        await child.event("started")
        assert await child.stop(timeout_s=0.3) == -signal.SIGKILL


async def test_each_line_is_heard_as_it_comes():
    heard: list[tuple[str, str]] = []
    async with RobinProcess(program=program("print('a'); print('b')"), on_line=lambda stream, text: heard.append((stream, text))) as child:
        assert await child.returned() == 0
    assert heard == [("stdout", "a"), ("stdout", "b")]


async def test_a_killed_parent_leaves_no_child():
    async with RobinProcess(program=program(PARENT)) as parent:
        grandchild = (await parent.event("child"))["pid"]
        await parent.kill()

    def gone() -> bool:
        try:
            with open(f"/proc/{grandchild}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await eventually(gone, what=f"the end of {grandchild}")


async def test_cancelling_the_wait_leaves_the_child_to_its_owner():
    async with RobinProcess(program=program(READY)) as child:
        await child.event("started")
        waiting = asyncio.get_running_loop().create_task(child.returned())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert child.returncode is None
        assert await child.stop() == -signal.SIGTERM


async def test_a_sidecar_says_where_it_listens_before_it_has_an_identity(tmp_path):
    async with SidecarProcess(upstream_url="http://127.0.0.1:9", settings={"ROBIN_TOKEN_FILE": str(tmp_path / "absent")}) as robin:
        await robin.listening()
        assert robin.url.startswith("http://127.0.0.1:")
        assert (await ask(int(robin.admin_url.rpartition(":")[2]), "/readyz"))[0] == 503
        assert "started" not in [entry.get("event") for entry in robin.events]
        assert await robin.stop() == 0
