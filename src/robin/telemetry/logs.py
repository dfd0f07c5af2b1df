"""Events: what happens besides exchanges, one line each. An event never raises; one with a code is written once a minute at most.

A field is a plain value (text, number, truth, None, or lists, tuples and dicts of those). An exception becomes its type, because messages
of parsers and servers may quote their input; bytes become their length. Everything is cut to a bounded size.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Literal

from robin.model.faults import name_settings
from robin.telemetry.timestamp import TimestampFormatter
from robin.telemetry.writer import LineWriter

REPEAT_S: Final = 60.0
"""An event with a code is written at most once in this time per (event, code); the next line has the number of those that were not."""

_LEVELS: Final = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_TEXT_MAX = 2048
_ITEMS_MAX = 64
_INTEGER_BITS_MAX = 1024
_CODES_MAX = 1024
_BARE = re.compile(r"[A-Za-z0-9_.:/@%+,\[\]-]+")


class _Repeats:
    """When one (event, code) was last written, and how many like it were suppressed since."""

    __slots__ = ("at", "suppressed")

    def __init__(self, at: float) -> None:
        self.at = at
        self.suppressed = 0


class EventLog:
    """Writes events at or above `level`."""

    __slots__ = ("_least", "_monotonic", "_repeats", "_setting_names", "_style", "_timestamps", "_wall", "_writer")

    def __init__(
        self,
        writer: LineWriter,
        *,
        level: Literal["debug", "info", "warning", "error"],
        style: Literal["json", "console"],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        setting_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`setting_names` are the plane's, put into the field `detail` (`model.faults.name_settings`)."""
        self._writer = writer
        self._setting_names = setting_names
        self._least = _LEVELS[level]
        self._style = style
        self._wall = wall
        self._monotonic = monotonic
        self._timestamps = TimestampFormatter()
        self._repeats: dict[tuple[str, str], _Repeats] = {}

    def debug(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """An event that helps to develop Robin."""
        self._put("debug", event, code, fields)

    def info(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """An expected change of state."""
        self._put("info", event, code, fields)

    def warning(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """A condition that an operator should look at in time."""
        self._put("warning", event, code, fields)

    def error(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """A condition that an operator should look at now."""
        self._put("error", event, code, fields)

    def _put(self, level: str, event: str, code: str | None, fields: Mapping[str, object]) -> None:
        if _LEVELS[level] < self._least:
            return
        suppressed = 0 if code is None else self._suppressed(event, code)
        if suppressed is None:
            return
        line: dict[str, object] = {"ts": self._timestamps.text(self._wall()), "level": level, "event": event}
        if code is not None:
            line["code"] = code
        for name, value in fields.items():
            if name == "detail" and isinstance(value, str):
                value = name_settings(value, self._setting_names)  # noqa: PLW2901 - the plane's own names
            line.setdefault(name, _plain(value, 4))
        if suppressed:
            line["suppressed"] = suppressed
        self._writer.put([json.dumps(line, separators=(",", ":")) + "\n" if self._style == "json" else _console(line)])

    def _suppressed(self, event: str, code: str) -> int | None:
        """Return how many like this were suppressed since the last one; None to suppress this one too."""
        now = self._monotonic()
        repeats = self._repeats.get((event, code))
        if repeats is not None and now - repeats.at < REPEAT_S:
            repeats.suppressed += 1
            return None
        if repeats is None and len(self._repeats) >= _CODES_MAX:  # codes are closed sets: this is a bound, not a cache
            self._repeats.clear()
        self._repeats[event, code] = _Repeats(now)
        return 0 if repeats is None else repeats.suppressed


def _plain(value: object, depth: int) -> object:
    """Return a field as JSON can hold it, cut to size. It never raises and never calls the repr of a value."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _INTEGER_BITS_MAX else "int"  # Python refuses to write thousands of digits
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if len(value) <= _TEXT_MAX else value[:_TEXT_MAX] + "..."
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, BaseException):
        return _name_error(value)
    if depth and isinstance(value, Mapping):
        return {_plain_name(key): _plain(value[key], depth - 1) for key in list(value)[:_ITEMS_MAX]}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in list(value)[:_ITEMS_MAX]]
    return type(value).__name__


def _plain_name(key: object) -> str:
    return key[:_TEXT_MAX] if isinstance(key, str) else type(key).__name__


def _name_error(error: BaseException) -> str:
    """Return the type, and for an OSError the text of its errno, which quotes no input."""
    name = type(error).__name__
    return f"{name}: {error.strerror}" if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.strerror else name


def _console(line: dict[str, object]) -> str:
    """Render a line for people: time of day, level, event, then fields as `name=value`, quoted where needed."""
    ts, level, event = str(line.pop("ts")), str(line.pop("level")), str(line.pop("event"))
    fields = (f" {name}={_console_value(value)}" for name, value in line.items())
    return f"{ts[11:]} {level:<7} {event}{''.join(fields)}\n"


def _console_value(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value)


def stack_of(error: BaseException) -> str:
    """Return where an error came from, innermost frame first: types, functions and lines, no messages, no locals; causes follow `<- `."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 4:
        parts.append(" < ".join([type(cause).__name__, *_frames(cause.__traceback__)]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return " <- ".join(parts)


def _frames(trace: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_name} {'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames[:-17:-1]
