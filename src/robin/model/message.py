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

    def __init__(
        self, *, name: bytes, folded: bytes, value: bytes, line: bytes, role: int, meaning: Any, goes_up: bool, goes_down: bool
    ) -> None:
        self.name = name
        self.folded = folded
        self.value = value
        self.line = line
        self.role = role
        self.meaning = meaning
        self.goes_up = goes_up
        self.goes_down = goes_down


class Framing:
    """How the body of one message is delimited on the wire. Plain numbers: an enum costs 150 ns a look on CPython 3.11."""

    NONE: Final = 0  # no body and no length said
    LENGTH: Final = 1  # Content-Length
    CHUNKED: Final = 2  # Transfer-Encoding: chunked
    CLOSE: Final = 3  # until the connection closes (responses only)


class RequestHead:
    """One request head, parsed and judged by `wire.http1`; unchanged from then on.

    `target` is origin-form or `*`; `path` is it without its query, all that may be recorded of it. `host` is the valid Host value (the
    authority of an absolute-form target replaces it). `hop` holds the folded names that Connection listed, the framing names excepted.
    `upgrade` is the one protocol asked for, folded, where the request may be upgraded at all (GET, HTTP/1.1, Connection: upgrade, no body).
    """

    # Defaults stand on the class: most requests change few of them.
    path = b""
    framing: int = Framing.NONE
    length = 0
    host = b""
    hop: frozenset[bytes] = frozenset()
    expects_continue = False
    te_trailers = False
    upgrade: bytes | None = None
    origin: bytes | None = None
    fetch_site: bytes | None = None
    via: bytes | None = None
    max_forwards: bytes | None = None
    traceparent: bytes | None = None
    websocket_key: bytes | None = None
    forwarded: tuple[Permit, object, bytes, bytes] | None = None  # kept by `wire.forwarding`; holds no credential

    def __init__(self, method: str, target: bytes, minor: int, fields: list[Field]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = fields
        self.keep_alive = minor == 1


class ResponseHead:
    """One response head.

    `length` is what Content-Length announced, -1 where absent; with framing NONE (HEAD, 304) it is only carried. `idle_s` is the announced
    `Keep-Alive: timeout=N` in seconds, None where it says nothing. `upgrade` is the protocol of a 101, folded.
    """

    framing: int = Framing.NONE
    length = -1
    hop: frozenset[bytes] = frozenset()
    idle_s: int | None = None
    upgrade: bytes | None = None
    websocket_accept: bytes | None = None
    forwarded: tuple[tuple[int, bool, bool], bytes] | None = None  # kept by `wire.forwarding`

    def __init__(self, status: int, reason: bytes, minor: int, fields: list[Field]) -> None:
        self.status = status
        self.reason = reason
        self.minor = minor
        self.fields = fields
        self.keep_alive = minor == 1
