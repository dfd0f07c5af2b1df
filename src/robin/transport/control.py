"""A gRPC channel to the Workload API of the platform, over a Unix socket or TCP on a literal address.

The channel connects when a call needs it, and again when the connection ended, when the socket file was replaced, or after two timeouts in
a row. It carries one call at a time. It needs no Permit: the operator configured the endpoint, and no caller's bytes are sent to it.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from robin.model.address import TcpAddress, UnixAddress
from robin.model.secret import Secret
from robin.wire.grpc import GrpcResponse
from robin.wire.grpc_call import GrpcClientConnection, Header

_TIMEOUTS_MAX: Final = 2

EndpointId = tuple[int, int, int]
"""Device, inode and ctime of a socket file: another one has another identity (an inode number alone may be reused at once)."""


class ControlChannel:
    """Calls one endpoint."""

    __slots__ = ("_address", "_connection", "_endpoint_id", "_timeouts")

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        self._address = address
        self._connection: _Connection | None = None
        self._endpoint_id: EndpointId | None = None
        self._timeouts = 0

    def endpoint_id(self) -> EndpointId | None:
        """The identity of the socket file as it is now; None if there is none, and for TCP."""
        if isinstance(self._address, TcpAddress):
            return None
        try:
            found = os.stat(self._address.path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_ctime_ns)

    async def call(self, path: str, metadata: Sequence[Header], message: bytes, *, timeout_s: float) -> GrpcResponse:
        """One unary call, dialling included, within `timeout_s`. Never raises for what the network or the peer does."""
        deadline_at = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline_at):
                connection = await self._reach()
                response = await connection.call(path, metadata, message, deadline_at=deadline_at)
        except TimeoutError:
            self._timeouts += 1
            if self._timeouts >= _TIMEOUTS_MAX:
                self.close()
            return GrpcResponse(code="DeadlineExceeded", text=f"no answer within {timeout_s:g} s")
        except OSError as error:
            self.close()
            return GrpcResponse(code="Unavailable", text=error.strerror or type(error).__name__)
        self._timeouts = 0
        return response

    async def watch(
        self, path: str, metadata: Sequence[Header], message: bytes, *, first_s: float, on_message: Callable[[Secret], None]
    ) -> GrpcResponse:
        """One call that the server streams, until it ends; the first message has to come within `first_s`, dialling included.

        Returns how the call ended. Never raises for what the network or the peer does.
        """
        deadline_at = asyncio.get_running_loop().time() + first_s
        try:
            async with asyncio.timeout_at(deadline_at) as deadline:
                connection = await self._reach()

                def take(octets: Secret) -> None:
                    deadline.reschedule(None)
                    on_message(octets)

                return await connection.watch(path, metadata, message, take)
        except TimeoutError:
            return GrpcResponse(code="DeadlineExceeded", text=f"no answer within {first_s:g} s")
        except OSError as error:
            return GrpcResponse(code="Unavailable", text=error.strerror or type(error).__name__)
        finally:
            self.close()

    def close(self) -> None:
        """Abort the connection, if there is one."""
        connection, self._connection, self._timeouts = self._connection, None, 0
        if connection is not None:
            connection.abort()

    async def _reach(self) -> "_Connection":
        """The open connection if it can be used, else a new one."""
        endpoint_id = self.endpoint_id()
        if self._connection is not None and self._connection.grpc.usable and endpoint_id == self._endpoint_id:
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
        self._connection, self._endpoint_id = connection, endpoint_id
        return connection


class _Connection(asyncio.Protocol):
    """Moves bytes between a socket and its GrpcClientConnection."""

    __slots__ = ("_on_message", "_transport", "_waiter", "grpc")

    def __init__(self, authority: str) -> None:
        self.grpc = GrpcClientConnection(authority)
        self._transport: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_message: Callable[[Secret], None] | None = None

    async def call(self, path: str, metadata: Sequence[Header], message: bytes, *, deadline_at: float) -> GrpcResponse:
        if not self.grpc.usable:
            return GrpcResponse(code="Unavailable", text="the peer ended the connection before the call")
        return await self._run(path, metadata, message, timeout_s=deadline_at - asyncio.get_running_loop().time())

    async def watch(self, path: str, metadata: Sequence[Header], message: bytes, on_message: Callable[[Secret], None]) -> GrpcResponse:
        self._on_message = on_message
        return await self._run(path, metadata, message, timeout_s=None)

    async def _run(self, path: str, metadata: Sequence[Header], message: bytes, *, timeout_s: float | None) -> GrpcResponse:
        self.grpc.begin(path, metadata, message, timeout_s=timeout_s)
        self._waiter = asyncio.get_running_loop().create_future()
        self._flush()
        try:
            if self.grpc.response is None:
                await self._waiter
        finally:  # after a deadline or a cancellation the call is reset, so that the peer can stop
            self._waiter = None
            self.grpc.cancel()
            self._flush()
        assert self.grpc.response is not None
        return self.grpc.response

    def abort(self) -> None:
        self.grpc.lost()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._flush()

    def data_received(self, octets: bytes) -> None:
        self.grpc.receive(octets)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.grpc.lost()
        self._flush()

    def _flush(self) -> None:
        """Send what is pending, wake the waiter, and close a connection on which no further call can begin."""
        if self._transport is not None and not self._transport.is_closing() and (outgoing := self.grpc.outgoing()):
            self._transport.write(outgoing)
        messages, self.grpc.messages = self.grpc.messages, []
        if self._on_message is not None:
            for message in messages:
                self._on_message(message)
        if self.grpc.response is not None and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if not self.grpc.usable and self.grpc.idle and self._transport is not None:
            self._transport.close()
