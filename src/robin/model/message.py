"""HTTP/1.1 heads as values: what was said, with the framing decided once and for all (RFC 9112)."""

from typing import Any, Final

from robin.model.verdict import Permit


class Field:
    """One field line.

    `name` as sent; `folded` in lower case with `_` as `-`, the form in which names are compared; `value` without outer SP and HTAB;
    `line` as it goes on, with its CRLF; `role` and `meaning` are what `wire.fields` makes of name and value; `goes_up`, `goes_down`:
    whether it may travel to the origin, to the caller, as far as its name alone decides.
    """

    __slots__ = ("folded", "goes_down", "goes_up", "line", "meaning", "name", "role", "value")

    def __init__(self, name: bytes, folded: bytes, value: bytes, role: int) -> None:
        self.name = name
        self.folded = folded
        self.value = value
        self.role = role
        self.meaning: Any = None
        self.line = b""
        self.goes_up = True
        self.goes_down = True


class Framing:
    """How the body of one message is delimited on the wire. Plain numbers: an enum costs 150 ns a look on CPython 3.11."""

    NONE: Final = 0  # no body and no length said
    LENGTH: Final = 1  # Content-Length
    CHUNKED: Final = 2  # Transfer-Encoding: chunked
    CLOSE: Final = 3  # until the connection closes (responses only)


class RequestHead:
    """One request head, parsed and judged by `wire.http1`; not frozen, for speed, and shared by all requests that repeat it.

    Two things are set later: `upgrade` becomes None where this Robin does not switch to it, and `forwarded` is a memo.

    `target` is origin-form or `*`; `path` is it without its query, all that may be recorded of it. `host` is the valid Host value (the
    authority of an absolute-form target replaces it). `hop` holds the folded names that Connection listed, the framing names excepted.
    `upgrade` is the one protocol asked for, folded, where the request may be upgraded at all (GET, HTTP/1.1, Connection: upgrade, no body).
    """

    __slots__ = (
        "expects_continue",
        "fetch_site",
        "fields",
        "forwarded",
        "framing",
        "hop",
        "host",
        "keep_alive",
        "length",
        "max_forwards",
        "method",
        "minor",
        "origin",
        "path",
        "target",
        "te_trailers",
        "traceparent",
        "upgrade",
        "via",
        "websocket_key",
    )

    def __init__(self, method: str, target: bytes, minor: int, fields: list[Field]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = fields
        self.keep_alive = minor == 1
        self.path = b""
        self.framing: int = Framing.NONE
        self.length = 0
        self.host = b""
        self.hop: frozenset[bytes] = frozenset()
        self.expects_continue = False
        self.te_trailers = False
        self.upgrade: bytes | None = None
        self.origin: bytes | None = None
        self.fetch_site: bytes | None = None
        self.via: bytes | None = None
        self.max_forwards: bytes | None = None
        self.traceparent: bytes | None = None
        self.websocket_key: bytes | None = None
        self.forwarded: tuple[Permit, object, bytes, bytes] | None = None  # kept by `wire.forwarding`; holds no credential


class ResponseHead:
    """One response head.

    `length` is what Content-Length announced, -1 where absent; with framing NONE (HEAD, 304) it is only carried. `idle_s` is the announced
    `Keep-Alive: timeout=N` in seconds, None where it says nothing. `upgrade` is the protocol of a 101, folded.
    """

    __slots__ = (
        "fields",
        "forwarded",
        "framing",
        "hop",
        "idle_s",
        "keep_alive",
        "length",
        "minor",
        "reason",
        "status",
        "upgrade",
        "websocket_accept",
    )

    def __init__(self, status: int, reason: bytes, minor: int, fields: list[Field]) -> None:
        self.status = status
        self.reason = reason
        self.minor = minor
        self.fields = fields
        self.keep_alive = minor == 1
        self.framing: int = Framing.NONE
        self.length = -1
        self.hop: frozenset[bytes] = frozenset()
        self.idle_s: int | None = None
        self.upgrade: bytes | None = None
        self.websocket_accept: bytes | None = None
        self.forwarded: tuple[tuple[int, bool, bool], bytes] | None = None  # kept by `wire.forwarding`
