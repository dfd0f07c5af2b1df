"""What the kernel says of a process: resident memory, processor time, open descriptors."""

import os
from pathlib import Path

from tests.descriptors import open_descriptors

from robin.testing.waiting import eventually
from robin.transport.deadlines import GRAIN_S
from robin.transport.malloc_trim import EVERY_S

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """VmRSS."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no VmRSS for {pid}")


async def resident_bytes_at_rest(pid: int) -> int:
    """VmRSS once it stands still for so long that what was freed before has gone back to the system."""
    seen: list[int] = []
    looks = round((EVERY_S + 2 * GRAIN_S) / GRAIN_S)

    def stands() -> bool:
        seen.append(resident_bytes(pid))
        return len(seen) > looks and len(set(seen[-looks - 1 :])) == 1

    await eventually(stands, timeout_s=60.0, every_s=GRAIN_S, what="resident memory to stand still")
    return seen[-1]


def processor_s(pid: int) -> float:
    """User and system time so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS_PER_S


def open_sockets(pid: int) -> int:
    """How many of its descriptors are sockets."""
    return sum(one.startswith("socket:") for one in open_descriptors(pid))
