"""From a name to a connection: every address tried as one attempt, DNS asked anew, IPv6 literals (J5, J7)."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import Rig
from tests.journeys.life import GET, metric, serving

from robin.testing.process import free_port
from robin.testing.recording_upstream import RecordingUpstream, answer, response

Replaced = Callable[[dict[str, str]], tuple[str, ...]]


@contextlib.contextmanager
def black_hole(host: str, port: int) -> Iterator[None]:
    """An address at which the kernel drops each SYN: its queue is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket(socket.AF_INET))
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield


@contextlib.asynccontextmanager
async def named(folder: Path, replaced: Replaced, upstream: RecordingUpstream, *addresses: str, **settings: str) -> AsyncIterator[Rig]:
    """Robin whose upstream `broker.test` has these addresses, in that order."""
    program = replaced({"/etc/hosts": "".join(f"{address} broker.test\n" for address in addresses)})
    chosen = {"ROBIN_UNSAFE_UPSTREAM_HTTP": "true", **settings}
    async with serving(folder, upstream=upstream, url=f"http://broker.test:{upstream.port}", settings=chosen, program=program) as rig:
        yield rig


async def timed(rig: Rig) -> tuple[int, float]:
    """Status of one request, and how long it took."""
    began = asyncio.get_running_loop().time()
    status = (await rig.ask(GET)).status
    return status, asyncio.get_running_loop().time() - began


async def test_j5_an_address_that_refuses_is_passed_over_at_once(tmp_path: Path, replaced: Replaced):
    async with RecordingUpstream(host="127.0.0.3") as upstream, named(tmp_path, replaced, upstream, "127.0.0.2", "127.0.0.3") as rig:
        assert (await timed(rig))[0] == 200
        assert (await metric(rig.robin, "robin_upstream_connect_duration_seconds_count", result="ok")) == 1
        assert (await metric(rig.robin, "robin_upstream_connect_duration_seconds_count")) == 1, "one attempt"


async def test_j5_an_address_that_does_not_answer_costs_a_quarter_second(tmp_path: Path, replaced: Replaced):
    async with RecordingUpstream(host="127.0.0.3") as upstream, named(tmp_path, replaced, upstream, "127.0.0.2", "127.0.0.3") as rig:
        with black_hole("127.0.0.2", upstream.port):
            status, took_s = await timed(rig)
        assert status == 200
        assert 0.24 < took_s < 9


async def test_j5_no_ipv6_listener_behind_a_name_with_both_families(tmp_path: Path, replaced: Replaced):
    """What `localhost` is on many machines."""
    async with RecordingUpstream(host="127.0.0.1") as upstream, named(tmp_path, replaced, upstream, "::1", "127.0.0.1") as rig:
        assert (await rig.ask(GET)).status == 200


async def test_j5_all_addresses_share_one_connect_timeout(tmp_path: Path, replaced: Replaced):
    upstream = RecordingUpstream(host="127.0.0.4", port=free_port())
    addresses = ("127.0.0.2", "127.0.0.3")
    async with named(tmp_path, replaced, upstream, *addresses, ROBIN_UPSTREAM_CONNECT_TIMEOUT="600ms") as rig:
        with black_hole(addresses[0], upstream.port), black_hole(addresses[1], upstream.port):
            began = asyncio.get_running_loop().time()
            check_problem(await rig.ask(GET), "connect_timeout")
            assert 0.59 < asyncio.get_running_loop().time() - began < 9
        check_problem(await rig.ask(GET), "connect_refused")


async def test_j5_the_name_is_asked_anew_for_each_new_connection(tmp_path: Path, replaced: Replaced):
    async with (
        RecordingUpstream(answer(response(body=b"old"), close=True), host="127.0.0.2") as old,
        RecordingUpstream(answer(response(body=b"new"), close=True), host="127.0.0.3", port=old.port) as new,
        named(tmp_path, replaced, old, "127.0.0.2") as rig,
    ):
        old.script = answer(response(body=b"old"), close=True)
        assert (await rig.ask(GET)).body == b"old"
        (tmp_path / "etc-hosts").write_text("127.0.0.3 broker.test\n")
        assert (await rig.ask(GET)).body == b"new"
        assert (len(old.connections), len(new.connections)) == (1, 1)


async def test_j5_a_name_that_does_not_resolve_is_502_and_one_that_takes_too_long_504(
    tmp_path: Path, replaced: Replaced, hanging_names: tuple[str, ...]
):
    program = replaced({"/etc/hosts": "127.0.0.1 localhost\n", "/etc/nsswitch.conf": "hosts: files\n"})
    async with serving(tmp_path, url="https://nowhere.example", program=program) as rig:
        check_problem(await rig.ask(GET), "dns_failed")
    settings = {"ROBIN_UPSTREAM_CONNECT_TIMEOUT": "300ms"}
    async with serving(tmp_path, url="https://nowhere.example", settings=settings, program=hanging_names) as rig:
        for _ in range(8):
            status, took_s = await timed(rig)
            assert status == 504
            assert took_s < 9, "hanging questions do not queue up behind each other"


async def test_j7_an_ipv6_literal_works(tmp_path: Path):
    async with RecordingUpstream(host="::1") as upstream, serving(tmp_path, upstream=upstream) as rig:
        assert upstream.url.startswith("http://[::1]:")
        assert (await rig.ask(GET)).status == 200
        assert rig.seen[0][1].values(b"host") == [upstream.url.removeprefix("http://").encode()]


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
async def test_nothing_listens_at_the_upstream(tmp_path: Path, address: str):
    async with serving(tmp_path, url=f"http://{address}:{free_port(address.strip('[]'))}") as rig:
        check_problem(await rig.ask(GET), "connect_refused", "connect_refused")
        assert await metric(rig.robin, "robin_upstream_connect_duration_seconds_count", result="connect_refused") == 1
