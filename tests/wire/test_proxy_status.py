"""Robin's own answers: whole, signed as its own, and read the same by another parser."""

import json

import h11
import pytest

from robin.model.faults import FAULTS, Fault, FaultKind
from robin.model.verdict import LocalResponse
from robin.wire.proxy_status import ALLOW, ProblemRefusals, render_local_response


def read(answer: bytes, method: str = "GET") -> tuple[h11.Response, bytes]:
    """The answer as h11 reads it; it must be exactly one message."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answer)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return head, body


def problem(
    kind: FaultKind, *, detail: str = "word: fix", retry_after_s: float | None = None, close: bool = False, head_only: bool = False
) -> bytes:
    fault = Fault(kind.code, detail)
    fault.retry_after_s = retry_after_s
    return ProblemRefusals("robin", {"token_file": "ROBIN_TOKEN_FILE"}).render(fault, request_id="0" * 32, close=close, head_only=head_only)


@pytest.mark.parametrize("kind", FAULTS.values(), ids=list(FAULTS))
def test_each_fault_is_one_whole_message_that_names_its_code(kind: FaultKind) -> None:
    head, body = read(problem(kind, retry_after_s=kind.retry_after_s, close=kind.closes))
    fields = dict(head.headers)
    assert head.status_code == kind.status
    assert fields[b"proxy-status"] == f'robin; error={kind.error}; details="{kind.code}"'.encode()
    assert fields[b"cache-control"] == b"no-store"
    assert fields[b"content-type"] == b"application/problem+json"
    assert (b"connection" in fields) is kind.closes
    assert (b"retry-after" in fields) is (kind.retry_after_s is not None)
    assert json.loads(body) == {
        "type": f"urn:robin:fault:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "source": str(kind.source),
        "retry": "never" if kind.retry_after_s is None else "after",
        "detail": "word: fix",
        "request_id": "0" * 32,
    }


@pytest.mark.parametrize(("asked_s", "said"), [(0.0, b"1"), (-5.0, b"1"), (1.2, b"2"), (30.0, b"30"), (1e9, b"30")])
def test_retry_after_is_a_whole_number_from_1_to_30(asked_s: float, said: bytes) -> None:
    head, _ = read(problem(FAULTS["identity_unavailable"], retry_after_s=asked_s))
    assert dict(head.headers)[b"retry-after"] == said


def test_the_answer_to_head_says_the_length_and_has_no_body() -> None:
    kind = FAULTS["draining"]
    alone, whole = problem(kind, head_only=True), problem(kind)
    assert whole.startswith(alone)
    assert read(alone, "HEAD")[1] == b""


def test_a_detail_gets_the_planes_names_of_settings() -> None:
    _, body = read(problem(FAULTS["bad_request"], detail="word: set {token_file} or {other_thing}, not {X} or {}"))
    assert json.loads(body)["detail"] == "word: set ROBIN_TOKEN_FILE or the other thing, not {X} or {}"


def test_a_refused_method_is_told_which_are_not() -> None:
    head, _ = read(problem(FAULTS["method_refused"]))
    assert dict(head.headers)[b"allow"] == ALLOW


def test_a_hostile_detail_stays_inside_the_body() -> None:
    head, body = read(problem(FAULTS["bad_request"], detail='"\r\nX-Evil: 1\r\n\r\n\u2028\x1b[31m'))
    assert b"x-evil" not in dict(head.headers)
    assert b"\r" not in body
    assert b"\x1b" not in body


@pytest.mark.parametrize("close", [True, False])
def test_options_are_answered_by_ourselves_without_a_body(close: bool) -> None:
    head, body = read(
        render_local_response(LocalResponse(status=204, fields=b"Allow: " + ALLOW + b"\r\n"), close=close, head_only=False), "OPTIONS"
    )
    fields = dict(head.headers)
    assert (head.status_code, body, fields[b"allow"]) == (204, b"", ALLOW)
    assert (b"connection" in fields) is close
