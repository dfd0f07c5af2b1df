"""Parse the text of one setting, for the scalar kinds: boolean, choice, duration, size, integer, mode, path, text, lists of them.

A parser returns its value or raises `InvalidValue(what, fix)`. The message quotes the text only when it is short and cannot be a token
put there by mistake. Digits are ASCII digits.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

N = TypeVar("N", int, float)

_SHOWN_LIMIT = 40
_CORRECTED_LIMIT = 130  # the longest socket path and its scheme
_NEAREST_LENGTH = 80
_NEAREST_RATIO = 0.8  # of difflib: about one wrong letter in five
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_SIZE = re.compile(r"([0-9]{1,12})(KiB|MiB)?")
_UNIT_BYTES = {None: 1, "KiB": 1024, "MiB": 1024 * 1024}
_INTEGER = re.compile(r"0|[1-9][0-9]{0,11}")
_MODE = re.compile(r"0?[0-7]{3}")

# What no value may hold, since it could end a line or control a terminal: C0 and C1 controls but HTAB, and undecodable bytes (surrogates).
_CONTROLS = r"\u0000-\u0008\u000a-\u001f\u007f-\u009f\ud800-\udfff"
CONTROLS = re.compile(f"[{_CONTROLS}]")

_ONE_UNIT = "write one whole number with ms, s, m or h, such as 90m"
_HIGHEST_UID = 0xFFFF_FFFE

# No wait, lifetime or grace is longer than a week: every time has a limit.
LONGEST = "168h"


class InvalidValue(Exception):
    """A text that is not a value of its kind: `what` is wrong, and the `fix`."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what = what
        self.fix = fix


YamlType = Literal["string", "integer", "boolean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a value is written in YAML, as far as JSON Schema can express it: the types of its scalar and what holds for each of them.

    `pattern` is for strings, and written as both Python and ECMA 262 read it; `hint` is the fix when a string does not match it.
    `may_be_empty`: an empty text is a value. `listed`: in YAML a sequence of such scalars, in a line of text they stand between commas.
    `zero`: how 0 is written, where the pattern needs more than the digit.
    """

    types: tuple[YamlType, ...] = ("string",)
    pattern: str = f"^[^{_CONTROLS}]+$"
    hint: str = "write plain text on one line"
    choices: tuple[str, ...] = ()
    lowest: int | None = None
    highest: int | None = None
    listed: bool = False
    may_be_empty: bool = False
    zero: str = ""

    def fix(self, text: str) -> str:
        """The fix of a string that does not match the pattern."""
        return f"write {self.zero}" if text == "0" and self.zero else self.hint


_TEXT = Form()
# A list in YAML has its own brackets, so that no item of it may hold the comma of the text form.
LIST = Form(pattern=f"^[^,{_CONTROLS}]+$", hint="write each item of the list on its own", listed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of value: its name and bounds as the reference page gives them, its parser, and its form in YAML."""

    name: str
    parse: Callable[[str], Any]
    bounds: str = ""
    form: Form = _TEXT


def _may_be_quoted(text: str, limit: int) -> bool:
    """True if a message may hold `text`: short, plain ASCII, and like neither a token nor a password."""
    return len(text) <= limit and text.isascii() and text.isprintable() and "eyJ" not in text and "@" not in text


def shown(text: str) -> str:
    """`text` in quotes for a message; only its length when a message may not hold it."""
    return f'"{text}"' if _may_be_quoted(text, _SHOWN_LIMIT) else f"a value of {len(text)} characters"


def write(corrected: str, form: str) -> str:
    """The fix that shows a text corrected; only the `form` it should have when a message may not hold it."""
    return f"write {corrected if _may_be_quoted(corrected, _CORRECTED_LIMIT) else form}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs from `word` in a few letters only; None where there is none, since a wild guess misleads."""
    import difflib  # noqa: PLC0415 - only a mistake pays for it

    found = difflib.get_close_matches(word[:_NEAREST_LENGTH], list(known), n=1, cutoff=_NEAREST_RATIO)
    return found[0] if found else None


def parse_items(text: str) -> tuple[str, ...]:
    """Items between commas, SP and HTAB trimmed; `none` is the empty list; an empty item is refused."""
    items = tuple(item.strip(" \t") for item in text.split(","))
    if items == ("none",):
        return ()
    if "" in items:
        raise InvalidValue("the list has an empty item", "remove the extra comma, or write none for an empty list")
    return items


def parse_boolean(text: str) -> bool:
    """`true`, `1`, `false` or `0`."""
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise InvalidValue(f"{shown(text)} is not a boolean", "write true or false")


def parse_duration(text: str) -> float:
    """Seconds of `<number><ms|s|m|h>`, repeatable; a bare number is refused except `0`."""
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text) is None:
        if text.isascii() and text.isdigit():
            raise InvalidValue(f"{shown(text)} has no unit", f"write {text[:12]}s or {text[:12]}ms")
        raise InvalidValue(f"{shown(text)} is not a duration", "write whole numbers with ms, s, m or h, such as 500ms, 10s or 1h30m")
    return sum(int(number) * _UNIT_MS[unit] for number, unit in _DURATION_PART.findall(text)) / 1000


