"""What the field names of a head decide: its framing, where the values stand that matter, its pattern, and the templates made of it.

Rules a reader must keep: a HeadShape is a pure function of the field names of a head, as they were sent and in their order. It holds no
value of any field, so all connections share it: of what a caller sent, nothing but names of fields outlives its connection. (The options
of Connection, by which templates are kept, are names of fields too.) The values that matter are parsed from each head by `wire.http1`.

A pattern matches only what llhttp would accept: its field names are those of a head that llhttp accepted, and a value holds no control but
tab and no outer space (tests/wire/test_shape.py compares both judges). It is compiled when a shape was parsed so often that compiling
takes less time than the parsing took, matches without backtracking, and is dropped with all others when there are too many shapes.
"""

import re
from collections.abc import Callable
from typing import Final

from robin.model.message import Framing, RequestHead, ResponseHead, canonical_name
from robin.model.route import Endpoint, HeaderRules, Route

_SHAPES_MAX: Final = 256
_SHAPE_FIELDS_MAX: Final = 64  # a head of more fields, or of more bytes of names, gets a shape of its own each time
_NAMES_BYTES_MAX: Final = 1024
_TEMPLATES_MAX: Final = 16  # of one shape
_OPTIONS_BYTES_MAX: Final = 256  # Connection may list more names than the head has, and a template is kept by all of them
_USES_MIN: Final = 64  # before a pattern is compiled, which takes 0.2 to 4 ms; more for each field and for long names
_USES_PER_FIELD: Final = 4
_USES_PER_BYTES: Final = 16

_VALUE: Final = rb"([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*+(?<![\t ]))"
_ASKS_FOR_MORE: Final = frozenset(b"upgrade expect origin sec-fetch-site via te max-forwards".split())
_QUERY: Final = ord("?")  # a number: `in` takes bytes by way of an exception
_NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


def parse_connection(value: bytes) -> frozenset[bytes]:
    """The options of Connection in canonical form (RFC 9110 7.6.1): names of fields that end at this hop, `close`, `keep-alive`."""
    return frozenset(part.strip(b" \t") for part in canonical_name(value).split(b","))


