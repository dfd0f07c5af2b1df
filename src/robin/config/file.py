"""The settings file: a safe open, which of the two formats it has, and `KEY=value` lines with every error, as `line N: what; fix`.

Grammar (docs/reference/settings.md, The file): UTF-8 without BOM or NUL, at most 64 KiB, LF or CRLF. A line is blank, starts with `#`, or
is `KEY=value` after an optional `export `. Values are trimmed and lose one layer of matching quotes; there are no escapes, no `${}`, no
inline comments and no continuation.
"""

import os
import re
import stat
from dataclasses import dataclass

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import CONTROLS, InvalidValue
from robin.config.table import PREFIX

LIMIT_BYTES = 65536

_KEY = re.compile(r"[A-Z][A-Z0-9_]*")
_EXPORT = re.compile(r"export[ \t]+")
_BLANKS = " \t"
_YAML_NAMES = (".yaml", ".yml")
_OTHER_FORMATS = (*_YAML_NAMES, ".json", ".toml")
_LARGEST_BYTES = 1 << 20  # of robin.yaml
_SETS_A_KEY = re.compile(rb"(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*[ \t]*=")
_IS_YAML = re.compile(rb"---|%|[{\[&!]|(?:[\w.<-]+|\"[^\"]*\"|'[^']*')[ \t]*:(?:[ \t]|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLine:
    """One setting of a file: its 1-based line, its value as text, and for a YAML file its exact position."""

    number: int
    key: str
    value: str
    at: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileText:
    """What a file sets, and what is wrong with it: `errors` of KEY=value lines (`what` starts with `line N: `), or `diagnostics`.

    `section` is where the section of robin.yaml begins. `unreadable`: nothing of the file is known.
    """

    lines: tuple[FileLine, ...]
    errors: tuple[InvalidValue, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    section: Position | None = None
    unreadable: bool = False


def load_content(path: str, *, fix: str = "name a readable file") -> bytes:
    """The content of the file at `path`. Raises InvalidValue when it cannot or should not be read; `fix` is for one that cannot."""
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise InvalidValue(f"cannot read the file: {reason}", fix) from None


def _read(path: str) -> bytes:
    """The bytes of a regular file that is not world-writable, one more than the largest limit at most.

    Symlinks are followed, since the files of a mounted ConfigMap are symlinks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang the start
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidValue("the file is not a regular file", "name a regular file")
        if status.st_mode & stat.S_IWOTH:
            raise InvalidValue("the file is world-writable, so anyone could change it", "chmod o-w the file")
        content = b""
        while len(content) <= _LARGEST_BYTES and (piece := os.read(descriptor, _LARGEST_BYTES + 1 - len(content))):
            content += piece
        return content
    finally:
        os.close(descriptor)


def is_yaml(path: str, content: bytes) -> bool:
    """True for YAML, False for KEY=value lines: by the first line that is neither blank nor a comment, and without one by the name."""
    for raw in content[:LIMIT_BYTES].removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw.strip(b" \t\r")
        if line and not line.startswith(b"#"):
            if _SETS_A_KEY.match(line) is not None:
                return False
            return path.lower().endswith(_YAML_NAMES) or _IS_YAML.match(line) is not None
    return path.lower().endswith(_YAML_NAMES)


def check_name(path: str) -> None:
    """A file of KEY=value lines is not named like another format. Raises InvalidValue."""
    if path.lower().endswith(_OTHER_FORMATS):
        raise InvalidValue("the file is named like another format", "write KEY=value lines and name it such as robin.env")


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
