"""The nouns of the corpus: raw bytes, and the verdict that the specification (never the code) gives them.

A verdict says what the caller must get and what the upstream must see. Where Robin makes a field itself (Host, Authorization, Via,
framing) the judge checks it by rule for every forwarded message, so a case lists only the caller's own end-to-end fields.
"""

from dataclasses import dataclass, field

Fields = tuple[tuple[bytes, bytes], ...]

# Section 7 of the sidecar spec, typed in from its table: code -> (status, Proxy-Status error, source, does C's connection close).
FAULT_TABLE: dict[str, tuple[int, str, str, bool]] = {
    "bad_request": (400, "http_request_error", "downstream", True),
    "request_timeout": (408, "http_request_error", "downstream", True),
    "target_too_long": (414, "http_request_error", "downstream", True),
    "limit_body": (413, "http_request_error", "downstream", True),
    "expectation_failed": (417, "http_request_error", "downstream", True),
    "head_too_large": (431, "http_request_error", "downstream", True),
    "method_refused": (405, "http_request_error", "downstream", True),
    "method_unknown": (501, "http_request_error", "downstream", True),
    "version_not_supported": (505, "http_request_error", "downstream", True),
    "host_not_allowed": (421, "http_request_denied", "policy", False),
    "origin_refused": (403, "http_request_denied", "policy", False),
    "required_header_missing": (403, "http_request_denied", "policy", False),
    "peer_denied": (403, "http_request_denied", "policy", True),
    "loop": (502, "proxy_loop_detected", "policy", False),
    "identity_unavailable": (503, "proxy_internal_error", "identity", False),
    "identity_expired": (503, "proxy_internal_error", "identity", False),
    "identity_malformed": (503, "proxy_internal_error", "identity", False),
    "identity_not_yet_valid": (503, "proxy_internal_error", "identity", False),
    "audience_mismatch": (503, "proxy_configuration_error", "identity", False),
    "identity_refused": (503, "proxy_configuration_error", "identity", False),
    "dns_failed": (502, "dns_error", "upstream", False),
    "dns_timeout": (504, "dns_timeout", "upstream", False),
    "connect_refused": (502, "connection_refused", "upstream", False),
    "connect_timeout": (504, "connection_timeout", "upstream", False),
    "unroutable": (502, "destination_ip_unroutable", "upstream", False),
    "upstream_certificate": (502, "tls_certificate_error", "upstream", False),
    "upstream_tls": (502, "tls_protocol_error", "upstream", False),
    "response_timeout": (504, "http_response_timeout", "upstream", False),
    "upstream_closed": (502, "http_response_incomplete", "upstream", False),
    "upstream_protocol": (502, "http_protocol_error", "upstream", False),
    "upgrade_failed": (502, "http_upgrade_failed", "upstream", False),
    "limit_connections": (503, "connection_limit_reached", "local", False),
    "draining": (503, "destination_unavailable", "local", True),
    "internal_error": (500, "proxy_internal_error", "local", False),
}
ALLOW = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Robin answers itself. `word` is the reason word that opens `detail`, where the spec fixes one.

    `begun`: the fault lies in the body, so U may have seen the beginning of the message, but never a whole one. Otherwise U sees 0 bytes.
    `may_close`: C was still sending a body, so Robin may end the connection even where the code alone does not.
    """

    code: str
    word: str = ""
    begun: bool = False
    may_close: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """U sees exactly this message once, and C gets U's answer. `fields` and `trailers` in order, exact in case and bytes."""

    method: bytes = b"GET"
    target: bytes = b"/"
    fields: Fields = ()
    body: bytes = b""
    length: bytes | None = None
    chunked: bool = False
    trailers: Fields = ()
    via: bytes = b""
    closes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Robin answers 204 with `Allow` itself; U sees nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """C leaves before its message is whole: U sees its beginning at most, and an abort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Either:
    """The spec leaves the choice open; each of these is safe, anything else is a defect."""

    verdicts: tuple["Refused | Forwarded | Answered", ...]


Verdict = Refused | Forwarded | Answered | Cut | Either


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCase:
    """`raw` is sent on one fresh connection; the answers must be `verdicts`, in order. `base`: the base path of the upstream URL."""

    id: str
    item: str
    raw: bytes
    verdicts: tuple[Verdict, ...]
    base: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """C gets this final response. `framing` is how the body is delimited towards an HTTP/1.1 caller: none, length, chunked or close.

    `interim`: the status codes of the 1xx responses that must come first. `again`: C's connection serves the next request.
    """

    status: int = 200
    reason: bytes = b"OK"
    fields: Fields = ()
    body: bytes = b""
    framing: str = "length"
    length: bytes | None = None
    trailers: Fields = ()
    interim: tuple[int, ...] = ()
    again: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Faulty:
    """C gets Robin's own answer with this code, and the upstream connection is never used again."""

    code: str = "upstream_protocol"
    interim: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """C sees this head and at most this body, then its connection ends without a proper end of message."""

    status: int = 200
    body: bytes = b""


ResponseVerdict = Relayed | Faulty | Aborted


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseCase:
    """`raw` is what U sends once it has read the request; then `then`: `keep` the connection, `close` it or `reset` it.

    `reusable`: whether Robin puts its next request on the same upstream connection (None: either way).
    Several verdicts: each is safe.
    """

    id: str
    item: str
    raw: bytes
    verdict: ResponseVerdict | tuple[ResponseVerdict, ...]
    method: bytes = b"GET"
    version: bytes = b"HTTP/1.1"
    asks: Fields = field(default=())
    then: str = "keep"
    reusable: bool | None = False
