"""systemd's two protocols at real sockets: readiness and watchdog notices, and listening sockets passed at start.

sd_notify(3), sd_listen_fds(3). Without systemd both are silent.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

_FIRST_FD: Final = 3
_FDS_MAX: Final = 64


class Notifier:
    """Notifies the service manager of the state of this process. Never raises: a manager that is gone is no reason to fail."""

    __slots__ = ("_address", "_sock", "watchdog_s")

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. `watchdog_s` is half the watchdog's time, None without one."""
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        if self._address[:1] in {"/", "@"}:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_s = int(usec) / 2e6 if self._sock and ours and usec.isdigit() and int(usec) else None

    def notify(self, *lines: str) -> None:
        """Send one notice, for example `READY=1`."""
        if self._sock is None:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # the manager went away or its queue is full

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()


def activated_sockets(environ: Mapping[str, str], pid: int) -> dict[str, list[socket.socket]]:
    """The listening sockets passed to this process, by LISTEN_FDNAMES name (`unknown` without one). Raises ValueError with the reason."""
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = environ.get("LISTEN_FDS", "")
    if not count.isdigit() or int(count) > _FDS_MAX:
        raise ValueError("LISTEN_FDS is not a small number")
    names = environ.get("LISTEN_FDNAMES", "").split(":") if environ.get("LISTEN_FDNAMES") else ["unknown"] * int(count)
    if len(names) != int(count):
        raise ValueError("LISTEN_FDNAMES does not name each socket of LISTEN_FDS")
    found: dict[str, list[socket.socket]] = {}
    for fd, name in enumerate(names, start=_FIRST_FD):
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
            known = sock.family in {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
            listening = known and sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:  # closed, or no socket at all
            listening = False
        if not listening:
            raise ValueError(f"the passed socket {name} is not a listening stream socket")
        found.setdefault(name, []).append(sock)
    return found
