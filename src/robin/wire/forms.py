"""A form: the fixed text and the blanks of all heads of one outline, as one pattern, so that the next such head is read by one match.

Callers and origins write head after head in which only values differ. A form is printed for an outline that the parser has accepted
often; a head that fits it says what the parser would make of it, since the fixed text is that of lines the parser accepted, what fills a
blank is of the bytes a value may have, and the values that frame are read as ever (`wire.http1`). A head that fits none is parsed.

Rules a reader must keep: nothing that a parser would refuse may fit a form (tests/wire/test_forms.py holds both against each other); an
outline that asks for more than fields that go on (upgrade, expectation, hop count) gets none. Whoever sends may not choose what we spend:
a form is printed when the uses of its outline have paid for that, matched without backtracking, and lives no longer than its outline.
"""

import re
import weakref
from typing import Any, Final

from robin.model.message import Outline, RequestHead, ResponseHead
from robin.wire.http1 import METHODS, parse_request, parse_response, read_request, read_response

_USES_BEFORE: Final = 32  # at least
_FORMS_A_CONNECTION: Final = 4
_FORM_BYTES: Final = 4096

_REQUEST_LINE: Final = rb"([A-Z-]+) (/[!\x22$-~]*) HTTP/1\.%d\r\n"
_STATUS_LINE: Final = rb"HTTP/1\.%d ([2-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\r\n"
_BLANK: Final = rb"([^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*+)(?<![\t ])\r\n"  # a value without outer SP and HTAB, and its CRLF


class _Forms:
    """The outlines whose forms the heads of one connection lately fitted, newest first."""

    __slots__ = ("_head", "_known", "_raw")

    def __init__(self) -> None:
        self._known: list[weakref.ref[Any]] = []  # so that connections keep alive no more outlines than there are
        self._raw = b""  # the last head, as many repeat it byte for byte
        self._head: Any = None

    def _learn(self, raw: bytes, outline: Outline, line: bytes) -> None:
        """A head was parsed: have its form at hand next time, if its outline is worth one. `line` is the pattern of its first line."""
        outline.uses += 1
        if outline.form is None and len(raw) <= _FORM_BYTES and outline.uses >= _uses_that_pay(raw, outline):
            outline.form = _print(raw, outline, line % outline.minor)
        if outline.form is not None and all(known() is not outline for known in self._known):
            self._known.insert(0, weakref.ref(outline))
            del self._known[_FORMS_A_CONNECTION:]


def _uses_that_pay(raw: bytes, outline: Outline) -> int:
    """Printing takes 0.2 to 4 ms, by the length of the pattern; spread over so many heads it takes less than to parse them."""
    return _USES_BEFORE + len(raw) // 16 + 4 * len(outline.fields)


def _print(raw: bytes, outline: Outline, line: bytes) -> re.Pattern[bytes]:
    lines = raw[:-4].split(b"\r\n")[1:]
    fields = zip(outline.fields, lines, strict=True)
    parts = [re.escape(field.name) + b": " + _BLANK if field.shared else re.escape(text) + rb"\r\n" for field, text in fields]
    return re.compile(line + b"".join(parts) + rb"\r\n")


class RequestForms(_Forms):
    """Of the requests of one connection."""

    __slots__ = ()

    def read(self, raw: bytes, *, target_bytes: int, fields_max: int) -> RequestHead:
        """What `parse_request` says and raises; the limits are the same each time."""
        if raw == self._raw:
            return self._head  # type: ignore[no-any-return]
        head = self._fill(raw, target_bytes)
        if head is None:
            head = parse_request(raw, target_bytes=target_bytes, fields_max=fields_max)
            asks = head.outline
            if not asks.upgrades and not asks.expects_continue and asks.max_forwards is None:
                self._learn(raw, asks, _REQUEST_LINE)
        if len(raw) <= _FORM_BYTES:
            self._raw, self._head = raw, head
        return head

    def _fill(self, raw: bytes, target_bytes: int) -> RequestHead | None:
        for known in self._known:
            outline = known()
            if outline is not None and outline.form is not None and (filled := outline.form.fullmatch(raw)) is not None:
                name, target, *blanks = filled.groups()
                method = METHODS.get(name)
                if method is None or len(target) > target_bytes:
                    return None
                return read_request(method, target, outline, blanks)
        return None


class ResponseForms(_Forms):
    """Of the answers of one connection."""

    __slots__ = ("_method",)

    def __init__(self) -> None:
        super().__init__()
        self._method = ""

    def read(self, raw: bytes, *, method: str, fields_max: int) -> ResponseHead:
        """What `parse_response` says and raises; the limit is the same each time."""
        if raw == self._raw and method == self._method:
            return self._head  # type: ignore[no-any-return]
        head = self._fill(raw, method)
        if head is None:
            head = parse_response(raw, method=method, fields_max=fields_max)
            if head.status >= 200:
                self._learn(raw, head.outline, _STATUS_LINE)
        if len(raw) <= _FORM_BYTES:
            self._raw, self._method, self._head = raw, method, head
        return head

    def _fill(self, raw: bytes, method: str) -> ResponseHead | None:
        for known in self._known:
            outline = known()
            if outline is not None and outline.form is not None and (filled := outline.form.fullmatch(raw)) is not None:
                digits, reason, *blanks = filled.groups()
                return read_response(method, int(digits), reason or b"", outline, blanks)
        return None
