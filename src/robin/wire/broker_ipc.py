"""The broker's protocol: one JSON object and LF each way, in two envelopes, both strict (docs/reference/passports.md).

Parsing never guesses: an unknown, missing or wrongly typed member is `ipc_malformed`. No reply holds a byte of the request but its
`request_id`, so that a bearer among the fields cannot come back.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NoReturn

from robin.model.passport import CTX_NAMES, IDENTITY, KEY_PROTECTION, PROFILES, SIGNER_CLASSES, TRANSCRIPT, Axes
from robin.model.passport_reasons import Refused
from robin.wire.transcript import NORMALIZATION, hash_value, is_digest, normalize_query

PUBLIC: Final = "trustplane-broker-ipc-v1"
OWN: Final = "robin-broker-ipc-v1"
LINE_BYTES: Final = 65536
_DEPTH: Final = 8
_NAMES_MAX: Final = 32
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_NONCE: Final = re.compile(r"[\x21-\x7e]{8,128}")
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")

Document = Mapping[str, object]


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
    inconsistent: str = ""  # what contradicts what, judged after the peer and the route


class Reader:
    """What can be read of a request, for the reply: `version` decides its form, `request_id` is empty where unreadable."""

    __slots__ = ("request_id", "version")

    def __init__(self) -> None:
        self.version = OWN
        self.request_id = ""

    def parse(self, line: bytes) -> IssueRequest:
        """One request without its LF. Raises Refused: ipc_malformed, ipc_version_unsupported, ipc_operation_unsupported."""
        envelope = _parse_line(line)
        version = envelope.get("version")
        request = envelope.get("request")
        if version in (PUBLIC, OWN):
            self.version = str(version)
        elif isinstance(version, str):
            raise Refused("ipc_version_unsupported", extra={"supported": [PUBLIC, OWN]})
        if isinstance(request, dict) and isinstance(request.get("request_id"), str) and _ID.fullmatch(request["request_id"]):
            self.request_id = request["request_id"]
        if envelope.keys() != {"version", "kind", "request"} or not isinstance(version, str) or not isinstance(request, dict):
            _refuse_form("envelope")
        kind = envelope["kind"]
        if kind != ("broker_ipc_exchange" if version == PUBLIC else "issue"):
            raise Refused("ipc_operation_unsupported", "kind")
        return _parse_public(request) if version == PUBLIC else _parse_own(request)


def _parse_line(line: bytes) -> Document:
    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse_form("duplicate_member")
        return found

    try:
        document = json.loads(line.decode("utf-8"), object_pairs_hook=members, parse_float=_refuse_form, parse_constant=_refuse_form)
    except (ValueError, RecursionError):
        _refuse_form("not_json")
    if not isinstance(document, dict):
        _refuse_form("not_json")
    _check_depth(document, _DEPTH)
    return document


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            _refuse_form("depth")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


def _parse_public(request: Document) -> IssueRequest:
    _exactly(request, "request_id protocol operation http ctx key_binding")
    if request["protocol"] != "local-json-ipc" or request["operation"] != "issue_request_bound_passport":
        raise Refused("ipc_operation_unsupported", "operation")
    http = _mapping(request, "http")
    _exactly(http, "method scheme authority path content_encoding audience route_id body_sha256 nonce query headers")
    query = _mapping(http, "query")
    _exactly(query, "raw normalization normalized sha256")
    headers = _mapping(http, "headers")
    _exactly(headers, "allow_list selected")
    selected = []
    for one in _items(headers, "selected"):
        if not isinstance(one, dict):
            _refuse_form("selected")
        _exactly(one, "name value_sha256")
        selected.append((_name(one["name"]), _digest(one["value_sha256"])))
    allow_list = [_name(name) for name in _items(headers, "allow_list")]
    if len(allow_list) > _NAMES_MAX or query["normalization"] != NORMALIZATION:
        _refuse_form("headers")
    nonce, raw = _nonce(http["nonce"]), _text(query, "raw", empty=True)
    binding = _mapping(request, "key_binding")
    _exactly(binding, "intent requested_key_binding acceptable_key_bindings allow_software_fallback")
    requested, acceptable = binding["requested_key_binding"], _items(binding, "acceptable_key_bindings")
    classes = (requested, *acceptable)
    if binding["intent"] != "route_policy_minimum" or type(binding["allow_software_fallback"]) is not bool:
        _refuse_form("key_binding")
    if not all(isinstance(one, str) and one in SIGNER_CLASSES for one in classes):
        _refuse_form("key_binding")
    path = _text(http, "path")
    return IssueRequest(
        version=PUBLIC,
        request_id=_id(request["request_id"]),
        profile=TRANSCRIPT,
        method=_text(http, "method"),
        scheme=_text(http, "scheme"),
        authority=_text(http, "authority"),
        target=f"{path}?{raw}" if raw else path,
        content_encoding=_text(http, "content_encoding"),
        audience=_text(http, "audience"),
        route_id=_text(http, "route_id"),
        nonce=nonce,
        body_sha256=_digest(http["body_sha256"]),
        headers=tuple(selected),
        ctx=_parse_ctx(request),
        classes=tuple(str(one) for one in classes),
        software_fallback=bool(binding["allow_software_fallback"]),
        inconsistent=_inconsistent(query, raw, allow_list, selected, nonce),
    )


def _inconsistent(query: Document, raw: str, allow_list: list[str], selected: list[tuple[str, str]], nonce: str) -> str:
    normalized = normalize_query(raw)
    if query["normalized"] != normalized:
        return "normalized"
    if query["sha256"] != hash_value(normalized):
        return "query_sha256"
    if [name for name, _ in selected] != allow_list or allow_list != sorted(set(allow_list)):
        return "selected"
    return "nonce" if ("x-trustplane-nonce", hash_value(nonce)) not in selected else ""


def _parse_ctx(request: Document) -> Mapping[str, str]:
    ctx = _mapping(request, "ctx")
    _exactly(ctx, "selected_fields values")
    values = _values(_mapping(ctx, "values"))
    names = _items(ctx, "selected_fields")
    if not all(isinstance(name, str) for name in names) or sorted(map(str, names)) != sorted(values):
        _refuse_form("selected_fields")
    return values


def _parse_own(request: Document) -> IssueRequest:
    _exactly(request, "request_id profile http audience route_id nonce ctx signer svid_proof")
    if request["svid_proof"] is not None:
        raise Refused("ipc_operation_unsupported", "svid_proof")
    profile = request["profile"]
    if profile not in PROFILES:
        _refuse_form("profile")
    http = _mapping(request, "http")
    _exactly(http, "method scheme authority target fields body_sha256")
    fields = []
    for pair in _items(http, "fields"):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            _refuse_form("fields")
        fields.append((_name(pair[0].lower()), pair[1].strip(" \t")))
    if len(fields) > _NAMES_MAX:
        _refuse_form("fields")
    signer = _mapping(request, "signer")
    _exactly(signer, "identity key_protection")
    if signer["identity"] not in IDENTITY or signer["key_protection"] not in KEY_PROTECTION:
        _refuse_form("signer")
    codings = [value for name, value in fields if name == "content-encoding"]
    body = http["body_sha256"]
    nonce = request["nonce"]
    return IssueRequest(
        version=OWN,
        request_id=_id(request["request_id"]),
        profile=str(profile),
        method=_text(http, "method"),
        scheme=_text(http, "scheme"),
        authority=_text(http, "authority"),
        target=_text(http, "target"),
        content_encoding=codings[0] if profile == TRANSCRIPT and codings else "identity",
        audience=None if request["audience"] is None else _text(request, "audience"),
        route_id=None if request["route_id"] is None else _text(request, "route_id"),
        nonce=None if nonce is None else _nonce(nonce),
        body_sha256=None if body is None else _digest(body),
        headers=tuple((name, hash_value(value)) for name, value in fields),
        fields=tuple(fields),
        ctx=_values(_mapping(request, "ctx")),
        minimum=Axes(identity=str(signer["identity"]), key_protection=str(signer["key_protection"])),
    )


def _values(values: Document) -> Mapping[str, str]:
    if len(values) > 16 or not all(
        len(name) <= 64 and isinstance(value, str) and len(value) <= 256 and name in CTX_NAMES for name, value in values.items()
    ):
        _refuse_form("ctx")
    return {name: str(value) for name, value in values.items()}


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


# members


def _exactly(document: Document, names: str) -> None:
    if document.keys() != set(names.split()):
        _refuse_form("members")


def _mapping(document: Document, name: str) -> Document:
    value = document.get(name)
    if not isinstance(value, dict):
        _refuse_form(name)
    return value


def _items(document: Document, name: str) -> list[object]:
    value = document.get(name)
    if not isinstance(value, list) or len(value) > _NAMES_MAX:
        _refuse_form(name)
    return value


def _text(document: Document, name: str, *, empty: bool = False) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not (value or empty):
        _refuse_form(name)
    return value


def _name(value: object) -> str:
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        _refuse_form("name")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not is_digest(value):
        _refuse_form("digest")
    return value


def _id(value: object) -> str:
    if not isinstance(value, str) or _ID.fullmatch(value) is None:
        _refuse_form("request_id")
    return value


def _nonce(value: object) -> str:
    if not isinstance(value, str) or _NONCE.fullmatch(value) is None:
        _refuse_form("nonce")
    return value


def _refuse_form(detail: str) -> NoReturn:
    raise Refused("ipc_malformed", detail if detail.isidentifier() else "fraction") from None


HTTPSIG_FIELDS: Final = ("content-type", "authorization", "txn-token")
"""Fields that a client may ask to be covered by profile wimse-httpsig, beside those of the route."""
