"""Items F1-F4 of the sidecar spec at socket level: Expect, interim answers, and a body that waits for its leave."""

import asyncio
import time

import pytest
from tests.conformance.parts import scripted
from tests.corpus.judge import SENTINEL, check_problem
from tests.corpus.rig import PONG, SOON_S, Rig

from robin.testing.connection import ScriptedConnection

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"POST /up HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST /up HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = {"length": (HEAD, b"hello"), "chunked": (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")}


@pytest.mark.parametrize("framing", BODIES)
async def test_f1_the_expectation_goes_up_the_100_comes_down_and_the_body_follows(rig: Rig, framing: str) -> None:
    head, body = BODIES[framing]
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(connection: ScriptedConnection) -> None:
        seen.put_nowait(await connection.read_until(b"\r\n\r\n"))
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen.put_nowait(await connection.read_until(b"hello"))
        if framing == "chunked":
            await connection.read_until(b"0\r\n\r\n")
        await connection.send(PONG)

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(head)
        assert b"\r\nExpect: 100-continue\r\n" in await seen.get()
        assert await caller.peer.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.send(body)
        assert b"hello" in await seen.get()
        assert (await caller.answer()).body == b"pong"
        await caller.leave()


@pytest.mark.parametrize("framing", BODIES)
async def test_f1_a_body_sent_at_once_is_withheld_until_the_100(rig: Rig, framing: str) -> None:
    head, body = BODIES[framing]
    asked_at = time.monotonic()
    early: list[tuple[int, float]] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        before = connection.received_count
        await asyncio.sleep(0.4)  # a while in which a body that is not withheld would arrive
        early.append((connection.received_count - before, time.monotonic() - asked_at))
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.read_until(b"hello")
        await connection.send(PONG)

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        asked_at = time.monotonic()
        caller.send(head + body)
        answer = await caller.answer()
        await caller.leave()
    ((count, waited_s),) = early
    assert count == 0 or waited_s > 0.9, "a machine that stood still for that long has used up F1's second of silence"
    assert (answer.status, answer.interim, answer.body) == (200, (100,), b"pong")


async def test_f1_after_a_second_of_silence_the_body_goes_up_all_the_same(rig: Rig) -> None:
    took_s: list[float] = []

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        began = time.monotonic()
        await connection.read_until(b"hello")
        took_s.append(time.monotonic() - began)
        await connection.send(PONG)

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(HEAD + b"hello")
        assert (await caller.answer()).body == b"pong"
        await caller.leave()
    assert 0.8 <= took_s[0] <= SOON_S


@pytest.mark.parametrize("eager", [True, False], ids=["body-sent", "body-held"])
async def test_f2_a_final_status_instead_of_100_is_relayed_and_no_body_byte_goes_up(rig: Rig, *, eager: bool) -> None:
    connections: list[ScriptedConnection] = []
    asked_at = [0.0]
    silent_s: list[float] = []

    async def script(connection: ScriptedConnection) -> None:
        connections.append(connection)
        await connection.read_until(b"\r\n\r\n")
        await connection.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")
        silent_s.append(time.monotonic() - asked_at[0])
        await connection.wait_ended()

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        asked_at[0] = time.monotonic()
        caller.send(HEAD + (b"hello" if eager else b""))
        answer = await caller.answer()
        assert (answer.status, answer.body) == (417, b"no")
        assert answer.value(b"Proxy-Status") is None
        await caller.leave()
        (upstream,) = connections
        assert await upstream.wait_ended() in {"eof", "reset"}
        stalled = silent_s[0] > 0.9  # this machine stood still for so long that F1's second of silence was over
        assert stalled or bytes(upstream.received).endswith(b"\r\n\r\n"), "a body byte went up"
    assert (await rig.ask(SENTINEL)).body == b"pong"
    assert rig.seen[-1][0] is not upstream


async def test_f3_interim_answers_arrive_before_the_final_one_exists(rig: Rig) -> None:
    go = asyncio.Event()

    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n")
        await go.wait()
        await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n" + PONG)

    await rig.flush()
    with scripted(rig, script):
        caller = await rig.caller()
        caller.send(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await caller.peer.read_until(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
        go.set()
        answer = await caller.answer()
        assert (answer.interim, answer.body) == ((102,), b"pong")
        await caller.leave()


@pytest.mark.parametrize("value", [b"200-ok", b"100-continue=x", b"100-continue, 200-ok", b'"100-continue"', b"x" * 3000])
async def test_f4_another_expectation_is_417_and_the_upstream_sees_nothing(rig: Rig, value: bytes) -> None:
    before = rig.bytes_seen
    check_problem(await rig.ask(HEAD.replace(b"100-continue", value) + b"hello"), "expectation_failed")
    assert rig.bytes_seen == before


async def test_f4_an_expectation_on_http10_is_dropped(rig: Rig) -> None:
    raw = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello"
    assert (await rig.ask(raw)).body == b"pong"
    request = rig.seen[-1][1]
    assert request.values(b"expect") == []
    assert request.body == b"hello"
