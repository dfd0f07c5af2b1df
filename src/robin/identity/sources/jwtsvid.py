"""A JWT-SVID from the SPIFFE Workload API: one unary `FetchJWTSVID`, one audience, one identity chosen from the reply.

The reply is discarded whole if any identity in it lacks its SPIFFE ID or its token, or if none fits the selectors; the checks of the token
itself (`wire.jwt_inspection`, with SVID_ALGORITHMS and SVID_TYPES) follow. Which failures are worth a further try is decided here, by gRPC
code.
"""

import re
from typing import Final, Protocol

from robin.identity.source import FailureClass, RawIdentity, SourceFailure
from robin.wire.grpc import GrpcResponse
from robin.wire.jwt_inspection import TokenRefused
from robin.wire.protobuf import BadMessage
from robin.wire.workload_api import (
    FETCH_JWT_SVID,
    SECURITY_METADATA,
    JwtSvid,
    JwtSvidRequest,
    parse_reply,
    render_request,
)

_FIXES: Final = {
    "PermissionDenied": "create a registration entry that selects this workload",
    "InvalidArgument": "check {audience}, {spiffe_id} and the agent's version, then send SIGHUP",
    "Unimplemented": "check that {spiffe_socket} is a Workload API that issues JWT-SVIDs, then send SIGHUP",
    "DeadlineExceeded": "check the agent and its server, or raise {svid_fetch_timeout}",
}
_FIX: Final = "start the agent, or correct {spiffe_socket}"
_FAILURE_CLASSES: Final = {
    "PermissionDenied": FailureClass.DENIED,
    "InvalidArgument": FailureClass.REFUSED,
    "Unimplemented": FailureClass.REFUSED,
}


class Channel(Protocol):
    """What carries a call; `transport.control.ControlChannel` is one."""

    async def call(self, path: str, metadata: tuple[tuple[bytes, bytes], ...], message: bytes, *, timeout_s: float) -> GrpcResponse:
        """Make one unary call within `timeout_s`, and return how it ended."""
        ...


class JwtSvidSource:
    """Asks one Workload API. `spiffe_id` and `hint` choose among several identities; both set: both must match."""

    __slots__ = ("_channel", "_hint", "_spiffe_id", "_timeout_s")

    def __init__(self, channel: Channel, *, spiffe_id: str | None, hint: str | None, timeout_s: float) -> None:
        self._channel = channel
        self._spiffe_id = spiffe_id
        self._hint = hint
        self._timeout_s = timeout_s

    async def fetch(self, audience: str | None) -> RawIdentity:
        """Return the token for `audience`. Raises SourceFailure, labelled by gRPC code; TokenRefused for a reply that is discarded."""
        assert audience is not None
        request = JwtSvidRequest(audiences=(audience,), spiffe_id=self._spiffe_id or "")
        answer = await self._channel.call(FETCH_JWT_SVID, (SECURITY_METADATA,), render_request(request), timeout_s=self._timeout_s)
        if answer.code != "OK":
            raise _failure(answer)
        try:
            svids = parse_reply(answer.body)
        except BadMessage:
            raise _discarded("identity_malformed", "bad_reply", "the reply of the Workload API cannot be read") from None
        return self._choose(svids)

    def _choose(self, svids: tuple[JwtSvid, ...]) -> RawIdentity:
        """Return the first identity that fits; of several with one hint, the first (SPIFFE Workload API section 6.2)."""
        if not svids:
            raise _discarded("identity_unavailable", "empty_reply", "the reply of the Workload API holds no identity")
        if any(not svid.spiffe_id or not len(svid.svid) for svid in svids):
            raise _discarded("identity_malformed", "empty_field", "the reply of the Workload API holds an empty field")
        for svid in svids:
            if self._spiffe_id in (None, svid.spiffe_id) and self._hint in (None, svid.hint):
                several = len(svids) > 1 and self._spiffe_id is None and self._hint is None
                warning = "several identities came and the first was taken; choose with {spiffe_id} or {svid_hint}"
                return RawIdentity(text=svid.svid, issued_to=svid.spiffe_id, warning=warning if several else "")
        raise _discarded("identity_unavailable", "no_match", "no identity of the reply fits", "correct {spiffe_id} and {svid_hint}")


def _failure(answer: GrpcResponse) -> SourceFailure:
    word = re.sub(r"(?<!^)(?=[A-Z])", "_", answer.code).lower()
    reported = f" ({answer.text})" if answer.text else ""
    failure_class = _FAILURE_CLASSES.get(answer.code, FailureClass.RETRY)
    return SourceFailure(
        answer.code,
        f"{word}: the Workload API gave no identity{reported}; {_FIXES.get(answer.code, _FIX)}",
        fault="identity_refused" if failure_class is FailureClass.REFUSED else "identity_unavailable",
        failure_class=failure_class,
    )


def _discarded(code: str, reason: str, text: str, fix: str = "check the agent that serves {spiffe_socket}") -> TokenRefused:
    return TokenRefused(code, reason, text, fix)
