"""What the kernel says: cores to pin to, CPU seconds and memory of a process tree.

Memory is in bytes, and MB in this bench is 1,000,000 bytes.
"""

import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """One core for the proxy, another for the load generator and the upstream."""

    proxy: int
    load: int


def choose_cores() -> Cores:
    """The last two cores we may use; raises SystemExit on a machine with one."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: needs two cores, one for the proxy and one for its load")
    return Cores(proxy=allowed[-1], load=allowed[-2])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started inside inherit the one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy_shares(cores: Cores, seconds: float) -> dict[str, float]:
    """Percent of each core that is in use, or taken away by the hypervisor, while we only look."""
    before = _core_ticks()
    time.sleep(seconds)
    after = _core_ticks()
    shares = {}
    for name, core in (("proxy core", cores.proxy), ("load core", cores.load)):
        idle, whole = (after[core][i] - before[core][i] for i in range(2))
        shares[name] = 100 * (whole - idle) / max(1, whole)
    return shares


def _core_ticks() -> dict[int, tuple[int, int]]:
    """Ticks that each core was idle, and all its ticks."""
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            spent = [int(tick) for tick in ticks[:8]]  # what follows is counted in them already
            found[int(name[3:])] = (spent[3] + spent[4], sum(spent))
    return found


def shut_others_out() -> None:
    """Go on in a child that comes before everything else on its cores; raises SystemExit unless we are root.

    A session of its own, because the kernel weighs sessions (autogroups) first and niceness only inside one.
    """
    if os.geteuid() != 0:
        raise SystemExit("bench: --undisturbed needs root")
    child = os.fork()
    if child == 0:
        os.setsid()
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        autogroup = Path("/proc/self/autogroup")
        if autogroup.exists():
            autogroup.write_text("-20")
        return
    signal.signal(signal.SIGINT, lambda *_: os.kill(child, signal.SIGINT))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def family(pid: int) -> list[int]:
    """The process and all its living descendants."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            members += [int(child) for child in task.read_text().split()]
    return members


def cpu_seconds(pids: list[int]) -> float:
    """User and system time spent so far."""
    return sum(cpu_split(pids))


def cpu_split(pids: list[int]) -> tuple[float, float]:
    """User time, system time, in seconds."""
    user = system = 0
    for pid in pids:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(after_name[11]), system + int(after_name[12])
    return user / TICKS_PER_S, system / TICKS_PER_S


def resident_bytes(pids: list[int]) -> int:
    """Resident memory, shared pages counted once per process."""
    return sum(_status_bytes(pid, "VmRSS") for pid in pids)


def peak_bytes(pids: list[int]) -> int:
    """Highest resident memory since the start or the last `forget_peak`."""
    return sum(_status_bytes(pid, "VmHWM") for pid in pids)


def forget_peak(pids: list[int]) -> None:
    """Let the kernel's high-water mark start again from the present value."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def describe() -> str:
    """CPU, core count, kernel."""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"


def _status_bytes(pid: int, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/{pid}/status has no {key}")
