"""What the kernel counts of this process, under the names that every Prometheus library gives it (`process_*`), read from /proc."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from robin.telemetry import names
from robin.telemetry.names import Reading

# fields of /proc/self/stat behind the command's `)`, counted from 0 (proc(5))
_START_TIME, _VIRTUAL, _RESIDENT_PAGES = 19, 20, 21


class ProcessCounters:
    """This process's CPU time, memory, descriptors and start; what /proc does not have on this machine is not yielded."""

    __slots__ = ("_proc", "_started_at")

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        try:
            self._started_at: float | None = self._boot_time() + float(self._stat()[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            self._started_at = None

    def readings(self) -> Iterator[Reading]:
        """Every series, read now."""
        times = os.times()
        yield names.PROCESS_CPU, (), times.user + times.system
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield names.PROCESS_MAX_FDS, (), float("inf") if limit == resource.RLIM_INFINITY else limit
        if self._started_at is None:
            return
        yield names.PROCESS_START, (), self._started_at
        try:
            stat, descriptors = self._stat(), len(os.listdir(self._proc / "self" / "fd"))
        except OSError:  # no descriptor left to look with
            return
        yield names.PROCESS_OPEN_FDS, (), descriptors - 1  # without the one that looked
        yield names.PROCESS_VIRTUAL, (), int(stat[_VIRTUAL])
        yield names.PROCESS_RESIDENT, (), int(stat[_RESIDENT_PAGES]) * resource.getpagesize()

    def _stat(self) -> list[bytes]:
        return (self._proc / "self" / "stat").read_bytes().rpartition(b")")[2].split()

    def _boot_time(self) -> float:
        for line in (self._proc / "stat").read_bytes().splitlines():
            if line.startswith(b"btime "):
                return float(line[6:])
        raise ValueError("no btime")
