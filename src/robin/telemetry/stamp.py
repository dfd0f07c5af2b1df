"""Timestamps of log lines: RFC 3339 in UTC with milliseconds; the last one is kept, since lines come in bursts."""

import time


class Stamp:
    """Formats wall-clock seconds."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def text(self, wall: float) -> str:
        """`2026-08-22T10:11:12.123Z` for seconds since the epoch."""
        second, rest = divmod(int(wall * 1000), 1000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{rest:03d}Z"
