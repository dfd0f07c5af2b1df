"""A form: the fixed text and the blanks of all heads of one outline, as one pattern, so that the next such head is read by one match.

Callers and origins write head after head in which only values differ. A form is printed for an outline that the parser has accepted
often; a head that fits it says what the parser would make of it, since the fixed text is that of lines the parser accepted, what fills a
blank is of the bytes a value may have, and the values that frame are read as ever (`wire.http1`). A head that fits none is parsed.

Rules a reader must keep: nothing that a parser would refuse may fit a form (tests/wire/test_forms.py holds both against each other); an
outline that asks for more than fields that go on (upgrade, expectation, hop count) gets none.
"""

import re
from typing import Any, Final

from robin.model.message import Outline, RequestHead, ResponseHead
from robin.wire.http1 import METHODS, parse_request, parse_response, read_request, read_response

_USES_BEFORE: Final = 16  # printing takes about as long as parsing a hundred heads
_FORMS_A_CONNECTION: Final = 4
_FORM_BYTES: Final = 4096

_REQUEST_LINE: Final = rb"([A-Z-]+) (/[!\x22$-~]*) HTTP/1\.%d\r\n"
_STATUS_LINE: Final = rb"HTTP/1\.%d ([2-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?\r\n"
_BLANK: Final = rb"([^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*)(?<![\t ])\r\n"  # a value without outer SP and HTAB, and its CRLF


class _Forms:
    """The forms that the heads of one connection lately fitted, newest first, each with its outline."""

    __slots__ = ("_head", "_known", "_raw")

    def __init__(self) -> None:
        self._known: list[tuple[re.Pattern[bytes], Any]] = []
        self._raw = b""  # the last head, as many repeat it byte for byte
        self._head: Any = None

    def _learn(self, raw: bytes, outline: Outline, line: bytes) -> None:
        """A head was parsed: have its form at hand next time, if its outline is worth one. `line` is the pattern of its first line."""
        outline.uses += 1
        if outline.form is None and outline.uses >= _USES_BEFORE and len(raw) <= _FORM_BYTES:
            outline.form = _print(raw, outline, line % outline.minor)
        if outline.form is not None and all(outline is not known for _, known in self._known):
            self._known.insert(0, (outline.form, outline))
            del self._known[_FORMS_A_CONNECTION:]


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
        for form, outline in self._known:
            filled = form.fullmatch(raw)
            if filled is not None:
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
        for form, outline in self._known:
            filled = form.fullmatch(raw)
            if filled is not None:
                digits, reason, *blanks = filled.groups()
                return read_response(method, int(digits), reason or b"", outline, blanks)
        return None
