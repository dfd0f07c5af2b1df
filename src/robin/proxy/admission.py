"""Who may open a connection: judged at accept, before a byte is read, by every plane in the same way and without its protocol.

A refusal is written without reading what the peer sent, so that a refused peer can make nothing happen. The rules of a listener are data.
"""

import asyncio
import select
import socket
import struct
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from robin.model.address import is_loopback
from robin.model.caller import Caller, Evidence, ListenerRule
from robin.model.faults import Fault
from robin.telemetry.metrics import Metrics
from robin.transport.listen import BoundSocket
from robin.transport.tasks import TaskOwner

_REFUSALS_MAX: Final = 64
_REFUSAL_LINGER_S: Final = 1.0
_POLL_S: Final = 0.02
_REFUSAL_LINGER_BYTES: Final = 65536

REFUSALS: Final = {
    "uid": "uid: this user may not use the socket",
    "no_credentials": "no_credentials: the kernel does not say whose connection this is; connect from this machine",
    "not_loopback": "not_loopback: this listener serves loopback only",
    "connections": "connections: the limit of connections is reached",
}
"""The detail of a refusal by its reason, where a plane names no setting; the first three are labels of `robin_peer_denied_total`."""

Serve = Callable[[socket.socket, Caller], Coroutine[Any, Any, None]]
"""Serves one admitted connection to its end, and closes the socket."""
Refuse = Callable[[Caller, Fault], bytes]
"""Records a refused connection. Returns what its peer is sent before the close; empty: nothing, it is closed at once."""


class Admission:
    """Takes each accepted socket of one plane: serves it, or writes a refusal and closes it. The limit counts all listeners together."""

    __slots__ = ("_admitted", "_details", "_loop", "_metrics", "_refusals", "_refuse", "_serve", "_tasks", "connections")

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskOwner,
        metrics: Metrics,
        connections: int,
        serve: Serve,
        refuse: Refuse,
        details: Mapping[str, str],
    ) -> None:
        """`connections`: the limit. `details`: the text of a refusal by its reason."""
        self._loop = loop
        self._tasks = tasks
        self._metrics = metrics
        self.connections = connections
        self._details = details
        self._serve = serve
        self._refuse = refuse
        self._admitted = 0  # counted here: many are accepted in one turn of the loop, before the first of them is served
        self._refusals = 0

    def take(self, rule: ListenerRule, sock: socket.socket, bound: BoundSocket) -> None:
        """Judge a socket that was accepted on `bound`, and own it from now on."""
        sock.setblocking(False)
        try:
            caller, denied = judge_peer(rule, sock, bound)
        except OSError:  # the peer reset the connection before it was judged: no caller, no exchange
            sock.close()
            return
        if denied is not None:
            self._metrics.peer_denied[denied] += 1
            self._write_refusal(sock, caller, Fault("peer_denied", self._details[denied]))
        elif self._admitted >= self.connections:
            self._write_refusal(sock, caller, Fault("limit_connections", self._details["connections"]))
        else:
            self._admitted += 1
            self._tasks.start(self._serve(sock, caller), "connection").add_done_callback(self._on_done)

    def _on_done(self, _: "asyncio.Task[None]") -> None:
        self._admitted -= 1

    def _write_refusal(self, sock: socket.socket, caller: Caller, fault: Fault) -> None:
        octets = self._refuse(caller, fault)
        if not octets or self._refusals >= _REFUSALS_MAX:
            sock.close()
        else:
            self._refusals += 1
            self._tasks.start(self._close_after_refusal(sock, octets, read=fault.code != "peer_denied"), "refusal")

    async def _close_after_refusal(self, sock: socket.socket, octets: bytes, *, read: bool) -> None:
        """Write the refusal, half-close, and give the peer a moment to receive it: a close at once could destroy it by a reset.

        A denied peer is not read even then.
        """
        try:
            async with asyncio.timeout(_REFUSAL_LINGER_S):
                await self._loop.sock_sendall(sock, octets)
                sock.shutdown(socket.SHUT_WR)
                if not read:
                    await _wait_for_hangup(sock)
                left = _REFUSAL_LINGER_BYTES if read else 0
                while left > 0 and (received := await self._loop.sock_recv(sock, left)):
                    left -= len(received)
        except (OSError, TimeoutError):
            pass
        finally:
            self._refusals -= 1
            sock.close()


class PeerCredentials(NamedTuple):
    """The process that connected to a Unix socket, as it was at its connect."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials | None:
    """The credentials of a Unix peer, as the kernel noted them (SO_PEERCRED); None where it gives none."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    return PeerCredentials(*struct.unpack("3I", packed))


def judge_peer(rule: ListenerRule, sock: socket.socket, bound: BoundSocket) -> tuple[Caller, str | None]:
    """Return the caller, and the reason for which it is denied (None: it is admitted). Raises OSError when the peer is gone already."""
    if bound.unix:
        peer = peer_credentials(sock)
        if peer is None:
            return Caller(evidence=Evidence.UNIX_PEER, listener=bound.label), "no_credentials"
        caller = Caller(evidence=Evidence.UNIX_PEER, listener=bound.label, uid=peer.uid, gid=peer.gid, pid=peer.pid)
        return caller, "uid" if rule.allow_uids is not None and peer.uid not in rule.allow_uids else None
    peer_host = sock.getpeername()[0]
    loopback = _is_loopback(peer_host) and _is_loopback(sock.getsockname()[0])
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    evidence = Evidence.LOOPBACK if loopback else Evidence.OPEN
    return Caller(evidence=evidence, listener=bound.label, address=peer_host), None if loopback or rule.beyond_loopback else "not_loopback"


_is_loopback = lru_cache(1024)(is_loopback)  # a caller connects from one address again and again


async def _wait_for_hangup(sock: socket.socket) -> None:
    """Wait until the peer has closed, without reading what it sent."""
    hangup = select.poll()
    hangup.register(sock, 0)  # POLLHUP and POLLERR are always reported
    while not hangup.poll(0):  # noqa: ASYNC110 - a loop has no event for a hang-up that does not also read
        await asyncio.sleep(_POLL_S)
