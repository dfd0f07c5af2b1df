"""One line on stderr for each thing that takes long: redrawn in a terminal, repeated every 15 s in a log."""

import sys
import time
from collections.abc import Callable


class Progress:
    """`with Progress("etcd 3.6.16") as line: line("compiling, 40 packages")`; the end says how long it took."""

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.failed = False
        self._clock = clock
        self._began_at = clock()
        self._last_at = 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        """Show where it is, unless the last time was a moment ago."""
        now = self._clock()
        if now - self._last_at < (0.2 if self._terminal else 15.0):
            return
        self._last_at = now
        self._write(f"{text}, {now - self._began_at:.0f} s", done=False)

    def __enter__(self) -> "Progress":
        self._last_at = self._clock()
        self._write("...", done=not self._terminal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        self._write(f"{'failed' if kind else 'ready'} after {self._clock() - self._began_at:.0f} s", done=True)

    def _write(self, text: str, *, done: bool) -> None:
        start, end = ("\r\033[K", "\n" if done else "") if self._terminal else ("", "\n")
        print(f"{start}real: {self.title}: {text}", end=end, file=sys.stderr, flush=True)
