"""Robin never calls itself: an upstream that is its own listener is refused at start, or at the dial when a name leads back (C4, C5)."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.journeys.life import GET, exchanges, launched, serving

from robin.testing.process import free_port
from robin.testing.waiting import eventually

Replaced = Callable[[dict[str, str]], tuple[str, ...]]


@pytest.mark.parametrize("key", ["ROBIN_LISTEN_ADDR", "ROBIN_ADMIN_ADDR"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"])
async def test_c5_an_upstream_that_is_robin_itself_is_exit_2(tmp_path: Path, key: str, host: str):
    port = free_port()
    async with launched(tmp_path, url=f"http://{host}:{port}", settings={key: f"127.0.0.1:{port}"}) as rig:
        assert await rig.robin.returned() == 2
        (line,) = [line for line in rig.robin.stderr if "is Robin itself" in line]
        assert line.startswith("robin: ROBIN_UPSTREAM_URL (from env): ")
        assert key in line


async def test_c5_the_default_listeners_are_known_too(tmp_path: Path):
    for url in ("http://127.0.0.1:4000", "http://[::1]:4000", "http://localhost:4001", "http://127.0.0.1:4001"):
        settings = {"ROBIN_LISTEN_ADDR": "", "ROBIN_ADMIN_ADDR": ""}
        async with launched(tmp_path, url=url, settings=settings) as rig:
            assert await rig.robin.returned() == 2
            assert "is Robin itself" in rig.robin.stderr[0]


@pytest.mark.parametrize("key", ["ROBIN_LISTEN_ADDR", "ROBIN_ADMIN_ADDR"])
async def test_c5_a_name_that_resolves_to_robin_later_is_502_loop(tmp_path: Path, replaced: Replaced, key: str):
    """Among several addresses one is enough: which of them answers is no matter of luck."""
    port = free_port()
    program = replaced({"/etc/hosts": "127.0.0.9 broker.test\n127.0.0.1 broker.test\n"})
    settings = {key: f"127.0.0.1:{port}", "ROBIN_UNSAFE_UPSTREAM_HTTP": "true"}
    async with serving(tmp_path, url=f"http://broker.test:{port}", settings=settings, program=program) as rig:
        for _ in range(2):
            check_problem(await rig.ask(GET), "loop", "own_address")
        await eventually(lambda: len(exchanges(rig)) == 2, what="the records")
        assert [record["outcome"] for record in exchanges(rig)] == ["loop", "loop"]


async def test_c5_a_listener_on_every_interface_is_known_by_each_address(tmp_path: Path, replaced: Replaced):
    port = free_port()
    program = replaced({"/etc/hosts": "127.0.0.9 broker.test\n"})
    settings = {"ROBIN_ADMIN_ADDR": f":{port}", "ROBIN_UNSAFE_UPSTREAM_HTTP": "true"}
    async with serving(tmp_path, url=f"http://broker.test:{port}", settings=settings, program=program) as rig:
        check_problem(await rig.ask(GET), "loop", "own_address")


async def test_c4_two_robins_in_a_row_work_and_a_request_that_comes_back_is_a_loop(tmp_path: Path):
    (tmp_path / "far").mkdir()
    async with serving(tmp_path / "far") as far, serving(tmp_path, url=far.robin.url) as near:
        assert (await near.ask(GET)).status == 200
        (_, seen), *_ = far.seen
        vias = b", ".join(seen.values(b"via")).split(b", ")
        assert len(set(vias)) == 2
        again = GET[:-2] + b"Via: " + vias[0] + b"\r\n\r\n"
        check_problem(await near.ask(again), "loop")
        assert (await far.ask(again)).status == 200, "the other's name is no loop"
        assert len(far.seen) == 2
