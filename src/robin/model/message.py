"""HTTP/1.1 heads as facts: what was sent, with the framing decided once (RFC 9112).

Heads are built by `wire.http1` alone and never change afterwards: one that repeats is shared by all the requests that repeat it.
They are not dataclasses, because freezing one costs more than parsing it.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from robin.model.secret import Secret

_CANONICAL: Final = bytes(byte + 32 if 65 <= byte <= 90 else (0x2D if byte == 0x5F else byte) for byte in range(256))


def canonical_name(name: bytes) -> bytes:
    """The form in which field names are compared: lower case, `_` as `-`, since many servers cannot distinguish the two."""
    return name.translate(_CANONICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredField:
    """A field that must be on every request. `name` is canonical; `value` None: any value will do."""

    name: bytes
    value: bytes | None = field(repr=False)  # a shared secret in effect


class Framing:
    """How the body of one message is delimited. Plain numbers: an enum costs 150 ns a look on CPython 3.11."""

    NONE: Final = 0  # no body and no length announced
    LENGTH: Final = 1  # Content-Length
    CHUNKED: Final = 2  # Transfer-Encoding: chunked
    CLOSE: Final = 3  # until the connection closes (responses only)


class _Head:
    """What requests and responses share.

    `names` are the canonical field names in order, `field_values` the values, without outer spaces and tabs. `connection_options` are
    the canonical names that Connection lists. `keep_alive`: the connection can be used again,
    as far as the head decides.
    """

    __slots__ = ("connection_options", "field_values", "framing", "keep_alive", "length", "names", "upgrade")

    names: tuple[bytes, ...]
    field_values: tuple[bytes, ...]
    connection_options: frozenset[bytes]
    framing: int
    length: int
    keep_alive: bool
    upgrade: bytes | None

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field of that canonical name, in order."""
        return [value for other, value in zip(self.names, self.field_values, strict=True) if other == name]


class RequestHead(_Head):
    """One request head.

    `target` is origin-form, `*`, or for CONNECT the authority; `path` is the target without its query, all of it that may be recorded.
    `host` is the value of Host; `target_scheme` and `target_authority` are those of an absolute-form target (of CONNECT the authority
    only), else None. `upgrade` is the protocol asked for, in lower case, if one is and the request could switch: HTTP/1.1, without a body.
    `judged` is kept by a policy for when the head repeats on its connection: what stands for the policy, the caller, and the verdict.
    `origin` and `fetch_site` count as foreign if repeated; `via` joins all lines. `length` is 0 if none is announced.
    """

    __slots__ = (
        "accepts_trailers",
        "expects_continue",
        "fetch_site",
        "host",
        "judged",
        "max_forwards",
        "method",
        "minor",
        "origin",
        "path",
        "target",
        "target_authority",
        "target_scheme",
        "traceparent",
        "via",
    )

    method: str
    minor: int
    target: bytes
    path: bytes
    host: bytes
    target_scheme: bytes | None
    target_authority: bytes | None
    expects_continue: bool
    accepts_trailers: bool
    origin: bytes | None
    fetch_site: bytes | None
    via: bytes | None
    max_forwards: bytes | None
    traceparent: bytes | None
    judged: tuple[object, object, object] | None

    @property
    def websocket_key(self) -> bytes | None:
        """Sec-WebSocket-Key."""
        return next(reversed(self.values(b"sec-websocket-key")), None)


class ResponseHead(_Head):
    """One response head.

    `length` is what Content-Length announced, -1 where absent; with framing NONE (HEAD, 304) it is only carried. `upgrade` is the
    protocol of a 101, in lower case. `idle_s` is the announced `Keep-Alive: timeout=N` in seconds, None if there is none.
    """

    __slots__ = ("idle_s", "reason", "status")

    status: int
    reason: bytes
    idle_s: int | None

    @property
    def websocket_accept(self) -> bytes | None:
        """Sec-WebSocket-Accept of a 101."""
        return next(reversed(self.values(b"sec-websocket-accept")), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBody:
    """A whole request body. `sha256` is its digest, 32 bytes."""

    octets: bytes
    sha256: bytes


class OutboundRequest(NamedTuple):
    """The head of a request to an upstream, all but rendered, so that a signer can see it and append fields as the last step.

    `target` includes the base path. `start` is the request line, Host and the caller's fields, `end` the fields of our own and the empty
    line; between them come the `secrets`, each one whole line `Name: value CRLF`.
    """

    method: str
    target: bytes
    authority: bytes
    start: bytes
    secrets: tuple[Secret, ...]
    end: bytes

    def with_fields(self, *secrets: Secret) -> "OutboundRequest":
        """The same with more fields, each one whole line."""
        return self._replace(secrets=self.secrets + secrets)
