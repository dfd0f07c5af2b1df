"""Items G1-G7 of the sidecar spec at socket level: which upgrades are taken, what a tunnel carries, how it ends, what a drain says."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
from tests.conformance.parts import (
    ACCEPT,
    ASK,
    KEY,
    OTHER,
    OTHER_SWITCH,
    SWITCH,
    echo,
    half_close,
    leave,
    open_tunnel,
    reset,
    scripted,
)
from tests.corpus.judge import SENTINEL, check_problem
from tests.corpus.process_stats import open_sockets
from tests.corpus.rig import PONG, SOON_S, Caller, Rig, running

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

End = Callable[[Caller], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tunnels(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Robin with a second upgrade protocol besides WebSocket."""
    async with running(tmp_path_factory.mktemp("tunnels"), settings={"ROBIN_UPGRADE_PROTOCOLS": "websocket,raw-bytes"}) as rig:
        yield rig


async def test_g1_g5_the_handshake_goes_up_with_the_injected_token_and_the_switch_comes_down_clean(tunnels: Rig) -> None:
    heads: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        heads.append(await connection.read_until(b"\r\n\r\n"))
        hop = b"Connection: upgrade, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 1"
        await connection.send(SWITCH.replace(b"Connection: Upgrade", hop))
        await connection.wait_ended()

    await tunnels.flush()
    with scripted(tunnels, script):
        caller, head = await open_tunnel(tunnels)
        await caller.leave()
    lines = heads[0].lower().split(b"\r\n")
    assert lines[0] == b"get /ws http/1.1"
    assert b"\r\nAuthorization: Bearer " + tunnels.token + b"\r\n" in heads[0]
    assert [line for line in lines if line.startswith(b"upgrade:")] == [b"upgrade: websocket"]
    assert [line for line in lines if line.startswith(b"connection:")] == [b"connection: upgrade"]
    assert b"\r\nSec-WebSocket-Key: " + KEY + b"\r\n" in heads[0]
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n" in heads[0]
    assert not [line for line in lines if line.startswith((b"content-length:", b"transfer-encoding:"))]
    answered = head.lower()
    assert b"\r\nupgrade: websocket\r\n" in answered
    assert b"\r\nconnection: upgrade\r\n" in answered
    assert b"\r\nsec-websocket-accept: " + ACCEPT.lower() + b"\r\n" in answered
    assert b"\r\nx-end: 1\r\n" in answered
    assert b"x-hop" not in answered
    assert b"keep-alive" not in answered


@pytest.mark.parametrize("protocol", [b"WebSocket", b"WEBSOCKET"])
async def test_g1_the_protocol_is_compared_without_case(tunnels: Rig, protocol: bytes) -> None:
    await tunnels.flush()
    with scripted(tunnels, echo):
        caller, _ = await open_tunnel(tunnels, ASK.replace(b"Upgrade: websocket", b"Upgrade: " + protocol))
        await caller.leave()


