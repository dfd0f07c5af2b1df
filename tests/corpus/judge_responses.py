"""Lets the upstream answer with raw bytes and checks what the caller gets, and that nothing of it poisons the next exchange."""

from tests.corpus.cases import FAULT_TABLE, Aborted, Faulty, ResponseCase, ResponseVerdict
from tests.corpus.judge import check_problem
from tests.corpus.rig import Answer, Rig, pong

from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest

HOP = {b"connection", b"transfer-encoding", b"content-length"}


def request_of(case: ResponseCase) -> bytes:
    """The request whose answer the case is."""
    body = b"Content-Length: 2\r\n\r\nhi" if case.method == b"POST" else b"\r\n"
    lines = b"".join(b"%b: %b\r\n" % line for line in case.asks)
    return b"%b /case %b\r\nHost: localhost\r\n" % (case.method, case.version) + lines + body


def replying(case: ResponseCase, pieces: list[bytes] | None = None) -> object:
    """An upstream that answers `/case` with the case's bytes and anything else with a pong."""

    async def reply(connection: ScriptedConnection, request: ReceivedRequest) -> None:
        if request.target != b"/case":
            await pong(connection, request)
            return
        if case.raw:
            await connection.send(*(pieces or [case.raw]))
        if case.then == "close":
            await connection.close()
        elif case.then == "reset":
            await connection.reset()

    return reply


async def judge_response(rig: Rig, case: ResponseCase, pieces: list[bytes] | None = None) -> str:
    """One request on a fresh upstream connection, the case as its answer, then a second request. What happened, in words."""
    await rig.flush()
    rig.reply = replying(case, pieces)  # type: ignore[assignment]
    caller = await rig.caller()
    try:
        caller.send(request_of(case))
        answer = await caller.answer(case.method)
        happened = check_answer(answer, case)
        upstream = next(connection for connection, request in reversed(rig.seen) if request.target == b"/case")
        if happened.startswith("relayed again"):
            caller.send(b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")
            after = await caller.answer()
        else:
            if not happened.startswith("fault"):
                ended = await caller.closed()
                assert not answer.whole or ended == "eof"
                assert caller.rest == b""
            after = await rig.ask(b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (after.status, after.body) == (200, b"pong"), f"the next exchange got {after}"
        assert b"poison" not in answer.body
        used = next(connection for connection, request in reversed(rig.seen) if request.target == b"/next")
        if case.reusable is not None:
            assert (used is upstream) == case.reusable, f"upstream connection reused: {used is upstream}"
        if case.reusable is False:
            assert upstream.ended is not None or await upstream.wait_ended()
        assert not rig.garbage, rig.garbage
        return happened
    finally:
        rig.reply = pong
        await caller.leave()


def check_answer(answer: Answer, case: ResponseCase) -> str:
    """The answer against the verdict, or against whichever of several fits."""
    verdicts = case.verdict if isinstance(case.verdict, tuple) else (case.verdict,)
    last: AssertionError | None = None
    for verdict in verdicts:
        try:
            return _check(answer, verdict)
        except AssertionError as error:
            last = error
    assert last is not None
    raise last


def _check(answer: Answer, verdict: ResponseVerdict) -> str:
    if isinstance(verdict, Faulty):
        assert answer.status == FAULT_TABLE[verdict.code][0], f"{answer.status} {answer.body!r}"
        check_problem(answer, verdict.code)
        return f"fault {verdict.code}"
    assert answer.value(b"Proxy-Status") is None or b"robin" not in (answer.value(b"Proxy-Status") or b"")
    assert answer.status == verdict.status, f"{answer.status} {answer.body!r}"
    if isinstance(verdict, Aborted):
        assert not answer.whole, "a broken body ended as if it were whole"
        assert verdict.body.startswith(answer.body)
        return "aborted"
    assert answer.whole, "the answer broke off"
    assert answer.interim == verdict.interim
    assert answer.reason == verdict.reason
    assert tuple(line for line in answer.fields if line[0].lower() not in HOP) == verdict.fields
    assert answer.body == verdict.body
    assert answer.trailers == verdict.trailers
    assert framing_of(answer) == ("length" if verdict.framing == "none" and verdict.length is not None else verdict.framing)
    if verdict.length is not None or verdict.framing == "none":
        assert answer.values(b"Content-Length") == ([] if verdict.length is None else [verdict.length])
    closes = b"close" in (answer.value(b"Connection") or b"").lower()
    assert closes != verdict.again, answer.fields
    return "relayed again" if verdict.again else "relayed"


def framing_of(answer: Answer) -> str:
    """How the answer to C was delimited."""
    if answer.values(b"Transfer-Encoding"):
        assert answer.values(b"Transfer-Encoding") == [b"chunked"]
        assert not answer.values(b"Content-Length"), "both framings"
        return "chunked"
    if answer.values(b"Content-Length"):
        return "length"
    return "none" if answer.status in {204, 304} or (not answer.body and b"close" not in (answer.value(b"Connection") or b"")) else "close"
