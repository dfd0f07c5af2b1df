"""What the machines made of namespaces share: their process 1, stepping into their network, and the control groups to remove after them."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
KEPT_BACK = "-sys_boot,-sys_module,-sys_rawio,-sys_time,-syslog,-wake_alarm"  # capabilities that would reach beyond the namespaces
NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc")


def first_child(pid: int) -> int:
    """The process 1 that this `unshare --fork` has made, as this side numbers it; 0 before there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else 0


@contextlib.contextmanager
def network_of(pid: int) -> Iterator[None]:
    """This thread is in the network of that process: what it opens now stays there, and the programs it starts are there too."""
    with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{pid}/ns/net") as theirs:
        _enter_network(theirs.fileno())
        try:
            yield
        finally:
            _enter_network(ours.fileno())


def remove_groups(group: Path) -> None:
    """From the leaves up; what still has processes stays."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _enter_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
