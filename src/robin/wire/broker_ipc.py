"""The broker's protocol: one JSON object and LF each way, in two envelopes, both strict (docs/reference/passports.md).

Parsing never guesses: an unknown, missing or wrongly typed member is `ipc_malformed` (`wire.ipc_members`). No reply holds a byte of the
request but its `request_id`, so that a bearer among the fields cannot come back.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from robin.model.passport import IDENTITY, KEY_PROTECTION, PROFILES, SIGNER_CLASSES, TRANSCRIPT, Axes
from robin.model.passport_reasons import Refused
from robin.wire.compact_jws import decode_base64url
from robin.wire.ipc_members import Members, is_id, refuse_line
from robin.wire.strict_json import refuse_half_surrogates
from robin.wire.transcript import NORMALIZATION, hash_value, normalize_query

PUBLIC: Final = "trustplane-broker-ipc-v1"
OWN: Final = "robin-broker-ipc-v1"
LINE_BYTES: Final = 65536
SVID_ALGORITHMS: Final = ("ES256", "ES384", "PS256")
_DEPTH: Final = 8
_CHAIN_MAX: Final = 5

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidProof:
    """What a caller shows of its SVID: certificates in DER, leaf first, and a signature over the request and a challenge."""

    chain: tuple[bytes, ...]
    challenge: str
    alg: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRequest:
    """A request for a passport, of either envelope.

    `headers`: lower-case name and hex hash of its value; `fields`: name and value, of the own envelope only. `classes`: the signer classes
    that are taken, best first (public); `minimum`: the least on both axes (own). `body_sha256` None: no body.
    """

    version: str
    request_id: str
    profile: str
    method: str
    scheme: str
    authority: str
    target: str
    content_encoding: str
    audience: str | None
    route_id: str | None
    nonce: str | None
    body_sha256: str | None
    headers: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, str], ...] = ()
    ctx: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    software_fallback: bool = False
    minimum: Axes = field(default_factory=Axes)
    svid_proof: SvidProof | None = None
    inconsistent: str = ""  # what contradicts what, judged after the peer and the route


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest:
    """A request for a challenge that a caller signs with the key of its SVID."""

    request_id: str


class Reader:
    """What can be read of a request, for the reply: `version` decides its form, `request_id` is empty where unreadable."""

    __slots__ = ("request_id", "version")

    def __init__(self) -> None:
        self.version = OWN
        self.request_id = ""

    def parse(self, line: bytes) -> IssueRequest | ChallengeRequest:
        """One request without its LF. Raises Refused: ipc_malformed, ipc_version_unsupported, ipc_operation_unsupported."""
        document = _parse_line(line)
        version = document.get("version")
        request = document.get("request")
        if version in (PUBLIC, OWN):
            self.version = str(version)
        elif isinstance(version, str):
            raise Refused("ipc_version_unsupported", extra={"supported": [PUBLIC, OWN]})
        if isinstance(request, dict) and is_id(request.get("request_id")):
            self.request_id = request["request_id"]
        envelope = Members(document, "version kind request", "envelope")
        envelope.text("version")
        if not isinstance(request, dict):
            envelope.refuse("request", "an object")
        if version == OWN and envelope["kind"] == "challenge":
            return ChallengeRequest(request_id=Members(request, "request_id", "request").request_id("request_id"))
        if envelope["kind"] != ("broker_ipc_exchange" if version == PUBLIC else "issue"):
            raise Refused("ipc_operation_unsupported", "kind")
        return _parse_public(request) if version == PUBLIC else _parse_own(request)


def _parse_line(line: bytes) -> Document:
    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            refuse_line("duplicate_member")
        return found

    def fraction(_: str) -> NoReturn:
        refuse_line("fraction")

    try:
        document = json.loads(line.decode("utf-8"), object_pairs_hook=members, parse_float=fraction, parse_constant=fraction)
    except (ValueError, RecursionError):
        refuse_line("not_json")
    if not isinstance(document, dict):
        refuse_line("not_json")
    _check_depth(document, _DEPTH)
    try:
        refuse_half_surrogates(document, line)
    except UnicodeEncodeError:
        refuse_line("half_surrogate")
    return document


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            refuse_line("depth")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


def _parse_public(document: Document) -> IssueRequest:
    request = Members(document, "request_id protocol operation http ctx key_binding", "request")
    if request["protocol"] != "local-json-ipc" or request["operation"] != "issue_request_bound_passport":
        raise Refused("ipc_operation_unsupported", "operation")
    http = request.nested("http", "method scheme authority path content_encoding audience route_id body_sha256 nonce query headers")
    query = http.nested("query", "raw normalization normalized sha256")
    headers = http.nested("headers", "allow_list selected")
    selected, allow_list = headers.hashed("selected"), headers.names("allow_list")
    query.word("normalization", NORMALIZATION)
    nonce, raw = http.nonce("nonce"), query.text("raw", empty=True)
    binding = request.nested("key_binding", "intent requested_key_binding acceptable_key_bindings allow_software_fallback")
    binding.word("intent", "route_policy_minimum")
    classes = [binding.word("requested_key_binding", *SIGNER_CLASSES), *map(str, binding.items("acceptable_key_bindings"))]
    if not all(one in SIGNER_CLASSES for one in classes):
        binding.refuse("acceptable_key_bindings", f"a list of: {', '.join(SIGNER_CLASSES)}")
    path = http.text("path")
    return IssueRequest(
        version=PUBLIC,
        request_id=request.request_id("request_id"),
        profile=TRANSCRIPT,
        method=http.text("method"),
        scheme=http.text("scheme"),
        authority=http.text("authority"),
        target=f"{path}?{raw}" if raw else path,
        content_encoding=http.text("content_encoding"),
        audience=http.text("audience"),
        route_id=http.text("route_id"),
        nonce=nonce,
        body_sha256=http.digest("body_sha256"),
        headers=tuple(selected),
        ctx=_parse_ctx(request),
        classes=tuple(classes),
        software_fallback=binding.flag("allow_software_fallback"),
        inconsistent="path" if "?" in path else _inconsistent(query, raw, allow_list, selected, nonce),
    )


def _inconsistent(query: Members, raw: str, allow_list: list[str], selected: list[tuple[str, str]], nonce: str) -> str:
    normalized = normalize_query(raw)
    if query["normalized"] != normalized:
        return "normalized"
    if query["sha256"] != hash_value(normalized):
        return "query_sha256"
    if [name for name, _ in selected] != allow_list or allow_list != sorted(set(allow_list)):
        return "selected"
    return "nonce" if ("x-trustplane-nonce", hash_value(nonce)) not in selected else ""


def _parse_ctx(request: Members) -> Mapping[str, str]:
    ctx = request.nested("ctx", "selected_fields values")
    values = ctx.context("values")
    names = ctx.items("selected_fields")
    if not all(isinstance(name, str) for name in names) or sorted(map(str, names)) != sorted(values):
        ctx.refuse("selected_fields", "the names of values")
    return values


def _parse_own(document: Document) -> IssueRequest:
    request = Members(document, "request_id profile http audience route_id nonce ctx signer svid_proof", "request")
    profile = request.word("profile", *PROFILES)
    http = request.nested("http", "method scheme authority target fields body_sha256")
    fields = http.fields("fields")
    signer = request.nested("signer", "identity key_protection")
    codings = [value for name, value in fields if name == "content-encoding"]
    return IssueRequest(
        version=OWN,
        request_id=request.request_id("request_id"),
        profile=profile,
        method=http.text("method"),
        scheme=http.text("scheme"),
        authority=http.text("authority"),
        target=http.text("target"),
        content_encoding=codings[0] if profile == TRANSCRIPT and codings else "identity",
        audience=None if request["audience"] is None else request.text("audience"),
        route_id=None if request["route_id"] is None else request.text("route_id"),
        nonce=None if request["nonce"] is None else request.nonce("nonce"),
        body_sha256=None if http["body_sha256"] is None else http.digest("body_sha256"),
        headers=tuple((name, hash_value(value)) for name, value in fields),
        fields=tuple(fields),
        ctx=request.context("ctx"),
        minimum=Axes(identity=signer.word("identity", *IDENTITY), key_protection=signer.word("key_protection", *KEY_PROTECTION)),
        svid_proof=None if request["svid_proof"] is None else _parse_svid_proof(request),
    )


def _parse_svid_proof(request: Members) -> SvidProof:
    proof = request.nested("svid_proof", "chain challenge alg signature")
    chain = [_decode(one) for one in proof.items("chain")]
    ders = tuple(der for der in chain if der is not None)
    if not 1 <= len(ders) == len(chain) <= _CHAIN_MAX:
        proof.refuse("chain", f"a list of 1 to {_CHAIN_MAX} certificates: base64 of DER, leaf first")
    try:
        signature = decode_base64url(proof.text("signature"))
    except ValueError:
        proof.refuse("signature", "base64url without padding")
    return SvidProof(chain=ders, challenge=proof.nonce("challenge"), alg=proof.word("alg", *SVID_ALGORITHMS), signature=signature)


def _decode(text: object) -> bytes | None:
    """The bytes of a base64 text with its padding; None where it is no such text."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        return None


