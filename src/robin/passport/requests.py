"""What the middleware of both kinds does with a request: judge what the server made of it, and take off what only Robin may say."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from robin.model.passport import TRANSCRIPT, ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.planes.broker.responses import OURS, passport_values, refusal_body, refusal_lines, status_of
from robin.planes.broker.verifier import Verification
from robin.policy.passport_proof import HTTPSIG_FIELDS
from robin.policy.passport_verify import Findings
from robin.wire.forwarding import HOP_BY_HOP
from robin.wire.transcript import guard_target

_HOP_BY_HOP: Final = frozenset(name.decode("ascii") for name in HOP_BY_HOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPassport:
    """Who sent a request, as its passport says: for the application, in the state of a scope or in the environ.

    `signer_class`, `identity` and `key_protection` say how sure that is. `content_digest` is empty but for a route with `body: asserted`.
    """

    subject: str
    issuer: str
    trust_domain: str
    jti: str
    route_id: str
    profile: str
    signer_class: str
    identity: str
    key_protection: str
    content_digest: str


def verified(found: Findings) -> tuple[VerifiedPassport, dict[str, str]]:
    """What the application gets of an accepted request: a value, and header fields as the inbound verifier sends them."""
    values = passport_values(found)
    members = {name.removeprefix("Robin-Passport-").lower().replace("-", "_"): value for name, value in values.items()}
    return VerifiedPassport(**members), {name: value for name, value in values.items() if value}


def is_stripped(name: str, profile: str | None) -> bool:
    """Whether a field never reaches the application: a credential, or a claim that only Robin may make; `_` counts as `-`."""
    name = name.lower().replace("_", "-")
    return name in HTTPSIG_FIELDS or name.startswith(OURS) or (profile == TRANSCRIPT and name == "authorization")


def find_ambiguity(request: ReceivedRequest) -> str | None:
    """A detail of `transcript_ambiguous`, for what the inbound verifier refuses as well; None: there is none."""
    if "://" in request.target and not request.target.startswith("/"):
        return "absolute_form"
    options = {option.strip(" \t").lower() for value in request.values("connection") for option in value.split(",")}
    if "upgrade" in options and any(value.lower() != "h2c" for value in request.values("upgrade")):
        return "upgrade"
    return "connection_option" if any(name in options - _HOP_BY_HOP for name, _ in request.fields) else None


def check_target(request: ReceivedRequest, path: bytes) -> None:
    """The application must be called for the path that was verified: `path` is what the server decoded. Raises Refused.

    A server or another middleware that changed the path after it was received would make the judgement one about another request.
    """
    if guard_target(request.target) is None and unquote_to_bytes(request.path) != path:
        raise Refused("raw_target_unavailable", "path")


def refusal(one: Verification, refused: Refused) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, header fields and body of a refusal."""
    status, lines = status_of(refused.reason, one.found.profile, one.found.route)
    body = refusal_body(refused.reason, status, one.request_id)
    fields = [line.partition(": ") for line in refusal_lines(lines, body).decode("ascii").split("\r\n") if line]
    return status, [(name, value) for name, _, value in fields], b"" if one.request.method == "HEAD" else body
