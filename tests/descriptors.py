"""What descriptors another process has open, and a process that has none left to give."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def open_descriptors(pid: int) -> list[str]:
    """What each descriptor of the process is. Robin refuses inspection, so only root can look: for others the test is skipped."""
    folder = f"/proc/{pid}/fd"
    found = []
    try:
        for name in os.listdir(folder):
            try:
                found.append(os.readlink(f"{folder}/{name}"))
            except FileNotFoundError:
                continue
    except PermissionError:
        pytest.skip("needs root: Robin's descriptors are hidden from other processes, also of its user")
    return found


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """What is open stays open; nothing can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def listening(pid: int) -> set[tuple[str, int]]:
    """Where this process accepts TCP, as /proc/net writes it: address in hexadecimal, and port."""
    found, own = set(), open_descriptors(pid)
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add((fields[1].partition(":")[0], int(fields[1].partition(":")[2], 16)))
    return found