# replies


def render_allow_public(
    request: IssueRequest, *, issued_at: int, expires_at: int, passport: str, jti: str, proof: str, digest: str
) -> bytes:
    """The reply to a public request."""
    artifacts = {
        "passport": {"format": "compact-jws", "value": passport, "jti": jti},
        "stamp": {"format": "ed25519-transcript-v1", "value": proof, "transcript_sha256": digest},
    }
    return _line(
        {
            "request_id": request.request_id,
            "accepted": True,
            "status": "allow",
            "reason_code": "broker_passport_issued",
            "issued_at": issued_at,
            "expires_at": expires_at,
            "artifacts": artifacts,
            "error": None,
        }
    )


def render_allow_own(
    request: IssueRequest, *, issued_at: int, expires_at: int, jti: str, headers: list[tuple[str, str]], digest: str, signer: Document
) -> bytes:
    """The reply to a request of our own envelope."""
    return _line(
        {
            "request_id": request.request_id,
            "status": "allow",
            "reason": "broker_passport_issued",
            "issued_at": issued_at,
            "expires_at": expires_at,
            "jti": jti,
            "headers": [list(pair) for pair in headers],
            "base_sha256": digest,
            "signer": signer,
        }
    )


def render_challenge(request: ChallengeRequest, challenge: str, expires_at: int) -> bytes:
    """The reply to a request for a challenge."""
    allow = {"request_id": request.request_id, "status": "allow", "reason": "challenge_issued"}
    return _line({**allow, "challenge": challenge, "expires_at": expires_at})


def render_deny(reader: Reader, refused: Refused) -> bytes:
    """The reply to a request that is refused, in the form of its version."""
    reason = refused.reason
    error = {"code": reason.code, "message": reason.meaning, "retryable": reason.retryable, "details": refused.extra}
    if reader.version == OWN:
        return _line({"request_id": reader.request_id, "status": "deny", "reason": reason.code, "error": error})
    deny = {"accepted": False, "status": "deny", "reason_code": reason.code, "issued_at": 0, "expires_at": 0, "artifacts": None}
    return _line({"request_id": reader.request_id, **deny, "error": error})


def render_issue(request: Mapping[str, object], kind: str = "issue") -> bytes:
    """A request of our own envelope, for a client."""
    return _line({"version": OWN, "kind": kind, "request": dict(request)})


def _line(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


HTTPSIG_FIELDS: Final = ("content-type", "authorization", "txn-token")
"""Fields that a client may ask to be covered by profile wimse-httpsig, beside those of the route."""
