"""What the Workload API is asked, which identity of its reply is taken, and what each gRPC code means (N1, N2, N6)."""

import pytest

from robin.identity.source import FailureClass, RawIdentity, SourceFailure
from robin.identity.sources.jwtsvid import JwtSvidSource
from robin.model.secret import Secret
from robin.wire.grpc import CODES, GrpcResponse
from robin.wire.jwt_inspection import TokenRefused, fingerprint
from robin.wire.workload_api import JwtSvid, JwtSvidRequest, parse_request, render_reply

APP, DB = "spiffe://example.org/app", "spiffe://example.org/db"


class RecordingChannel:
    """Answers each call with what it was told."""

    def __init__(self, answer: GrpcResponse) -> None:
        self.answer = answer
        self.calls: list[tuple[str, tuple[tuple[bytes, bytes], ...], JwtSvidRequest, float]] = []

    async def call(self, path: str, metadata: tuple[tuple[bytes, bytes], ...], message: bytes, *, timeout_s: float) -> GrpcResponse:
        self.calls.append((path, metadata, parse_request(message), timeout_s))
        return self.answer


def reply(*svids: tuple[str, bytes, str]) -> GrpcResponse:
    made = tuple(JwtSvid(spiffe_id=spiffe_id, svid=Secret(token), hint=hint) for spiffe_id, token, hint in svids)
    return GrpcResponse(code="OK", body=Secret(render_reply(made)))


async def fetch(answer: GrpcResponse, *, spiffe_id: str | None = None, hint: str | None = None) -> RawIdentity:
    return await JwtSvidSource(RecordingChannel(answer), spiffe_id=spiffe_id, hint=hint, timeout_s=3).fetch("aud")


def chosen(raw: RawIdentity) -> tuple[str | None, bytes, bool]:
    return raw.issued_to, fingerprint(raw.text), bool(raw.warning)


def expected(spiffe_id: str, token: bytes, *, warned: bool = False) -> tuple[str | None, bytes, bool]:
    return spiffe_id, fingerprint(Secret(token)), warned


async def test_a_call_carries_the_security_metadata_and_exactly_one_audience() -> None:
    channel = RecordingChannel(reply((APP, b"t", "")))
    await JwtSvidSource(channel, spiffe_id=None, hint="x" if False else None, timeout_s=3).fetch("https://broker.example, with comma")
    (path, metadata, request, timeout_s), *rest = channel.calls
    assert path == "/SpiffeWorkloadAPI/FetchJWTSVID"
    assert metadata == ((b"workload.spiffe.io", b"true"),)
    assert request == JwtSvidRequest(audiences=("https://broker.example, with comma",), spiffe_id="")
    assert timeout_s == 3
    assert rest == []


async def test_a_wanted_spiffe_id_is_asked_for() -> None:
    channel = RecordingChannel(reply((APP, b"t", "")))
    await JwtSvidSource(channel, spiffe_id=APP, hint=None, timeout_s=3).fetch("aud")
    assert channel.calls[0][2].spiffe_id == APP


THREE = reply((APP, b"one", "internal"), (DB, b"two", "external"), (APP, b"three", "external"))


async def test_of_several_identities_the_first_is_taken_with_a_warning() -> None:
    assert chosen(await fetch(THREE)) == expected(APP, b"one", warned=True)
    assert chosen(await fetch(reply((DB, b"two", "")))) == expected(DB, b"two")


async def test_id_and_hint_choose_and_both_must_match() -> None:
    assert chosen(await fetch(THREE, spiffe_id=DB)) == expected(DB, b"two")
    assert chosen(await fetch(THREE, hint="internal")) == expected(APP, b"one")
    assert chosen(await fetch(THREE, spiffe_id=APP, hint="external")) == expected(APP, b"three")


async def test_of_two_identities_with_one_hint_the_first_is_taken() -> None:
    assert chosen(await fetch(THREE, hint="external")) == expected(DB, b"two")


@pytest.mark.parametrize(
    ("answer", "selectors", "code", "reason"),
    [
        (reply(), {}, "identity_unavailable", "empty_reply"),
        (reply((APP, b"", "")), {}, "identity_malformed", "empty_field"),
        (reply(("", b"t", "")), {}, "identity_malformed", "empty_field"),
        (reply((APP, b"t", ""), (DB, b"", "")), {"spiffe_id": APP}, "identity_malformed", "empty_field"),
        (THREE, {"spiffe_id": DB, "hint": "internal"}, "identity_unavailable", "no_match"),
        (THREE, {"hint": "none"}, "identity_unavailable", "no_match"),
        (GrpcResponse(code="OK", body=Secret(b"\xff")), {}, "identity_malformed", "bad_reply"),
    ],
)
async def test_a_reply_that_cannot_be_used_is_discarded_whole(
    answer: GrpcResponse, selectors: dict[str, str], code: str, reason: str
) -> None:
    with pytest.raises(TokenRefused) as refused:
        await fetch(answer, **selectors)
    assert (refused.value.code, refused.value.reason) == (code, reason)


@pytest.mark.parametrize("code", [code for code in CODES if code != "OK"])
async def test_each_grpc_code_has_its_outlook(code: str) -> None:
    with pytest.raises(SourceFailure) as raised:
        await fetch(GrpcResponse(code=code, text="what the agent said"))
    failure = raised.value
    assert failure.label == code
    assert "what the agent said" in failure.detail
    assert failure.detail.partition(":")[0].replace("_", "") == code.lower()
    if code in {"InvalidArgument", "Unimplemented"}:
        assert (failure.failure_class, failure.fault) == (FailureClass.REFUSED, "identity_refused")
    elif code == "PermissionDenied":
        assert (failure.failure_class, failure.fault) == (FailureClass.DENIED, "identity_unavailable")
    else:
        assert (failure.failure_class, failure.fault) == (FailureClass.RETRY, "identity_unavailable")
