"""Timestamps of log lines: RFC 3339 in UTC with milliseconds; the last one is kept, since lines come in bursts."""

import time


class Stamp:
    """Formats wall-clock seconds."""

    __slots__ = ("_millisecond", "_text")

    def __init__(self) -> None:
        self._millisecond = -1
        self._text = ""

    def text(self, wall: float) -> str:
        """`2026-08-22T10:11:12.123Z` for seconds since the epoch."""
        millisecond = int(wall * 1000)
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            self._text = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{rest:03d}Z"
            self._millisecond = millisecond
        return self._text
