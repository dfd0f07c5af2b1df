"""Items B1-B8 of the sidecar spec at socket level: what single raw cases cannot say (half-close, resets, memory, processor time)."""

import asyncio

import pytest
from tests.conformance.parts import half_close, leave, reset
from tests.corpus.judge import SENTINEL, check_problem
from tests.corpus.process_stats import processor_s, resident_bytes, resident_bytes_at_rest
from tests.corpus.rig import PONG, SOON_S, Rig

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

POST = b"POST /p HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def whole_requests(rig: Rig, target: bytes) -> list[ReceivedRequest]:
    return [request for _, request in rig.seen if request.target == target]


@pytest.mark.parametrize("end", [half_close, reset, leave])
@pytest.mark.parametrize(
    "raw",
    [
        POST + b"Content-Length: 100000\r\n\r\n" + b"x" * 99_999,
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"186a0\r\n" + b"x" * 99_999,
    ],
    ids=["length", "between-chunks", "before-the-end", "in-a-chunk"],
)
async def test_b7_a_caller_that_ends_early_aborts_the_request_at_the_upstream(rig: Rig, raw: bytes, end: object) -> None:
    await rig.flush()
    whole_before, connections_before = len(rig.seen), len(rig.upstream.connections)
    caller = await rig.caller()
    caller.send(raw)
    upstream = await rig.upstream.connection(connections_before)
    await eventually(lambda: upstream.received_count > 20, what="the head at the upstream")
    await end(caller)  # type: ignore[operator]
    await eventually(lambda: upstream.ended, timeout_s=SOON_S, what="the upstream connection to end")
    assert len(rig.seen) == whole_before, "a cut request arrived as a whole one"
    caller.peer.transport.abort()
    record = await eventually(
        lambda: [e for e in rig.robin.events if e.get("event") == "exchange" and e["path"] == "/p"], what="the record"
    )
    assert record[-1]["outcome"] == "client_closed"


async def test_b7_bytes_past_the_length_are_the_next_request(rig: Rig) -> None:
    caller = await rig.caller()
    caller.send(POST + b"Content-Length: 3\r\n\r\nabcGET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await caller.answer()).status == 200
    assert (await caller.answer()).status == 200
    assert [request.target for _, request in rig.seen[-2:]] == [b"/p", b"/next"]
    await caller.leave()


FLOODS = {
    "extension": b"1;" + b"a" * (1 << 20),
    "zeros": b"0" * (1 << 20),
    "many-extensions": b"1;" + b'a="b";' * 170_000,
    "trailer": b"0\r\nT: " + b"v" * (1 << 20),
    "many-trailers": b"0\r\n" + b"T: 1\r\n" * 170_000,
}
ALLOCATOR_SLACK = 8 << 20  # freed memory that the interpreter keeps, and 40 connections themselves


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_b4_forty_floods_of_chunk_lines_hold_no_memory(rig: Rig, flood: bytes) -> None:
    callers, seen_before = [await rig.caller() for _ in range(40)], len(rig.seen)
    before = await resident_bytes_at_rest(rig.robin.pid)
    for caller in callers:
        caller.send(CHUNKED + flood)
    most = before
    for caller in callers:
        check_problem(await caller.answer(), "bad_request")
        most = max(most, resident_bytes(rig.robin.pid))
    assert most - before < 40 * (256 << 10) + ALLOCATOR_SLACK
    for caller in callers:
        await caller.closed()
        await caller.leave()
    assert len(rig.seen) == seen_before, "a flooded request arrived whole"
    assert (await rig.ask(SENTINEL)).status == 200


STARTS = {"zeros": b"0", "extension": b"1;a", "quoted": b'1;a="', "trailer": b"0\r\nT: ", "trailer-name": b"0\r\nT"}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
async def test_b4_a_chunk_line_in_single_bytes_costs_little(rig: Rig, start: bytes) -> None:
    caller = await rig.caller()
    caller.send(CHUNKED + start)
    before = processor_s(rig.robin.pid)
    await caller.send_pieces([b"0"] * 7000)
    await eventually(lambda: caller.peer.transport.get_write_buffer_size() == 0, what="the kernel to take every byte")
    assert (await rig.ask(SENTINEL)).status == 200
    cost_s = processor_s(rig.robin.pid) - before
    await caller.leave()
    assert cost_s < 1.0, f"7000 bytes cost {cost_s:.1f} s of processor time"


async def _counting(connection: ScriptedConnection) -> None:
    """Read a body without taking it apart; answer at its last chunk."""
    await connection.read_until(b"\r\n\r\n")
    tail = b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        tail = (tail + await connection.read_some())[-16:]
    await connection.send(PONG)


async def _cost(rig: Rig, chunks: int) -> float:
    caller = await rig.caller()
    before = processor_s(rig.robin.pid)
    caller.send(CHUNKED + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
    assert (await caller.answer(deadline_s=60.0)).status == 200
    await caller.leave()
    return processor_s(rig.robin.pid) - before


async def test_b8_a_million_one_byte_chunks_cost_in_proportion(rig: Rig) -> None:
    await rig.flush()
    script, rig.upstream.script = rig.upstream.script, _counting
    try:
        few = min(await _cost(rig, 100_000), await _cost(rig, 100_000))
        many = await _cost(rig, 1_000_000)
    finally:
        rig.upstream.script = script
    assert few > 0
    assert many <= 30 * few, f"{many:.2f} s of processor time against {few:.2f} s"  # ten times as much is due; a square law gives a hundred


async def test_b5_a_large_body_arrives_byte_for_byte_in_either_framing(rig: Rig) -> None:
    body = bytes(range(256)) * 8192  # 2 MiB
    answers = await asyncio.gather(
        rig.ask(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body),
        rig.ask(
            CHUNKED + b"".join(b"%x\r\n%b\r\n" % (5000, body[at : at + 5000]) for at in range(0, len(body) - 5000, 5000)) + b"0\r\n\r\n"
        ),
    )
    assert [answer.status for answer in answers] == [200, 200]
    bodies = sorted(len(request.body) for request in whole_requests(rig, b"/p")[-2:])
    assert bodies == [2_095_000, 2_097_152]
    assert all(body.startswith(request.body) for request in whole_requests(rig, b"/p")[-2:])
