"""HTTP/1.1 heads as values: what was said, with the framing decided once and for all (RFC 9112)."""

from dataclasses import dataclass
from typing import Any, Final

from robin.model.verdict import Permit


class Field:
    """One field line; or, where `shared`, every line of one name: those whose value means nothing to us or is read anew each time.

    `name` as sent; `folded` in lower case with `_` as `-`, the form in which names are compared; `value` without outer SP and HTAB;
    `line` as it goes on, with its CRLF; `role` and `meaning` are what `wire.fields` makes of name and value; `goes_up`, `goes_down`:
    whether it may travel to the origin, to the caller, as far as its name alone decides. A shared one has no value, line or meaning.
    `lasting`: it is remembered, and may be part of an outline that is.
    """

    __slots__ = ("folded", "goes_down", "goes_up", "lasting", "line", "meaning", "name", "role", "shared", "spare", "value")

    def __init__(self, name: bytes, folded: bytes, value: bytes, role: int) -> None:
        self.name = name
        self.folded = folded
        self.value = value
        self.role = role
        self.meaning: Any = None
        self.line = b""
        self.goes_up = True
        self.goes_down = True
        self.shared = False
        self.lasting = False
        self.spare = 0  # how many more lines of a shared one may be remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredField:
    """A field that must be on every request. `name` is folded; `value` None: any value will do."""

    name: bytes
    value: bytes | None


class Framing:
    """How the body of one message is delimited on the wire. Plain numbers: an enum costs 150 ns a look on CPython 3.11."""

    NONE: Final = 0  # no body and no length said
    LENGTH: Final = 1  # Content-Length
    CHUNKED: Final = 2  # Transfer-Encoding: chunked
    CLOSE: Final = 3  # until the connection closes (responses only)


class Outline:
    """What the fields of a head say together, whatever the values of shared ones are: one for all heads alike, made by `wire.outline`.

    `framing` as the fields alone decide; `length` is what Content-Length announced, -1: nothing, or it is to be read from a blank.
    `hop` holds the folded names that Connection listed, the framing names excepted. A blank is the value of a shared field; what ends in
    `_at` is the place of one among the blanks of a head, -1: there is none, and what the field says, if it is there, stands in the outline.
    `keep_alive`: whether the connection goes on, as far as the head decides. `form` is kept by `wire.forms`; `uses` counts heads read
    without one.
    """

    __slots__ = ("__weakref__", "fields", "form", "framing", "hop", "keep_alive", "length", "length_at", "minor", "uses")

    def __init__(self, fields: tuple[Field, ...], minor: int) -> None:
        self.fields = fields
        self.framing: int = Framing.NONE
        self.hop: frozenset[bytes] = frozenset()
        self.minor = minor
        self.keep_alive = minor == 1
        self.length: int = -1
        self.length_at = -1
        self.form: Any = None
        self.uses = 0


class RequestOutline(Outline):
    """Of requests. `upgrade` is what Upgrade said, folded, `upgrades` how often; `plan` is kept by `wire.forwarding`; the rest as on
    `RequestHead`.
    """

    __slots__ = (
        "expects_continue",
        "fetch_site",
        "host",
        "key_at",
        "max_forwards",
        "origin",
        "plan",
        "te_trailers",
        "trace_at",
        "traceparent",
        "upgrade",
        "upgrades",
        "via",
        "websocket_key",
    )

    def __init__(self, fields: tuple[Field, ...], minor: int) -> None:
        super().__init__(fields, minor)
        self.host = b""
        self.expects_continue = False
        self.te_trailers = False
        self.upgrade = b""
        self.upgrades = 0
        self.origin: bytes | None = None
        self.fetch_site: bytes | None = None
        self.via: bytes | None = None
        self.max_forwards: bytes | None = None
        self.traceparent: bytes | None = None
        self.trace_at = -1
        self.websocket_key: bytes | None = None
        self.key_at = -1
        self.plan: Any = None


