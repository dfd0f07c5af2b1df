"""Compares what happened with a verdict; the rules that hold for every message (injection, framing, Via, problem bodies) are here once."""

import asyncio
import json
import re

from tests.corpus.cases import ALLOW, FAULT_TABLE, Answered, Cut, Either, Forwarded, Refused, RequestCase, Verdict
from tests.corpus.rig import SOON_S, Answer, Caller, NoAnswer, Rig
from tests.differential.readers import read_with_h11, read_with_stdlib

from robin.testing.message import ReceivedRequest
from robin.testing.waiting import eventually

VIA = re.compile(rb"1\.1 robin-[0-9a-f]{8}\Z")
MADE_BY_ROBIN = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding"}
REASON_WORD = re.compile(r"[a-z][a-z0-9_]*\b")
LARGE = 200_000
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: localhost\r\n\r\n"


def check_problem(answer: Answer, code: str, word: str = "") -> None:
    """Robin's own answer: section 7 of the spec."""
    status, error, source, closes = FAULT_TABLE[code]
    assert answer.status == status, f"{answer.status} {answer.body!r}"
    assert answer.whole
    assert answer.value(b"Proxy-Status") == f'robin; error={error}; details="{code}"'.encode(), answer
    assert answer.value(b"Cache-Control") == b"no-store"
    assert answer.value(b"Content-Type") == b"application/problem+json"
    problem = json.loads(answer.body)
    assert set(problem) == {"type", "title", "status", "code", "source", "retry", "detail", "request_id"}
    assert (problem["code"], problem["status"], problem["source"]) == (code, status, source)
    assert problem["type"] == f"urn:robin:fault:{code}"
    assert problem["title"]
    assert re.fullmatch("[0-9a-f]{32}", problem["request_id"])
    assert REASON_WORD.match(problem["detail"]), f"no reason word opens {problem['detail']!r}"
    if word:
        assert problem["detail"].startswith(word), problem["detail"]
    retry_after = answer.value(b"Retry-After")
    assert problem["retry"] == ("never" if retry_after is None else "after")
    if retry_after is not None:
        assert 1 <= int(retry_after) <= 30
    if status == 405:
        assert answer.value(b"Allow") == ALLOW
    if closes:
        assert answer.value(b"Connection") == b"close"


def check_forwarded(seen: ReceivedRequest, verdict: Forwarded, token: bytes, authority: bytes) -> None:
    """One message as U saw it, by our own reading and by two foreign ones."""
    assert seen.version == b"HTTP/1.1"
    assert (seen.method, seen.target) == (verdict.method, verdict.target)
    assert seen.values(b"host") == [authority]
    assert seen.values(b"authorization") == [b"Bearer " + token]
    vias = seen.values(b"via")
    own = b", ".join(vias).rpartition(b", ")
    assert VIA.match(own[2]), vias
    assert own[0] == verdict.via
    assert seen.values(b"content-length") == ([] if verdict.length is None else [verdict.length])
    assert seen.values(b"transfer-encoding") == ([b"chunked"] if verdict.chunked else [])
    hop = [line for line in verdict.fields if line[0] == b"TE"]  # hop-by-hop: it stays, but its place among the fields means nothing
    assert [line for line in seen.fields if line[0].lower() == b"te"] == hop
    end_to_end = tuple(line for line in seen.fields if line[0].lower() not in MADE_BY_ROBIN | {b"te"})
    assert end_to_end == tuple(line for line in verdict.fields if line not in hop)
    assert seen.body == verdict.body
    assert seen.trailers == verdict.trailers
    assert b"canary-secret" not in seen.raw
    if verdict.chunked:
        assert b";" not in seen.framed_body.partition(b"\r\n")[0]
    by_h11 = read_with_h11(seen.raw)
    assert (by_h11.method, by_h11.target, by_h11.body, by_h11.trailers) == (seen.method, seen.target, seen.body, lowered(seen.trailers))
    assert by_h11.fields == lowered(seen.fields)
    by_stdlib = read_with_stdlib(seen.raw)
    assert (by_stdlib.method, by_stdlib.target, by_stdlib.body) == (by_h11.method, by_h11.target, by_h11.body)
    assert by_stdlib.fields == by_h11.fields


