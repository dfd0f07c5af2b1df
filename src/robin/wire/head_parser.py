"""The parsers of one connection: they try what they learned of its last heads before they call `wire.http1`.

Rules a reader must keep: what is returned and raised is what `wire.http1` returns and raises; what is remembered here is dropped with the
connection.
"""

from typing import Final

from robin.wire.http1 import METHODS, REVERSE_PROXY, RequestForms, build_request, build_response, parse_request, parse_response
from robin.wire.shape import HeadShape, ParsedRequest, ParsedResponse

_MEMO_BYTES: Final = 4096
_SHAPES_PER_KEY: Final = 4
_KEYS: Final = 4


def _learn(shapes: dict[bytes, tuple[HeadShape, ...]], key: bytes, shape: HeadShape) -> None:
    """Note the shape of a head that was parsed, newest first, if it has a pattern: without one it is of no use, and may be large.

    `key` is what all heads that are compared with it have in common.
    """
    if shape.match is None:
        return
    if key not in shapes and len(shapes) >= _KEYS:
        shapes.clear()
    known = shapes.get(key, ())
    if shape not in known:
        shapes[key] = (shape, *known)[:_SHAPES_PER_KEY]


class RequestParser:
    """Parses the requests of one connection under the limits of its listener.

    It remembers the last head, since many callers repeat theirs, and the shapes of the last heads of each method. A head that matches the
    pattern of such a shape needs no further judgement of its syntax.
    """

    __slots__ = ("_fields_max", "_forms", "_head", "_raw", "_shapes", "_target_bytes")

    def __init__(self, *, target_bytes: int, fields_max: int, forms: RequestForms = REVERSE_PROXY) -> None:
        self._target_bytes = target_bytes
        self._fields_max = fields_max
        self._forms = forms
        self._shapes: dict[bytes, tuple[HeadShape, ...]] = {}
        self._raw = b""
        self._head: ParsedRequest | None = None

    def parse(self, raw: bytes) -> ParsedRequest:
        """What `parse_request` returns and raises."""
        if raw == self._raw and self._head is not None:
            return self._head
        head = self._match(raw)
        if head is None:
            head = parse_request(raw, target_bytes=self._target_bytes, fields_max=self._fields_max, forms=self._forms)
            _learn(self._shapes, raw[:4], head.shape)
        if len(raw) <= _MEMO_BYTES:
            self._raw, self._head = raw, head
        return head

    def _match(self, raw: bytes) -> ParsedRequest | None:
        for shape in self._shapes.get(raw[:4], ()):
            if shape.match is not None and (match := shape.match(raw)) is not None:
                groups = match.groups()
                method = METHODS.get(groups[0])
                if method is None or len(groups[1]) > self._target_bytes:
                    return None
                known_host = None if self._head is None else self._head.host
                return build_request(method, groups[1], 1 if groups[2] == b"1" else 0, shape, groups[3:], known_host=known_host)
        return None


class ResponseParser:
    """Parses the responses of one connection; it remembers the last head, and the shapes of the last heads of each status."""

    __slots__ = ("_head", "_method", "_raw", "_shapes")

    def __init__(self) -> None:
        self._shapes: dict[bytes, tuple[HeadShape, ...]] = {}
        self._raw = b""
        self._method = ""
        self._head: ParsedResponse | None = None

    def parse(self, raw: bytes, *, method: str, fields_max: int) -> ParsedResponse:
        """What `parse_response` returns and raises; the limit is the same each time."""
        if raw == self._raw and method == self._method and self._head is not None:
            return self._head
        head = self._match(raw, method)
        if head is None:
            head = parse_response(raw, method=method, fields_max=fields_max)
            _learn(self._shapes, raw[9:12], head.shape)
        if len(raw) <= _MEMO_BYTES:
            self._raw, self._method, self._head = raw, method, head
        return head

    def _match(self, raw: bytes, method: str) -> ParsedResponse | None:
        for shape in self._shapes.get(raw[9:12], ()):
            if shape.match is not None and (match := shape.match(raw)) is not None:
                groups = match.groups()
                return build_response(method, int(groups[1]), groups[2] or b"", 1 if groups[0] == b"1" else 0, shape, groups[3:])
        return None
