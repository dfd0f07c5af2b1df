"""Items A1-A12 of the sidecar spec at socket level: what single raw cases cannot say (every byte, limits, time, pipelines)."""

import asyncio
import time
from pathlib import Path

import pytest
from tests.corpus.cases import RequestCase
from tests.corpus.judge import SENTINEL, check_problem, judge
from tests.corpus.load import REQUESTS
from tests.corpus.process_stats import resident_bytes, resident_bytes_at_rest
from tests.corpus.requests_line import padded
from tests.corpus.rig import SOON_S, Rig, running

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


def corpus(item: str) -> list[RequestCase]:
    return [case for case in REQUESTS if case.item == item]


async def test_a1_a2_each_of_the_256_bytes_in_a_value_is_carried_or_refused(rig: Rig) -> None:
    for byte in range(256):
        if byte in b"\r\n":
            continue
        value = b"x" + bytes([byte]) + b"y"
        answer = await rig.ask(HEAD + b"A: " + value + b"\r\n\r\n")
        if byte == 0x09 or (byte >= 0x20 and byte != 0x7F):
            assert answer.status == 200, byte
            assert rig.seen[-1][1].values(b"a") == [value]
        else:
            check_problem(answer, "bad_request")


async def test_a1_each_of_the_256_bytes_in_a_name_is_carried_or_refused(rig: Rig) -> None:
    for byte in range(256):
        if byte in b":\r\n":
            continue
        name = b"A" + bytes([byte]) + b"B"
        answer = await rig.ask(HEAD + name + b": 1\r\n\r\n")
        if byte in TCHAR:
            assert answer.status == 200, byte
            assert rig.seen[-1][1].values(name) == [b"1"]
        else:
            check_problem(answer, "bad_request")


async def test_a3_a9_each_of_the_256_bytes_in_a_target_is_carried_or_refused(rig: Rig) -> None:
    for byte in range(256):
        target = b"/x" + bytes([byte]) + b"y"
        answer = await rig.ask(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if 0x21 <= byte < 0x7F and byte != 0x23:
            assert answer.status == 200, byte
            assert rig.seen[-1][1].target == target
        else:
            check_problem(answer, "bad_request")


async def test_a3_each_version_digit_pair_is_served_refused_or_unsupported(rig: Rig) -> None:
    for major in range(10):
        for minor in range(10):
            answer = await rig.ask(b"GET / HTTP/%d.%d\r\nHost: localhost\r\n\r\n" % (major, minor))
            if (major, minor) in {(1, 0), (1, 1)}:
                assert answer.status == 200
            elif major == 0:
                check_problem(answer, "bad_request" if minor == 9 or answer.status == 400 else "version_not_supported")
            else:
                check_problem(answer, "version_not_supported")


async def test_a4_robins_own_options_answer_keeps_the_connection_and_is_no_error(rig: Rig) -> None:
    caller = await rig.caller()
    before = rig.bytes_seen
    caller.send(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await caller.answer()
    assert (answer.status, answer.body) == (204, b"")
    assert answer.value(b"Proxy-Status") is None
    assert rig.bytes_seen == before
    caller.send(SENTINEL)
    assert (await caller.answer()).status == 200
    await caller.leave()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (padded(64 * 1024 + 1), "head_too_large"),
        (b"GET /" + b"a" * (16 * 1024) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", "target_too_long"),
        (HEAD + b"X: 1\r\n" * 100 + b"\r\n", "head_too_large"),
    ],
    ids=["head", "target", "fields"],
)
async def test_a8_limits_answer_the_same_in_one_segment_and_byte_by_byte(rig: Rig, raw: bytes, code: str) -> None:
    check_problem(await rig.ask(raw), code)
    before = rig.bytes_seen
    caller = await rig.caller()
    await caller.send_pieces([raw[at : at + 1] for at in range(len(raw))])
    check_problem(await caller.answer(), code)
    assert await caller.closed() == "eof"
    assert rig.bytes_seen == before


async def test_a8_a_head_of_64_kib_is_served_byte_by_byte_too(rig: Rig) -> None:
    raw = padded(64 * 1024)
    caller = await rig.caller()
    await caller.send_pieces([raw[at : at + 1] for at in range(len(raw))])
    assert (await caller.answer()).status == 200
    await caller.leave()


async def _drip(rig: Rig, every_s: float) -> tuple[float, int]:
    """Send a head one byte at a time until Robin answers; seconds from the first byte to the answer, and the answer's status."""
    caller = await rig.caller()
    began = time.monotonic()
    answering = asyncio.ensure_future(caller.answer(deadline_s=100.0))
    for byte in HEAD * 100:
        caller.send(bytes([byte]))
        await asyncio.wait([answering], timeout=every_s)
        if answering.done():
            break
    answer = await answering
    took_s = time.monotonic() - began
    check_problem(answer, "request_timeout")
    assert await caller.closed() == "eof"
    return took_s, answer.status


async def _idle(rig: Rig) -> float:
    """Keep a connection after one exchange; seconds until Robin closes it without a byte."""
    caller = await rig.caller()
    caller.send(SENTINEL)
    assert (await caller.answer()).status == 200
    began = time.monotonic()
    assert await caller.closed(deadline_s=100.0) == "eof"
    assert caller.rest == b""
    return time.monotonic() - began


def exchanges(rig: Rig) -> list[dict[str, object]]:
    return [entry for entry in rig.robin.events if entry.get("event") == "exchange"]


async def test_a10_a_dripped_head_gets_408_and_an_idle_connection_a_silent_end_when_set_so(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"ROBIN_HEADER_TIMEOUT": "1s", "ROBIN_KEEPALIVE_TIMEOUT": "1s"}) as rig:
        before = rig.bytes_seen
        (drip_s, _), idle_s = await asyncio.gather(_drip(rig, 0.05), _idle(rig))
        assert 0.9 <= drip_s <= SOON_S
        assert 0.9 <= idle_s <= SOON_S
        await eventually(lambda: len(exchanges(rig)) >= 2, what="both records")
        assert sorted(str(entry["outcome"]) for entry in exchanges(rig)) == ["forwarded", "request_timeout"]
        assert rig.bytes_seen - before == len(rig.seen[-1][1].raw)


