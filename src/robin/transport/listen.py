"""Listening sockets: bound with their final mode, accepted from, and unlinked only if the path is still ours."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress, literal, reached
from robin.model.exhaustion import EXHAUSTED
from robin.transport.bind_lock import BindLockRefused, bind_lock

_BACKLOG: Final = 1024
_ACCEPTS_PER_WAKE: Final = 64
_PASSING: Final = frozenset({errno.EAGAIN, errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM})
_PAUSE_S: Final = 1.0


class BindError(Exception):
    """An address cannot be bound; the message names it and the fix. `taken`: another socket listens there."""

    def __init__(self, message: str, *, taken: bool = False) -> None:
        super().__init__(message)
        self.taken = taken


class BoundSocket:
    """One listening socket and what is to be undone when it closes. `label` is its name in records and metrics."""

    __slots__ = ("_inode", "_path", "label", "sock")

    def __init__(self, sock: socket.socket, label: str, path: str | None = None) -> None:
        self.sock = sock
        self.label = label
        self._path = path
        self._inode = _inode(path) if path else None

    def close(self) -> None:
        """Close; unlink a Unix path only if the inode there is the one we made."""
        if self._path is not None and self._inode is not None and _inode(self._path) == self._inode:
            with contextlib.suppress(OSError):  # a folder that became read-only must not make the exit fail
                os.unlink(self._path)
        self.sock.close()

    @property
    def unix(self) -> bool:
        """Whether this is a Unix socket."""
        return self.sock.family == socket.AF_UNIX


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def bind(address: Address, activated: dict[str, list[socket.socket]], warn: Callable[[str, str], None]) -> list[BoundSocket]:
    """Bind and listen. `activated` are the sockets that systemd passed, by name; `warn(event, text)` reports risks.

    Raises BindError; a best-effort TCP address whose family or address is missing gives an empty list.
    """
    if isinstance(address, ActivatedAddress):
        socks = activated.get(address.name, [])
        for sock in socks:
            sock.setblocking(False)
        return [BoundSocket(sock, str(address)) for sock in socks]
    if isinstance(address, UnixAddress):
        return [_bind_unix(address, warn)]
    return _bind_tcp(address)


def _bind_tcp(address: TcpAddress) -> list[BoundSocket]:
    family = socket.AF_INET6 if ":" in address.host or not address.host else socket.AF_INET
    host = address.host or "::"
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise BindError(f"{address}: {error.strerror}") from None
        if not address.host:  # every interface, on a machine without IPv6
            return _bind_tcp(TcpAddress(host="0.0.0.0", port=address.port))  # noqa: S104 - asked for by an empty host
        if address.best_effort:
            return []
        raise BindError(f"{address}: this machine has no such address family") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not address.host else 1)
        sock.bind((host, address.port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        if not address.host and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            return _bind_tcp(TcpAddress(host="0.0.0.0", port=address.port))  # noqa: S104 - asked for by an empty host
        if address.best_effort and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            return []
        taken = error.errno == errno.EADDRINUSE
        why = "the address is in use; stop the other process or choose another port" if taken else error.strerror
        raise BindError(f"{address}: {why}", taken=taken) from None
    bound = sock.getsockname()
    return [BoundSocket(sock, str(TcpAddress(host=address.host, port=bound[1])))]


def _bind_unix(address: UnixAddress, warn: Callable[[str, str], None]) -> BoundSocket:
    """Bind a Unix path that is free or dead, under its lock: a process that starts at the same time must not mistake ours for dead."""
    _make_parent(address.path, warn)
    try:
        with bind_lock(address.path):
            _clear_stale(address.path)
            return _bind_locked(address)
    except BindLockRefused as refused:
        raise BindError(f"{address}: {refused}") from None
    except OSError as error:
        raise BindError(f"{address}: {error.strerror or error}") from None  # a path that is too long is no error of the kernel


def _bind_locked(address: UnixAddress) -> BoundSocket:
    """Bind. The mode is set on the descriptor before, so that the path never has another one (umask is process-wide)."""
    path = address.path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), address.mode if address.mode is not None else 0o600)
        before = os.umask(0)  # bind applies the umask to the descriptor's mode; no thread of ours makes files at start-up
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        if address.group is not None:
            os.chown(path, -1, address.group, follow_symlinks=False)  # before `listen`, so that its old group could not connect
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return BoundSocket(sock, str(address), path)


def _make_parent(path: str, warn: Callable[[str, str], None]) -> None:
    parent = os.path.dirname(path)
    before = os.umask(0o022)  # 0755 for each folder made, whatever umask we were given
    try:
        os.makedirs(parent, exist_ok=True)
        mode = os.stat(parent).st_mode
    except OSError as error:
        raise BindError(f"unix:{path}: the folder cannot be made: {error.strerror}") from None
    finally:
        os.umask(before)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        warn("socket_folder_writable", f"{parent} is writable by everyone: another user could replace the socket; use mode 0755")


def _clear_stale(path: str) -> None:
    """Remove a dead socket of an earlier run. Raises BindError for anything else that is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(f"unix:{path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise BindError(f"unix:{path}: something that is not a socket is there; remove it or choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError as error:
        raise BindError(f"unix:{path}: {error.strerror}") from None
    else:
        raise BindError(f"unix:{path}: another process is listening there; stop it or choose another path")
    finally:
        probe.close()


class Acceptor:
    """Accepts on one socket and passes each connection on, unread.

    Exhausted descriptors pause it for a second; a connection that is gone already is skipped; any other failure is fatal.
    """

    __slots__ = ("_bound", "_fatal", "_loop", "_paused", "_report", "_take")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bound: BoundSocket,
        take: Callable[[socket.socket, BoundSocket], None],
        report: Callable[[str, str], None],
        fatal: Callable[[str, OSError], None],
    ) -> None:
        """`take(sock, bound)` owns the socket from then on; `report(code, text)` logs; `fatal(label, error)` ends the process."""
        self._loop = loop
        self._bound = bound
        self._take = take
        self._report = report
        self._fatal = fatal
        self._paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to accept."""
        self._paused = None
        self._loop.add_reader(self._bound.sock.fileno(), self._accept)

    def stop(self) -> None:
        """Stop accepting; the socket stays open."""
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        elif self._bound.sock.fileno() >= 0:
            self._loop.remove_reader(self._bound.sock.fileno())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, _ = self._bound.sock.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._report("accept_exhausted", f"{error.strerror}: raise `ulimit -n` or lower {{max_connections}}")
                    self.stop()
                    self._paused = self._loop.call_later(_PAUSE_S, self.start)
                elif error.errno not in _PASSING:
                    self.stop()
                    self._fatal(self._bound.label, error)
                return
            self._take(sock, self._bound)


class OwnAddresses:
    """The TCP addresses of our own listeners, so that no connection of ours leads back to one."""

    __slots__ = ("_exact", "_wildcard_ports")

    def __init__(self) -> None:
        self._exact: set[tuple[str, int]] = set()
        self._wildcard_ports: set[int] = set()

    def learn(self, bounds: list[BoundSocket]) -> None:
        """Add the TCP listeners among `bounds`."""
        for bound in bounds:
            if not bound.unix:
                host, port = bound.sock.getsockname()[:2]
                self._exact.add((_reached(host), port))
                if literal(host).is_unspecified:
                    self._wildcard_ports.add(port)

    def has(self, host: str, port: int) -> bool:
        """Whether connecting to this address would reach one of them. It may ask the kernel, so it is called when a name is resolved."""
        host = _reached(host)
        return (host, port) in self._exact or (port in self._wildcard_ports and _is_local(host))


@lru_cache(1024)  # the addresses of an origin are asked about for each connection to it
def _reached(host: str) -> str:
    return str(reached(host))


def _is_local(host: str) -> bool:
    """Whether the address is one of this machine: only such an address can be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