class Layout:
    """How the blanks of a response head stand, which need not be values: `wire.forms` takes whole runs of lines for one.

    Content-Length and Keep-Alive say what is at `length_at` and `idle_at`, -1: nothing of it. `template % (status, reason, *blanks)` is
    what goes down but for the framing, None until `wire.forwarding` has made it.
    """

    __slots__ = ("idle_at", "length_at", "template")

    def __init__(self) -> None:
        self.idle_at = -1
        self.length_at = -1
        self.template: bytes | None = None


class ResponseOutline(Outline):
    """Of responses. `idle_s` as on `ResponseHead`, `layout` that of the values of shared fields."""

    __slots__ = ("accept_at", "idle_s", "layout", "upgrade", "websocket_accept")

    def __init__(self, fields: tuple[Field, ...], minor: int) -> None:
        super().__init__(fields, minor)
        self.idle_s: int | None = None
        self.layout = Layout()
        self.upgrade: bytes | None = None
        self.websocket_accept: bytes | None = None
        self.accept_at = -1


class RequestHead:
    """One request head, parsed and judged by `wire.http1`; not frozen, for speed, and shared by all requests that repeat it.

    Two things are set later: `upgrade` becomes None where this Robin does not switch to it, and `forwarded` is a memo.

    `outline` is what the fields say together, `blanks` are the values of the shared ones, in order.
    `target` is origin-form or `*`; `path` is it without its query, all that may be recorded of it. `host` is the valid Host value (the
    authority of an absolute-form target replaces it).
    `upgrade` is the one protocol asked for, folded, where the request may be upgraded at all (GET, HTTP/1.1, Connection: upgrade, no body).
    """

    __slots__ = (
        "blanks",
        "expects_continue",
        "forwarded",
        "framing",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor",
        "outline",
        "path",
        "target",
        "traceparent",
        "upgrade",
    )

    def __init__(self, method: str, target: bytes, outline: RequestOutline, blanks: list[bytes]) -> None:
        self.method = method
        self.target = target
        self.minor = outline.minor
        self.outline = outline
        self.blanks = blanks
        self.host = outline.host
        self.keep_alive = outline.keep_alive
        self.framing = outline.framing
        self.expects_continue = outline.expects_continue
        self.length = 0
        self.path = target.partition(b"?")[0]
        self.upgrade: bytes | None = None
        self.traceparent = blanks[outline.trace_at] if outline.trace_at >= 0 else outline.traceparent
        self.forwarded: tuple[Permit, bytes, bytes] | None = None  # kept by `wire.forwarding`; holds no credential

    def values(self, folded: bytes) -> list[bytes]:
        """The values of every field of that folded name, in order."""
        blanks = iter(self.blanks)
        said = [(field.folded, next(blanks) if field.shared else field.value) for field in self.outline.fields]
        return [value for name, value in said if name == folded]

    @property
    def websocket_key(self) -> bytes | None:
        """Sec-WebSocket-Key."""
        return self.blanks[self.outline.key_at] if self.outline.key_at >= 0 else self.outline.websocket_key


class ResponseHead:
    """One response head.

    `outline` as on `RequestHead`; `blanks` as `layout` says. `length` is what Content-Length announced, -1 where absent; with framing NONE
    (HEAD, 304) it is only carried. `idle_s` is the announced `Keep-Alive: timeout=N` in seconds, None where it says nothing.
    """

    __slots__ = ("blanks", "forwarded", "framing", "idle_s", "keep_alive", "layout", "length", "outline", "reason", "status")

    def __init__(self, status: int, reason: bytes, outline: ResponseOutline, blanks: list[bytes], layout: Layout) -> None:
        self.status = status
        self.reason = reason
        self.outline = outline
        self.blanks = blanks
        self.layout = layout
        self.keep_alive = outline.keep_alive
        self.framing = outline.framing
        self.length = outline.length
        self.idle_s = outline.idle_s
        self.forwarded: tuple[tuple[int, bool, bool], bytes] | None = None  # kept by `wire.forwarding`

    @property
    def upgrade(self) -> bytes | None:
        """The protocol of a 101, folded."""
        return self.outline.upgrade

    @property
    def websocket_accept(self) -> bytes | None:
        """Sec-WebSocket-Accept of a 101."""
        return self.blanks[self.outline.accept_at] if self.outline.accept_at >= 0 else self.outline.websocket_accept