@pytest.mark.slow
async def test_a10_a_head_at_one_byte_a_second_ends_at_10_s_and_an_idle_connection_at_75_s(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        (drip_s, _), idle_s = await asyncio.gather(_drip(rig, 1.0), _idle(rig))
        assert 9.0 <= drip_s <= 15.0
        assert 74.0 <= idle_s <= 80.0
        await eventually(lambda: len(exchanges(rig)) >= 2, what="both records")
        assert len(exchanges(rig)) == 2


async def test_a10_a_connection_that_never_says_a_byte_ends_silently(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"ROBIN_KEEPALIVE_TIMEOUT": "500ms"}) as rig:
        caller = await rig.caller()
        assert await caller.closed() == "eof"
        assert caller.rest == b""
        assert exchanges(rig) == []


async def test_a11_a_good_request_before_a_bad_one_in_the_same_segment_is_answered_first(rig: Rig) -> None:
    cases = corpus("A11")
    assert len(cases) >= 8
    for case in cases:
        await judge(rig, case)


async def _numbered(connection: ScriptedConnection, request: ReceivedRequest) -> None:
    body = request.target[1:] + b"." * 1000
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def test_a12_100_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    caller = await rig.caller()
    with rig.replying(_numbered):
        caller.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(100)))
        for number in range(100):
            answer = await caller.answer()
            assert answer.body == b"%d" % number + b"." * 1000
    await caller.leave()


async def test_a12_100000_pipelined_requests_that_are_never_read_push_back(rig: Rig) -> None:
    padding = b"X-Pad: " + b"p" * 200 + b"\r\n\r\n"
    caller = await rig.caller()
    caller.peer.transport.pause_reading()
    rss_before, seen_before = await resident_bytes_at_rest(rig.robin.pid), len(rig.seen)
    last, rss_most = -1, 0

    def stands_still() -> bool:
        nonlocal last, rss_most
        rss_most = max(rss_most, resident_bytes(rig.robin.pid))
        still, last = len(rig.seen) == last, len(rig.seen)
        return still

    with rig.replying(_numbered):
        caller.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n" % number + padding for number in range(100_000)))
        await eventually(stands_still, timeout_s=60.0, every_s=0.5, what="the upstream to see no further request")
    assert len(rig.seen) - seen_before < 50_000, "nothing pushed back"
    assert caller.peer.transport.get_write_buffer_size() > 0, "Robin took every request"
    assert rss_most - rss_before < 8 << 20
    caller.peer.transport.abort()
    assert (await rig.ask(SENTINEL)).status == 200


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_a12_answers_of_our_own_that_are_never_read_push_back_and_hold_up_nobody(rig: Rig, head: bytes) -> None:
    caller = await rig.caller()
    caller.peer.transport.pause_reading()
    rss_before, last, took_s = await resident_bytes_at_rest(rig.robin.pid), -1, []
    caller.send(head * 400_000)

    async def stands_still() -> bool:
        nonlocal last
        began_at = asyncio.get_running_loop().time()
        assert (await rig.ask(SENTINEL)).status == 200
        took_s.append(asyncio.get_running_loop().time() - began_at)
        still, last = caller.peer.transport.get_write_buffer_size() == last, caller.peer.transport.get_write_buffer_size()
        return still

    await eventually(stands_still, timeout_s=60.0, every_s=0.5, what="Robin to take no further request")
    assert last > 0, "Robin took every request"
    assert resident_bytes(rig.robin.pid) - rss_before < 8 << 20
    assert sorted(took_s)[len(took_s) // 2] < 1.0, took_s
    caller.peer.transport.abort()