def lowered(fields: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """Names in lower case."""
    return tuple((name.lower(), value) for name, value in fields)


async def judge(rig: Rig, case: RequestCase, pieces: list[bytes] | None = None) -> list[str]:
    """Send the case on a fresh connection and check all of it. What happened, in words: the same for every way of cutting the bytes."""
    seen_before, bytes_before, connections_before = len(rig.seen), rig.bytes_seen, len(rig.upstream.connections)
    caller = await rig.caller()
    sending = asyncio.ensure_future(caller.send_pieces(pieces or [case.raw]))
    happened: list[str] = []
    try:
        for verdict in case.verdicts:
            happened.append(await _judge_one(rig, case, caller, verdict, seen_before))  # noqa: PERF401 - a failure must not lose them
        if not isinstance(case.verdicts[-1], Cut) and not happened[-1].endswith("close"):
            await sending  # else the next request would get in between the last bytes of this one
            await _judge_kept(caller)
    finally:
        sending.cancel()
        await caller.leave()
    await _judge_upstream(rig, case, happened, seen_before, bytes_before, connections_before)
    return happened


async def _judge_one(rig: Rig, case: RequestCase, caller: Caller, verdict: Verdict, seen_before: int) -> str:
    if isinstance(verdict, Cut):
        await _wait_taken(rig, caller)
        return "cut"
    method = verdict.method if isinstance(verdict, Forwarded) else b"GET"
    try:
        answer = await caller.answer(method)
    except TimeoutError:
        raise NoAnswer(f"{case.id}: no answer; U saw {rig.seen[seen_before:]}") from None
    if isinstance(verdict, Either):
        fitting = [option for option in verdict.verdicts if _fits(option, answer)]
        assert fitting, f"{answer.status} {answer.body!r}"
        verdict = fitting[0]
    if isinstance(verdict, Answered):
        assert answer.status == 204, answer
        assert answer.value(b"Allow") == ALLOW
        return "answered"
    if isinstance(verdict, Refused):
        check_problem(answer, verdict.code, verdict.word)
        closes = FAULT_TABLE[verdict.code][3] or (verdict.may_close and answer.value(b"Connection") == b"close")
        happened = verdict.code
    else:
        assert answer.status == 200, f"{answer.status} {answer.body!r}"
        assert answer.value(b"X-Upstream") == b"yes"
        assert answer.value(b"Proxy-Status") is None
        assert answer.body == (b"" if method == b"HEAD" else b"pong")
        closes = verdict.closes
        happened = "forwarded"
    if closes:
        ended = await caller.closed()
        assert ended == "eof" or len(case.raw) > LARGE, f"{ended} instead of a clean end"
        assert caller.rest == b"", "bytes after the last answer"
        return happened + " close"
    return happened


def _fits(option: Verdict, answer: Answer) -> bool:
    if isinstance(option, Refused):
        return answer.status == FAULT_TABLE[option.code][0]
    return answer.status == (204 if isinstance(option, Answered) else 200)


async def _wait_taken(rig: Rig, caller: Caller) -> None:
    """Wait until the kernel has taken every byte of ours, and Robin has turned once since, so that leaving cuts what we mean to cut."""
    await eventually(lambda: caller.peer.transport.get_write_buffer_size() == 0, what="the kernel to take the request")
    assert (await rig.ask(SENTINEL)).status == 200


async def _judge_kept(caller: Caller) -> None:
    caller.send(SENTINEL)
    answer = await caller.answer()
    assert answer.status == 200, "the kept connection does not serve the next request"


async def _judge_upstream(
    rig: Rig, case: RequestCase, happened: list[str], seen_before: int, bytes_before: int, connections_before: int
) -> None:
    assert not rig.garbage, rig.garbage
    begun = any(isinstance(verdict, Cut | Either) or (isinstance(verdict, Refused) and verdict.begun) for verdict in case.verdicts)
    if begun:
        await eventually(lambda: not _unfinished(rig, connections_before), timeout_s=SOON_S, what="U's broken request to be aborted")
    assert (await rig.ask(SENTINEL)).status == 200
    arrived = [request for _, request in rig.seen[seen_before:]]
    expected = [verdict for verdict in case.verdicts if isinstance(verdict, Forwarded)]
    either = [verdict for verdict in case.verdicts if isinstance(verdict, Either)]
    if either and "forwarded" in happened[0]:
        expected = [option for option in either[0].verdicts if isinstance(option, Forwarded)]
    real = [request for request in arrived if request.target not in {b"/sentinel", b"/b/sentinel"}]
    assert len(real) == len(expected), f"U saw {[(request.method, request.target) for request in real]}"
    for request, verdict in zip(real, expected, strict=True):
        check_forwarded(request, verdict, rig.token, rig.upstream.url.removeprefix("http://").encode())
    if not begun:
        whole = sum(len(request.raw) for request in arrived)
        assert rig.bytes_seen - bytes_before == whole, "U saw bytes beyond whole requests"


def _unfinished(rig: Rig, connections_before: int) -> list[int]:
    """Upstream connections that hold the beginning of a request and are still open."""
    return [
        connection.index
        for connection in rig.upstream.connections
        if connection.ended is None and connection.received_count > sum(len(request.raw) for request in connection.requests)
    ]
