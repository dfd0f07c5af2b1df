"""Outlives a test run that was killed, ends what it left and goes: one line on stdin for each thing, end of file when the run is over.

`+ PID START` a process group to end (START is field 22 of /proc/PID/stat, so a reused pid is left alone), `- PID` it has ended,
`folder PATH` a folder to remove.
"""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path


def started_at(pid: int) -> str:
    """When the kernel started it, in ticks; empty when there is no such process, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    running: dict[int, str] = {}
    folders: list[str] = []
    for line in sys.stdin:
        match line.rstrip("\n").split(" ", 2):
            case ["+", pid, start]:
                running[int(pid)] = start
            case ["-", pid]:
                running.pop(int(pid), None)
            case ["folder", *path]:
                folders.append(" ".join(path))
    for pid, start in running.items():
        if started_at(pid) == start:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
