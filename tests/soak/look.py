"""What can be seen of a running Robin from outside: memory, descriptors, its own metrics; and how its descriptors are made scarce."""

import asyncio
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What a process holds."""

    resident_bytes: int
    descriptors: int


def size(pid: int) -> Size:
    """Resident memory and open descriptors now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Size(resident_bytes=pages * _PAGE_BYTES, descriptors=len(os.listdir(f"/proc/{pid}/fd")))


def limit_descriptors(pid: int, soft: int | None) -> None:
    """Set the soft limit of a running process; None lifts it to the hard one."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard if soft is None else soft, hard))


async def metrics(admin_url: str) -> dict[str, float]:
    """Every series of `/metrics` by its name with labels; families are summed under their bare name too."""
    place = urlsplit(admin_url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(10.0):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"/metrics answered {head[:80]!r}")
    series: dict[str, float] = {}
    for line in body.decode().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            series[name] = float(value)
            family = name.partition("{")[0]
            if family != name:
                series[family] = series.get(family, 0.0) + float(value)
    return series
