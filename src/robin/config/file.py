"""The settings file: a safe open, and lines of `KEY=value`; every fault of it in one pass, as `line N: what; fix`.

Grammar (docs/reference/settings.md, The file): UTF-8 without BOM or NUL, at most 64 KiB, LF or CRLF. A line is blank, starts with `#`, or
is `KEY=value` after an optional `export `. Values are trimmed and lose one layer of matching quotes; there are no escapes, no `${}`, no
inline comments and no continuation.
"""

import os
import re
import stat
from dataclasses import dataclass

from robin.config.parse import CONTROLS, InvalidValue
from robin.config.table import PREFIX

LIMIT_BYTES = 65536

_KEY = re.compile(r"[A-Z][A-Z0-9_]*")
_EXPORT = re.compile(r"export[ \t]+")
_BLANKS = " \t"
_OTHER_FORMATS = (".yaml", ".yml", ".json", ".toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLine:
    """One setting of the file: its 1-based line and its value, quotes removed."""

    number: int
    key: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileText:
    """What was understood of a file, and what was not (each `what` starts with `line N: `)."""

    lines: tuple[FileLine, ...]
    errors: tuple[InvalidValue, ...]


def load_settings_file(path: str) -> FileText:
    """Open, check and parse the file at `path`. Raises InvalidValue when the file as a whole cannot be used."""
    if path.lower().endswith(_OTHER_FORMATS):
        raise InvalidValue("the file is named like another format", "write KEY=value lines and name it such as robin.env")
    try:
        return parse_settings_file(_read(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise InvalidValue(f"cannot read the file: {reason}", "name a readable file, or unset ROBIN_CONFIG") from None


def _read(path: str) -> bytes:
    """The bytes of a regular file that not everybody can write, one more than the limit at most."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang the start
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidValue("the file is not a regular file", "name a regular file")
        if status.st_mode & stat.S_IWOTH:
            raise InvalidValue("the file is world-writable, so anyone could redirect the identity", "chmod o-w the file")
        content = b""
        while len(content) <= LIMIT_BYTES and (piece := os.read(descriptor, LIMIT_BYTES + 1 - len(content))):
            content += piece
        return content
    finally:
        os.close(descriptor)


def parse_settings_file(content: bytes) -> FileText:
    """Parse the bytes of a settings file. Raises InvalidValue when no line of it can be trusted."""
    if len(content) > LIMIT_BYTES:
        raise InvalidValue("the file is larger than 64 KiB", "keep only ROBIN_ settings in it")
    if content.startswith(b"\xef\xbb\xbf"):
        raise InvalidValue("line 1: the file starts with a byte order mark", "save it as UTF-8 without BOM")
    lines: list[FileLine] = []
    errors: list[InvalidValue] = []
    seen: dict[str, int] = {}
    for number, raw in enumerate(content.split(b"\n"), start=1):
        try:
            line = _parse_line(number, raw.removesuffix(b"\r"))
            if line is None:
                continue
            if (earlier := seen.setdefault(line.key, number)) != number:
                raise InvalidValue(f"{line.key} is set again, first on line {earlier}", "keep one of them")
        except InvalidValue as error:
            errors.append(InvalidValue(f"line {number}: {error.what}", error.fix))
        else:
            lines.append(line)
    return FileText(lines=tuple(lines), errors=tuple(errors))


def _parse_line(number: int, raw: bytes) -> FileLine | None:
    """One line without its end; None when it sets nothing. Messages never quote a value: it may be a secret that is out of place."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidValue("not UTF-8", "save the file as UTF-8") from None
    if CONTROLS.search(text) is not None:
        raise InvalidValue("has a control character", "remove it; lines end in LF or CRLF")
    if not text.strip(_BLANKS) or text.startswith("#"):
        return None
    if text[0] in _BLANKS:
        raise InvalidValue("starts with a space", "start it at the first column")
    key, equals, value = text[match.end() if (match := _EXPORT.match(text)) else 0 :].partition("=")
    if not equals:
        raise InvalidValue("has no =", "write KEY=value")
    if not key:
        raise InvalidValue("has an empty key", "write KEY=value")
    if key[-1] in _BLANKS:
        raise InvalidValue("has a space before the =", "write KEY=value without spaces around the key")
    if _KEY.fullmatch(key) is None:
        raise InvalidValue("has a malformed key", "use upper-case letters, digits and _, starting with a letter")
    if key == f"{PREFIX}CONFIG":
        raise InvalidValue("ROBIN_CONFIG cannot be set in the file it names", "remove the line")
    return FileLine(number=number, key=key, value=_unquote(value.strip(_BLANKS)))


def _unquote(value: str) -> str:
    if not value or value[0] not in "'\"":
        return value
    end = value.find(value[0], 1)
    if end < 0:
        raise InvalidValue("has an opening quote without a closing one", "close the quote, or remove it")
    if end != len(value) - 1:
        raise InvalidValue("has text after the closing quote", "end the line at the quote; there are no inline comments and no escapes")
    return value[1:-1]
