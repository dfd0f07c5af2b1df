"""Log lines are written by a thread of their own, so that a full or blocked pipe never stops traffic: it costs lines, which are counted.

`put` appends to a list and returns. The thread sleeps while the list is empty, collects lines for `flush_s`, and writes; beside it only
`write_through` and `write_now` use the descriptor. Each counter has one writer: `_put` and `_refused` the loop's thread, `_taken` and
`_lost` the writer's.
"""

import os
import select
import stat
import threading
from collections.abc import Iterator, Sequence

from robin.telemetry import names
from robin.telemetry.names import Reading

PIPE_BUF = select.PIPE_BUF
_BATCH = 512  # lines joined at once: the join holds the interpreter for some tens of microseconds


def _is_written_whole(fd: int) -> bool:
    """Whether a short write to it is whole or fails. A socket, a terminal or a file can take a part; and not each libc has such a write."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))


class LineWriter:
    """Writes whole lines to a descriptor that it does not own, holding at most `limit_bytes` (characters) of them.

    `at_once`: whether `write_now` can write to it.
    """

    __slots__ = (
        "_closing",
        "_fd",
        "_flush_s",
        "_given_up",
        "_limit",
        "_lines",
        "_lock",
        "_lost",
        "_put",
        "_refused",
        "_taken",
        "_thread",
        "_waiting",
        "_wake",
        "at_once",
    )

    def __init__(self, fd: int, *, limit_bytes: int = 4 * 1024 * 1024, flush_s: float = 0.05) -> None:
        self._fd = fd
        self._limit = limit_bytes
        self._flush_s = flush_s
        self._lines: list[str] = []
        self._put = self._taken = self._refused = self._lost = 0
        self._given_up = False
        self.at_once = _is_written_whole(fd)
        self._waiting = True  # the thread sleeps on _wake: the next put must set it
        self._lock = threading.Lock()  # held while something is written
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="robin-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: refused because too many were queued, or lost in a failed write."""
        return self._refused + self._lost

    def put(self, lines: Sequence[str]) -> None:
        """Queue lines, each with its newline; lines that do not fit are dropped and counted."""
        put, most = self._put, self._taken + self._limit
        for line in lines:
            if put + len(line) > most:
                self._refused += 1
                continue
            put += len(line)
            self._lines.append(line)
        self._put = put
        if self._waiting and self._lines:
            self._waiting = False
            self._wake.set()

    def write_through(self, text: bytes) -> int:
        """Write at once, from another thread than the loop's. Returns how many bytes of it were written."""
        with self._lock:
            return len(text) - self._write(text)

    def write_now(self, text: bytes) -> bool:
        """Write at most PIPE_BUF bytes, whole, if that takes no wait. False: nothing was written; what did not write now may do so later.

        Only a pipe and a device such as /dev/null are written to like this: there such a write is whole or does not happen (pipe(7)).
        """
        if not self.at_once or self._given_up or not self._lock.acquire(blocking=False):
            return False
        try:
            return os.pwritev(self._fd, (text,), -1, os.RWF_NOWAIT) == len(text)
        except BlockingIOError:
            return False
        except OSError:  # the kernel has no such write for this descriptor, or its reader is gone: `write_through` finds out
            self.at_once = False
            return False
        finally:
            self._lock.release()

    def close(self, timeout_s: float = 1.0) -> None:
        """Write the queued lines, for at most `timeout_s`; the rest, and lines put later, are dropped."""
        self._limit = -1
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._given_up = True  # a thread still blocked writes nothing more when it wakes

    def readings(self) -> Iterator[Reading]:
        """The one counter of the log."""
        yield names.ACCESS_RECORDS_DROPPED, (), self.dropped

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait()
            closing = self._closing.wait(self._flush_s)
            self._wake.clear()
            self._waiting = True  # before the last look at the list: a line put from here on sets _wake again
            while self._lines:
                self._write_batch()

    def _write_batch(self) -> None:
        lines = self._lines[:_BATCH]
        del self._lines[: len(lines)]
        text = "".join(lines)
        with self._lock:
            left = self._write(text.encode("utf-8", "backslashreplace"))
        if left:
            self._lost += len(lines)
        self._taken += len(text)

    def _write(self, text: bytes) -> int:
        """Write `text`, however long that takes. Returns how many bytes are left where it fails (closed pipe, full disk) or is given up."""
        rest = memoryview(text)
        while rest and not self._given_up:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # another process made the shared descriptor non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(1000)
            except OSError:
                break
        return len(rest)
