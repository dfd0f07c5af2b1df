"""Who connected to a Unix socket: read once at accept, and never more than the kernel proves.

A pid can be used again. A name is believed only if a descriptor of the very process (SO_PEERPIDFD) is at hand and the process still lives
after all was read. In another pid namespace the pid is 0, in another user namespace the ids are those of the overflow user.
"""

import contextlib
import os
import select
import socket
from pathlib import Path
from typing import Final

from robin.policy.broker_issue import UNKNOWN, Peer
from robin.proxy.admission import peer_credentials

_SO_PEERPIDFD: Final = 77  # Linux 6.5, on the common architectures; Python has no name for it
_CGROUP_CHARACTERS: Final = 16384


def read_peer(sock: socket.socket, proc: Path = Path("/proc")) -> Peer:
    """The peer of an accepted socket."""
    found = peer_credentials(sock)
    if found is None:
        return Peer(uid=None, gid=None, pid=None)
    peer = Peer(uid=found.uid, gid=found.gid, pid=found.pid or None)
    fd = _pidfd(sock) if found.pid else None
    if fd is None:
        return peer
    try:
        folder = proc / str(found.pid)
        process, exe, cgroup = UNKNOWN, UNKNOWN, ""
        with contextlib.suppress(OSError):
            process = (folder / "comm").read_text("utf-8", "backslashreplace").rstrip("\n")[:64]
        with contextlib.suppress(OSError):
            if os.stat(folder / "ns" / "mnt").st_ino == os.stat(proc / "self" / "ns" / "mnt").st_ino:
                exe = str((folder / "exe").readlink())
        with contextlib.suppress(OSError):
            cgroup = (folder / "cgroup").read_text("ascii", "backslashreplace")[:_CGROUP_CHARACTERS]
        if _has_ended(fd):
            return peer
        return Peer(uid=found.uid, gid=found.gid, pid=found.pid, pid_proven=True, process=process, exe=exe, cgroup=cgroup)
    finally:
        os.close(fd)


def _pidfd(sock: socket.socket) -> int | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        return None


def _has_ended(fd: int) -> bool:
    """A descriptor of a process is readable once the process has ended."""
    watch = select.poll()
    watch.register(fd, select.POLLIN)
    return bool(watch.poll(0))
