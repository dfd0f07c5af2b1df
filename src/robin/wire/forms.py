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
from collections.abc import Callable, Iterator
from typing import Any, Final

from robin.model.message import Field, Layout, Outline, RequestHead, RequestOutline, ResponseHead, ResponseOutline
from robin.wire.http1 import METHODS, parse_request, parse_response, read_request, read_response

_USES_BEFORE: Final = 32  # at least
_FORMS_A_CONNECTION: Final = 4
_FORM_BYTES: Final = 4096

_REQUEST_LINE: Final = rb"([A-Z-]+) (/[!\x22$-~]*) HTTP/1\.%d\r\n"
_STATUS_LINE: Final = rb"HTTP/1\.%d ([2-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n"
_VALUE: Final = rb"[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*+(?<![\t ])"  # without outer SP and HTAB; a class of what may stand is fast


class _Forms:
    """The outlines whose forms the heads of one connection lately fitted, newest first, each with how such a head starts."""

    __slots__ = ("_head", "_known", "_raw")

    def __init__(self) -> None:
        self._known: list[tuple[bytes, weakref.ref[Any]]] = []  # so that connections keep alive no more outlines than there are
        self._raw = b""  # the last head, as many repeat it byte for byte
        self._head: Any = None

    def _learn(self, raw: bytes, outline: Outline, start: bytes, printed: Callable[[bytes, Any], Any]) -> None:
        """A head was parsed: have its form, as `printed` makes it, at hand next time, if its outline is worth one."""
        outline.uses += 1
        if outline.form is None and len(raw) <= _FORM_BYTES and outline.uses >= _uses_that_pay(raw, outline):
            outline.form = printed(raw, outline)
        if outline.form is not None and all(start != other or known() is not outline for other, known in self._known):
            self._known.insert(0, (start, weakref.ref(outline)))
            del self._known[_FORMS_A_CONNECTION:]


def _uses_that_pay(raw: bytes, outline: Outline) -> int:
    """Printing takes 0.2 to 4 ms, by the length of the pattern; spread over so many heads it takes less than to parse them."""
    return _USES_BEFORE + len(raw) // 16 + 4 * len(outline.fields)


def _lines(raw: bytes, outline: Outline) -> Iterator[tuple[Field, bytes]]:
    """Each field with its line as it came."""
    return zip(outline.fields, (line + b"\r\n" for line in raw[:-4].split(b"\r\n")[1:]), strict=True)


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
                self._learn(raw, asks, raw[: raw.index(b" ") + 1], print_request)
        if len(raw) <= _FORM_BYTES:
            self._raw, self._head = raw, head
        return head

    def _fill(self, raw: bytes, target_bytes: int) -> RequestHead | None:
        for start, known in self._known:
            if not raw.startswith(start):
                continue
            outline = known()
            if outline is not None and outline.form is not None and (filled := outline.form.fullmatch(raw)) is not None:
                name, target, *blanks = filled.groups()
                method = METHODS.get(name)
                if method is None or len(target) > target_bytes:
                    return None
                return read_request(method, target, outline, blanks)
        return None


def print_request(raw: bytes, outline: RequestOutline) -> re.Pattern[bytes]:
    """The form of all requests of the outline of this one: groups are its method, its target and its blanks."""
    parts = [
        re.escape(field.name) + b": (" + _VALUE + b")\r\n" if field.shared else re.escape(line) for field, line in _lines(raw, outline)
    ]
    return re.compile(_REQUEST_LINE % outline.minor + b"".join(parts) + b"\r\n")


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
            if head.status >= 200 and head.outline.accept_at < 0:
                self._learn(raw, head.outline, raw[:9], ResponseForm)
        if len(raw) <= _FORM_BYTES:
            self._raw, self._method, self._head = raw, method, head
        return head

    def _fill(self, raw: bytes, method: str) -> ResponseHead | None:
        for start, known in self._known:
            if not raw.startswith(start):
                continue
            outline = known()
            if outline is not None and outline.form is not None and (filled := outline.form.fullmatch(raw)) is not None:
                digits, reason, *blanks = filled.groups()
                return read_response(method, int(digits), reason or b"", outline, blanks, outline.form)
        return None


class ResponseForm(Layout):
    """The form of all answers of the outline of this one. Lines that go on as they came are one blank, so most heads have two or three.

    The groups of a match are status, reason and blanks.
    """

    __slots__ = ("fullmatch",)

    def __init__(self, raw: bytes, outline: ResponseOutline) -> None:
        super().__init__()
        layout = outline.layout
        pattern, template = [_STATUS_LINE % outline.minor, b"("], [b"HTTP/1.1 %d %b\r\n%b"]
        place, blank = -1, 0
        for field, line in _lines(raw, outline):
            place += field.shared
            goes = field.goes_down and field.folded not in outline.hop
            text = re.escape(field.name) + b": " + _VALUE + b"\r\n" if field.shared else re.escape(line)
            if goes and (field.shared or line == field.line):
                pattern.append(text)
                continue
            if field.shared and place in {layout.length_at, layout.idle_at}:
                blank += 1
                if place == layout.length_at:
                    self.length_at = blank
                else:
                    self.idle_at = blank
                pattern.append(b")" + re.escape(field.name) + b": (" + _VALUE + b")\r\n(")
                template.append(b"%.0b%b")
            else:
                pattern.append(b")" + text + b"(")
                template.append((field.line.replace(b"%", b"%%") if goes else b"") + b"%b")
            blank += 1
        self.template = b"".join(template)
        self.fullmatch = re.compile(b"".join(pattern) + b")\r\n").fullmatch
