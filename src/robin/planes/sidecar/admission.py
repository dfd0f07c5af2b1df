"""Who may open a connection: judged at accept, before a byte is read (SO_PEERCRED, loopback, the connection limit)."""

import asyncio
import select
import socket
from typing import Final

from robin.model.address import is_loopback
from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.transport.listen import BoundSocket, peer_credentials
from robin.wire.proxy_status import render_problem

DENIALS: Final = {
    "uid": "uid: this peer may not use the socket; see ROBIN_PEERCRED_ALLOW_UIDS",
    "no_credentials": "no_credentials: the kernel does not say whose connection this is; connect from this machine",
    "not_loopback": "not_loopback: this listener serves loopback only; see ROBIN_UNSAFE_LISTEN",
}
"""Why a peer is denied, the `reason` label of `robin_peer_denied_total`, and what it is told."""

_REFUSALS_MAX: Final = 64
_LINGER_S: Final = 1.0
_LINGER_GRAIN_S: Final = 0.02
_LINGER_BYTES: Final = 65536


class Admission:
    """Takes each accepted socket: serves it, or answers a refusal without reading and closes."""

    __slots__ = ("_admitted", "_allow_uids", "_engine", "_open", "_refusals")

    def __init__(self, engine: Engine, *, allow_uids: tuple[int, ...] | None, unsafe_listen: bool) -> None:
        """`allow_uids`: who may use a Unix socket; None: any local peer."""
        self._engine = engine
        self._admitted = 0  # counted here: many are accepted in one turn of the loop, before the first of them is served
        self._allow_uids = None if allow_uids is None else frozenset(allow_uids)
        self._open = unsafe_listen
        self._refusals = 0

    def take(self, sock: socket.socket, bound: BoundSocket) -> None:
        """Own `sock` from now on."""
        engine = self._engine
        sock.setblocking(False)
        try:
            caller, denied = self._judge(sock, bound)
        except OSError:  # it reset before we looked: no caller, no exchange
            sock.close()
            return
        if denied is not None:
            engine.metrics.peer_denied[denied] += 1
            self._refuse(sock, caller, Fault("peer_denied", DENIALS[denied]))
        elif self._admitted >= engine.limits.connections:
            self._refuse(sock, caller, Fault("limit_connections", "connections: ROBIN_MAX_CONNECTIONS is reached"))
        else:
            self._admitted += 1
            engine.tasks.start(serve_connection(sock, caller, engine), "connection").add_done_callback(self._left)

    def _left(self, _: "asyncio.Task[None]") -> None:
        self._admitted -= 1

    def _judge(self, sock: socket.socket, bound: BoundSocket) -> tuple[Caller, str | None]:
        """The caller, and why it is denied (None: it is not). Raises OSError when the peer is gone already."""
        if bound.unix:
            known = peer_credentials(sock)
            if known is None:
                return Caller(evidence=Evidence.UNIX_PEER, listener=bound.label), "no_credentials"
            uid, pid = known
            caller = Caller(evidence=Evidence.UNIX_PEER, listener=bound.label, uid=uid, pid=pid)
            return caller, "uid" if self._allow_uids is not None and uid not in self._allow_uids else None
        loopback = is_loopback(sock.getpeername()[0]) and is_loopback(sock.getsockname()[0])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        evidence = Evidence.LOOPBACK if loopback else Evidence.OPEN
        return Caller(evidence=evidence, listener=bound.label), None if loopback or self._open else "not_loopback"

    def _refuse(self, sock: socket.socket, caller: Caller, fault: Fault) -> None:
        engine = self._engine
        record = ExchangeRecord(caller, engine.clock())
        record.outcome = fault.code
        record.status = fault.kind.status
        record.request_id = engine.recorder.request_id()
        answer = render_problem(
            fault.kind, detail=fault.detail, request_id=record.request_id, retry_after_s=fault.retry_after_s, close=True, head_only=False
        )
        engine.recorder.finish(record)
        if self._refusals >= _REFUSALS_MAX:
            sock.close()
        else:
            self._refusals += 1
            engine.tasks.start(self._part(sock, answer, unread=fault.code == "peer_denied"), "refusal")

    async def _part(self, sock: socket.socket, answer: bytes, *, unread: bool) -> None:
        """Write the refusal, say that it is all, and leave the peer a moment to take it: closing at once could destroy it by a reset.

        A denied peer is not read even then.
        """
        try:
            async with asyncio.timeout(_LINGER_S):
                await self._engine.loop.sock_sendall(sock, answer)
                sock.shutdown(socket.SHUT_WR)
                if unread:
                    await _until_gone(sock)
                left = 0 if unread else _LINGER_BYTES
                while left > 0 and (octets := await self._engine.loop.sock_recv(sock, left)):
                    left -= len(octets)
        except (OSError, TimeoutError):
            pass
        finally:
            self._refusals -= 1
            sock.close()


async def _until_gone(sock: socket.socket) -> None:
    """Wait until the peer has closed, without reading what it sent."""
    hung_up = select.poll()
    hung_up.register(sock, 0)  # POLLHUP and POLLERR are told unasked
    while not hung_up.poll(0):  # noqa: ASYNC110 - a loop has no event for a hang-up that does not also read
        await asyncio.sleep(_LINGER_GRAIN_S)
