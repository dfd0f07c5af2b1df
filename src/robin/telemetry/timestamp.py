"""Timestamps of log lines: RFC 3339 in UTC with milliseconds. The last second and the last text are kept, since lines come in bursts."""

import time


class TimestampFormatter:
    """Formats wall-clock seconds."""

    __slots__ = ("_millisecond", "_second", "_second_text", "_text")

    def __init__(self) -> None:
        self._millisecond = self._second = -1
        self._second_text = self._text = ""

    def text(self, wall: float) -> str:
        """`2026-08-22T10:11:12.123Z` for seconds since the epoch."""
        millisecond = int(wall * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second, rest = divmod(millisecond, 1000)
            if second != self._second:
                self._second = second
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._second_text}.{rest:03d}Z"
        return self._text