def parse_size(text: str) -> int:
    """Bytes of an integer with an optional `KiB` or `MiB`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidValue(f"{shown(text)} is not a size", "write a whole number of bytes, or one with KiB or MiB, such as 64KiB")
    return int(match[1]) * _UNIT_BYTES[match[2]]


def parse_integer(text: str) -> int:
    """A decimal number without sign or leading zero."""
    if _INTEGER.fullmatch(text) is None:
        raise InvalidValue(f"{shown(text)} is not a whole number", "write decimal digits only")
    return int(text)


def parse_mode(text: str) -> int | None:
    """Three octal digits with an optional leading 0; None for `auto`."""
    if text == "auto":
        return None
    if _MODE.fullmatch(text) is None:
        raise InvalidValue(f"{shown(text)} is not a file mode", "write auto or octal permission bits such as 0600")
    return int(text, 8)


def parse_uids(text: str) -> tuple[int, ...]:
    """Decimal user ids, each once."""
    uids = []
    for item in parse_items(text):
        if _INTEGER.fullmatch(item) is None or int(item) > _HIGHEST_UID:
            raise InvalidValue(f"{shown(item)} is not a user id", "write decimal UIDs from 0 to 4294967294, such as 1000,65532")
        uids.append(int(item))
    return tuple(dict.fromkeys(uids))


def parse_absolute_path(text: str) -> str:
    """A path that starts with `/`."""
    if not text.startswith("/"):
        raise InvalidValue(f"{shown(text)} is not an absolute path", "start it with /")
    return text


def parse_text(text: str) -> str:
    """The text itself, verbatim."""
    return text


def _within(parse: Callable[[str], N], low: str, high: str) -> Callable[[str], N]:
    lowest, highest = parse(low), parse(high)
    fix = f"use {low} to {high}" if low != high else f"use {low}"

    def parse_within(text: str) -> N:
        value = parse(text)
        if value < lowest:
            raise InvalidValue(f"{shown(text)} is below {low}", fix)
        if value > highest:
            raise InvalidValue(f"{shown(text)} is above {high}", fix)
        return value

    return parse_within


def duration(low: str, high: str = LONGEST, *, or_auto: bool = False) -> Kind:
    """Durations from `low` to `high`; with `or_auto` also `auto`, which is None."""
    parse = _within(parse_duration, low, high)
    number = "[0-9]{1,12}(ms|s|m|h)"
    if not or_auto:
        return Kind(name="duration", parse=parse, bounds=f"{low} to {high}", form=Form(pattern=f"^{number}$", hint=_ONE_UNIT, zero="0s"))
    return Kind(
        name="duration",
        parse=lambda text: None if text == "auto" else parse(text),
        bounds=f"auto, or {low} to {high}",
        form=Form(pattern=f"^(auto|{number})$", hint=_ONE_UNIT, zero="0s"),
    )


def size(low: str, high: str) -> Kind:
    """Sizes from `low` to `high`."""
    form = Form(types=("string", "integer"), pattern="^[0-9]{1,12}(KiB|MiB)?$", lowest=parse_size(low), highest=parse_size(high))
    return Kind(name="size", parse=_within(parse_size, low, high), bounds=f"{low} to {high}", form=form)


def integer(low: str, high: str) -> Kind:
    """Whole numbers from `low` to `high`."""
    bounds = f"{low} to {high}" if low != high else f"only {low}"
    form = Form(types=("integer",), lowest=int(low), highest=int(high))
    return Kind(name="integer", parse=_within(parse_integer, low, high), bounds=bounds, form=form)


def choice(*names: str) -> Kind:
    """Exactly one of `names`."""

    def parse(text: str) -> str:
        if text not in names:
            fix = f"use {', '.join(names[:-1])} or {names[-1]}" if names[1:] else f"use {names[0]}"
            raise InvalidValue(f"{shown(text)} is not one of its values", fix)
        return text

    return Kind(name="choice", parse=parse, bounds=" ".join(names), form=Form(choices=names))


BOOLEAN = Kind(name="boolean", parse=parse_boolean, bounds="true false", form=Form(types=("boolean",)))
MODE = Kind(name="mode", parse=parse_mode, bounds="auto, or octal", form=Form(pattern="^(auto|0?[0-7]{3})$"))
UIDS = Kind(name="list of UIDs", parse=parse_uids, form=Form(types=("integer",), lowest=0, highest=_HIGHEST_UID, listed=True))
ABSOLUTE_PATH = Kind(name="path", parse=parse_absolute_path, bounds="absolute", form=Form(pattern=f"^/[^{_CONTROLS}]*$"))
PATH = Kind(name="path", parse=parse_text)
TEXT = Kind(name="text", parse=parse_text)