_COMMON_CONNECTION: Final = {value: parse_connection(value) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Close")}


class HeadShape:
    """The field names of a head and what they decide.

    `spelled` are the names as sent, `names` the canonical ones. What ends in `_at` is the index of a field among the values, -1: there is
    none; of a repeated field it is the last, but a repeated Host or Connection is none. `connections_at` has all of the latter. `defect` is
    the reason and the text of the refusal of every head of this shape. `asks_for_more`: some field has a meaning beyond framing. `match` is
    the pattern of whole heads, None until it is compiled, after `uses_left` more heads; its groups are three of the start line, then the
    values. `templates` are kept by `wire.forwarding`.
    """

    __slots__ = (
        "asks_for_more",
        "connection_at",
        "connections_at",
        "defect",
        "framing",
        "framing_at",
        "host_at",
        "keep_alive_at",
        "match",
        "names",
        "spelled",
        "templates",
        "trace_at",
        "uses_left",
    )

    def __init__(self, spelled: tuple[bytes, ...]) -> None:
        self.spelled = spelled
        self.names = names = tuple(map(canonical_name, spelled))
        self.match: Callable[[bytes], re.Match[bytes] | None] | None = None
        self.uses_left = _USES_MIN + _USES_PER_FIELD * len(spelled) + sum(map(len, spelled)) // _USES_PER_BYTES
        self.templates: dict[tuple[HeaderRules, frozenset[bytes]], tuple[bytes, bytes]] = {}
        last = {name: at for at, name in enumerate(names)}
        self.host_at = last[b"host"] if names.count(b"host") == 1 else -1
        self.trace_at = last.get(b"traceparent", -1)
        self.keep_alive_at = last.get(b"keep-alive", -1)
        self.connections_at = tuple([at for at, name in enumerate(names) if name == b"connection"])
        self.connection_at = self.connections_at[0] if len(self.connections_at) == 1 else -1
        self.asks_for_more = not _ASKS_FOR_MORE.isdisjoint(names)
        self.framing, self.framing_at = Framing.NONE, -1
        if b"content-length" in last:
            self.framing, self.framing_at = Framing.LENGTH, last[b"content-length"]
        elif b"transfer-encoding" in last:
            self.framing, self.framing_at = Framing.CHUNKED, last[b"transfer-encoding"]
        self.defect = self._find_defect()

    def _find_defect(self) -> tuple[str, str] | None:
        """Ambiguous framing: a server behind us may use another of two fields, or read `_` as `-`."""
        if self.names.count(b"content-length") + self.names.count(b"transfer-encoding") > 1:
            return "bad_framing", "at most one of Content-Length and Transfer-Encoding, and once"
        if self.framing_at >= 0 and b"_" in self.spelled[self.framing_at]:
            return ("bad_length" if self.framing == Framing.LENGTH else "bad_te"), "a framing field must not be written with `_`"
        return None

    def options(self, values: tuple[bytes, ...]) -> frozenset[bytes]:
        """The options of all Connection fields, of which there is one at least."""
        return parse_connection(b",".join([values[at] for at in self.connections_at]))

    def keep_template(self, key: tuple[HeaderRules, frozenset[bytes]], template: tuple[bytes, bytes]) -> None:
        """Keep a template, unless Connection lists much; when there are too many, all are forgotten."""
        if len(key[1]) + sum(map(len, key[1])) > _OPTIONS_BYTES_MAX:
            return
        if len(self.templates) >= _TEMPLATES_MAX:
            self.templates.clear()
        self.templates[key] = template

    def note_use(self, start_line: bytes) -> None:
        """Count one head that was parsed without the pattern, and compile it, behind this pattern of the start line, when it is due."""
        self.uses_left -= 1
        if self.uses_left == 0:
            fields = b"".join(re.escape(name) + b": " + _VALUE + b"\r\n" for name in self.spelled)
            self.match = re.compile(start_line + fields + b"\r\n").fullmatch


class ShapeStore:
    """The shapes of requests, or of responses."""

    __slots__ = ("_shapes", "_start_line")

    def __init__(self, start_line: bytes) -> None:
        self._shapes: dict[tuple[bytes, ...], HeadShape] = {}
        self._start_line = start_line

    def parse_fields(self, section: bytes) -> tuple[HeadShape, tuple[bytes, ...]]:
        """The shape and the trimmed values of a field section that llhttp accepted; `section` lacks its last CRLF."""
        lines = [line.partition(b":") for line in section.split(b"\r\n")] if section else []
        spelled = tuple([name for name, _, _ in lines])
        shape = self._shapes.get(spelled)
        if shape is None:
            shape = HeadShape(spelled)
            self._remember(shape)
        shape.note_use(self._start_line)
        return shape, tuple([value.strip(b" \t") for _, _, value in lines])

    def _remember(self, shape: HeadShape) -> None:
        if len(shape.spelled) > _SHAPE_FIELDS_MAX or sum(map(len, shape.spelled)) > _NAMES_BYTES_MAX:
            return
        if len(self._shapes) >= _SHAPES_MAX:
            for known in self._shapes.values():
                known.match = None  # patterns are large, and a connection may keep its last shapes for long
                known.templates.clear()
            self._shapes.clear()
            re.purge()  # else Python's own cache of patterns keeps them too
        self._shapes[shape.spelled] = shape


class ParsedRequest(RequestHead):
    """A request head and its shape. Made by `wire.http1` alone. `forwarded` is kept by `wire.forwarding` for when the head repeats."""

    __slots__ = ("forwarded", "shape")

    def __init__(self, method: str, target: bytes, minor: int, shape: HeadShape, values: tuple[bytes, ...]) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.shape = shape
        self.names = shape.names
        self.field_values = values
        if shape.connection_at >= 0:
            self.connection_options = options = _COMMON_CONNECTION.get(values[shape.connection_at]) or shape.options(values)
            self.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        elif shape.connections_at:
            self.connection_options = options = shape.options(values)
            self.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        else:
            self.connection_options, self.keep_alive = _NO_OPTIONS, minor == 1
        self.path = target if _QUERY not in target else target.partition(b"?")[0]
        self.host = values[shape.host_at] if shape.host_at >= 0 else target  # of CONNECT alone
        self.framing = shape.framing
        self.length = 0
        self.traceparent = values[shape.trace_at] if shape.trace_at >= 0 else None
        self.expects_continue = self.accepts_trailers = False
        self.target_scheme = self.target_authority = self.upgrade = None
        self.origin = self.fetch_site = self.via = self.max_forwards = None
        self.forwarded: tuple[Route, Endpoint, bytes, bytes, bytes] | None = None
        self.judged = None


class ParsedResponse(ResponseHead):
    """A response head and its shape. Made by `wire.http1` alone. `forwarded` is kept by `wire.forwarding` for when the head repeats."""

    __slots__ = ("forwarded", "shape")

    def __init__(self, status: int, reason: bytes, minor: int, shape: HeadShape, values: tuple[bytes, ...]) -> None:
        self.status = status
        self.reason = reason
        self.shape = shape
        self.names = shape.names
        self.field_values = values
        if shape.connection_at >= 0:
            self.connection_options = options = _COMMON_CONNECTION.get(values[shape.connection_at]) or shape.options(values)
            self.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        elif shape.connections_at:
            self.connection_options = options = shape.options(values)
            self.keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
        else:
            self.connection_options, self.keep_alive = _NO_OPTIONS, minor == 1
        self.framing = shape.framing
        self.length = -1
        self.idle_s = self.upgrade = None
        self.forwarded: tuple[HeaderRules, tuple[int, bool, bool], bytes] | None = None
