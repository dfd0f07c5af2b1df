"""The control-plane dial: a kept-open gRPC channel to the Workload API, over a Unix socket or TCP on literal addresses.

The channel is dialled when a call needs it, and anew when the connection ended, when the socket file is another one, or after two deadlines
in a row. It carries one call at a time, and never the traffic of a caller: the Permit rule is for origins, this is the platform.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from robin.model.address import TcpAddress, UnixAddress
from robin.wire.grpc import GrpcAnswer
from robin.wire.grpc_call import GrpcLine, Header

_MISSES_MAX: Final = 2

Landmark = tuple[int, int, int]
"""What tells one socket file from its successor: device, inode and ctime (inode numbers are used again at once)."""


class ControlChannel:
    """Calls one endpoint."""

    __slots__ = ("_address", "_connection", "_dialled", "_misses")

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        self._address = address
        self._connection: _Connection | None = None
        self._dialled: Landmark | None = None
        self._misses = 0

    def landmark(self) -> Landmark | None:
        """The socket file as it is now; None where there is none, and for TCP."""
        if isinstance(self._address, TcpAddress):
            return None
        try:
            found = os.stat(self._address.path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_ctime_ns)

    async def call(self, path: str, metadata: Sequence[Header], message: bytes, *, timeout_s: float) -> GrpcAnswer:
        """One unary call, dialling included, within `timeout_s`. Never raises for what the network or the peer does."""
        deadline_at = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline_at):
                connection = await self._reach()
                answer = await connection.call(path, metadata, message, deadline_at=deadline_at)
        except TimeoutError:
            self._misses += 1
            if self._misses >= _MISSES_MAX:
                self.close()
            return GrpcAnswer(code="DeadlineExceeded", text=f"no answer within {timeout_s:g} s")
        except OSError as error:
            self.close()
            return GrpcAnswer(code="Unavailable", text=error.strerror or type(error).__name__)
        self._misses = 0
        return answer

    def close(self) -> None:
        """Let go of the connection, if there is one."""
        connection, self._connection, self._misses = self._connection, None, 0
        if connection is not None:
            connection.abort()

    async def _reach(self) -> "_Connection":
        """The open connection, or a new one."""
        landmark = self.landmark()
        if self._connection is not None and self._connection.line.usable and landmark == self._dialled:
            return self._connection
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        loop = asyncio.get_running_loop()
        address = self._address
        if isinstance(address, UnixAddress):
            _, connection = await loop.create_unix_connection(lambda: _Connection("localhost"), address.path)
        else:
            _, connection = await loop.create_connection(lambda: _Connection(str(address)), address.host, address.port)
        self._connection, self._dialled = connection, landmark
        return connection


class _Connection(asyncio.Protocol):
    """Moves bytes between a socket and its GrpcLine."""

    __slots__ = ("_transport", "_waiter", "line")

    def __init__(self, authority: str) -> None:
        self.line = GrpcLine(authority)
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None

    async def call(self, path: str, metadata: Sequence[Header], message: bytes, *, deadline_at: float) -> GrpcAnswer:
        if not self.line.usable:
            return GrpcAnswer(code="Unavailable", text="the peer ended the connection before the call")
        loop = asyncio.get_running_loop()
        self.line.begin(path, metadata, message, timeout_s=deadline_at - loop.time())
        self._waiter = loop.create_future()
        self._flush()
        try:
            if self.line.answer is None:
                await self._waiter
        finally:  # a deadline or a cancellation: the peer hears that nobody waits any more
            self._waiter = None
            self.line.cancel()
            self._flush()
        assert self.line.answer is not None
        return self.line.answer

    def abort(self) -> None:
        self.line.lost()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, octets: bytes) -> None:
        self.line.receive(octets)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.line.lost()
        self._flush()

    def _flush(self) -> None:
        """Send what is to be sent, tell the waiter, and hang up on a line that can serve nobody."""
        if self._transport is not None and not self._transport.is_closing() and (outgoing := self.line.outgoing()):
            self._transport.write(outgoing)
        if self.line.answer is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if not self.line.usable and self.line.idle and self._transport is not None:
            self._transport.close()