WRONG = {
    "other-protocol": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: raw-bytes"),
    "two-protocols": SWITCH.replace(b"Upgrade: websocket", b"Upgrade: websocket, raw-bytes"),
    "no-protocol": SWITCH.replace(b"Upgrade: websocket\r\n", b""),
    "not-in-connection": SWITCH.replace(b"Connection: Upgrade\r\n", b""),
    "wrong-accept": SWITCH.replace(ACCEPT, base64.b64encode(b"x" * 20)),
    "no-accept": SWITCH.replace(b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n", b""),
    "accept-other-case": SWITCH.replace(ACCEPT, ACCEPT.swapcase()),
    "two-accepts": SWITCH.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Accept: " + base64.b64encode(b"x" * 20) + b"\r\n\r\n"),
}


@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
async def test_g3_a_wrong_101_is_502_and_the_upstream_connection_is_dropped(tunnels: Rig, raw: bytes) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(raw + b"\x81\x05hello")
        ended.put_nowait(await connection.wait_ended())

    await tunnels.flush()
    with scripted(tunnels, script):
        check_problem(await tunnels.ask(ASK), "upgrade_failed")
        assert await asyncio.wait_for(ended.get(), SOON_S) in {"eof", "reset"}


async def test_g4_bytes_right_behind_both_heads_arrive(tunnels: Rig) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(SWITCH + b"\x81\x05early")
        got.put_nowait(await connection.read_exactly(11))
        await connection.wait_ended()

    await tunnels.flush()
    with scripted(tunnels, script):
        caller = await tunnels.caller()
        caller.send(ASK + b"\x81\x85\x01\x02\x03\x04abcde")
        await caller.peer.read_until(b"\r\n\r\n")
        assert await caller.peer.read_exactly(7) == b"\x81\x05early"
        assert await got.get() == b"\x81\x85\x01\x02\x03\x04abcde"
        await caller.leave()


@pytest.mark.parametrize("ask", [ASK, OTHER], ids=["websocket", "raw-bytes"])
async def test_g4_64_mib_in_odd_pieces_come_back_byte_for_byte(tunnels: Rig, ask: bytes) -> None:
    size, header = 64 << 20, b"\x82\xff" + (64 << 20).to_bytes(8, "big") + b"\x11\x22\x33\x44"
    block = hashlib.sha256(b"seed").digest() * 4099  # no power of two: pieces end inside frames and reads
    await tunnels.flush()
    with scripted(tunnels, echo):
        caller, _ = await open_tunnel(tunnels, ask)
        sent_hash, got_hash = hashlib.sha256(header), hashlib.sha256()
        total = len(header) + size

        async def send() -> None:
            caller.send(header)
            left = size
            while left:
                piece = block[: min(left, len(block))]
                sent_hash.update(piece)
                left -= len(piece)
                caller.send(piece)
                await caller.peer._writable.wait()

        sending = asyncio.ensure_future(send())
        got = 0
        while got < total:
            some = await caller.peer.read_some()
            got += len(some)
            got_hash.update(some)
        await sending
        assert got == total
        assert got_hash.digest() == sent_hash.digest()
        await caller.leave()


async def test_g5_a_plain_answer_to_an_upgrade_leaves_the_connection_usable(tunnels: Rig) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno")
        while True:
            await connection.read_until(b"\r\n\r\n")
            await connection.send(PONG)

    await tunnels.flush()
    with scripted(tunnels, script):
        caller = await tunnels.caller()
        caller.send(ASK)
        answer = await caller.answer()
        assert (answer.status, answer.body) == (426, b"no")
        caller.send(SENTINEL)
        assert (await caller.answer()).body == b"pong"
        await caller.leave()


async def test_g5_tunnel_bytes_sent_before_a_plain_answer_are_never_read_as_a_request(tunnels: Rig) -> None:
    heads: list[bytes] = []

    async def script(connection: ScriptedConnection) -> None:
        while True:
            heads.append(await connection.read_until(b"\r\n\r\n"))
            await connection.send(PONG)

    await tunnels.flush()
    with scripted(tunnels, script):
        caller = await tunnels.caller()
        caller.send(ASK + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await caller.answer()).body == b"pong"
        await caller.closed()
        assert caller.rest == b""
        await caller.leave()
        assert (await tunnels.ask(SENTINEL)).body == b"pong"
    assert not [head for head in heads if b"smuggled" in head]


@pytest.mark.parametrize("host", [b"localhost", b"elsewhere.example"])
async def test_g5_tunnel_bytes_sent_before_an_answer_of_our_own_are_never_read_as_a_request(tunnels: Rig, host: bytes) -> None:
    await tunnels.flush()
    before = len(tunnels.seen)

    async def wrong_switch(connection: ScriptedConnection, _: ReceivedRequest) -> None:
        await connection.send(OTHER_SWITCH)

    with tunnels.replying(wrong_switch):
        caller = await tunnels.caller()
        caller.send(ASK.replace(b"localhost", host) + b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
        check_problem(await caller.answer(), "upgrade_failed" if host == b"localhost" else "host_not_allowed")
        await caller.closed()
    assert caller.rest == b""
    assert [seen.target for _, seen in tunnels.seen[before:]] == ([b"/ws"] if host == b"localhost" else [])


@pytest.mark.parametrize("end", [half_close, reset, leave])
@pytest.mark.parametrize("ask", [ASK, OTHER], ids=["websocket", "raw-bytes"])
async def test_g6_the_end_of_the_caller_ends_the_upstream_within_a_second(
    tunnels: Rig, ask: bytes, end: Callable[[Caller], object]
) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        head = await connection.read_until(b"\r\n\r\n")
        await connection.send(OTHER_SWITCH if b"raw-bytes" in head else SWITCH)
        ended.put_nowait(await connection.wait_ended())

    await tunnels.flush()
    with scripted(tunnels, script):
        caller, _ = await open_tunnel(tunnels, ask)
        await end(caller)
        assert await asyncio.wait_for(ended.get(), SOON_S) in {"eof", "reset"}
        caller.peer.transport.abort()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_g6_the_end_of_the_upstream_ends_the_caller_within_a_second(tunnels: Rig, how: str) -> None:
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(SWITCH + b"\x81\x04last")
        await read.wait()
        await (connection.close() if how == "close" else connection.reset())

    read = asyncio.Event()
    await tunnels.flush()
    with scripted(tunnels, script):
        caller, _ = await open_tunnel(tunnels)
        assert await caller.peer.read_exactly(6) == b"\x81\x04last"
        read.set()
        await caller.closed(deadline_s=SOON_S)
        assert caller.rest == b""
        await caller.leave()


async def metric(rig: Rig, name: str) -> float:
    host, _, port = rig.robin.admin[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    found = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    assert found, f"no metric {name}"
    return sum(found)


async def _cycles(rig: Rig, count: int) -> None:
    await rig.flush()
    with scripted(rig, echo):
        caller, _ = await open_tunnel(rig)
        await caller.leave()
        await eventually(lambda: _zero(rig), what="no upgrade to be active")
        before = open_sockets(rig.robin.pid)
        for start in range(0, count, 50):
            await asyncio.gather(*(_one_cycle(rig, start + number) for number in range(50)))
        await eventually(lambda: _zero(rig), what="no upgrade to be active")
        await eventually(lambda: open_sockets(rig.robin.pid) <= before, what="every socket to be closed")
    assert await metric(rig, "robin_requests_in_flight") == 0


async def _zero(rig: Rig) -> bool:
    return await metric(rig, "robin_upgrades_active") == 0


async def _one_cycle(rig: Rig, number: int) -> None:
    caller, _ = await open_tunnel(rig, ASK if number % 2 else OTHER)
    caller.send(b"\x81\x80\x00\x00\x00\x00")
    await caller.peer.read_exactly(6)
    if number % 3 == 0:
        await reset(caller)
    else:
        await caller.leave()


async def test_g6_many_open_and_close_cycles_leave_nothing(tunnels: Rig) -> None:
    await _cycles(tunnels, 500)


@pytest.mark.slow
async def test_g6_ten_thousand_open_and_close_cycles_leave_nothing(tunnels: Rig) -> None:
    await _cycles(tunnels, 10_000)
