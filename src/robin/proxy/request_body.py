"""The request body: streamed to the origin with at most one read buffered, or held whole and digested before anything is sent.

Rules a reader must keep: framing is always made anew; a streamed body stops at an early response; no byte of a held body goes upstream
before all of it is here, and a held body can be sent again.
"""

import asyncio
import hashlib
import math
from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, HeldBody, RequestHead
from robin.model.route import Held, Route
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Upstream
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import Direction, forward_trailers
from robin.wire.framing import ChunkedDecoder, FramingError, chunk, last_chunk
from robin.wire.http1 import CONTINUE

_CONTINUE_S: Final = 1.0  # how long a body waits for a 100 of the origin (RFC 9110 section 10.1.1)


class BodyReader:
    """Takes one request body off its connection, without its framing. `done`: all of it was taken."""

    __slots__ = ("_downstream", "_left", "decoder", "done")

    def __init__(self, downstream: Downstream, head: RequestHead) -> None:
        self._downstream = downstream
        self._left = head.length
        self.decoder = ChunkedDecoder() if head.framing == Framing.CHUNKED else None
        self.done = self.decoder is None and not head.length

    def take(self) -> bytes:
        """The payload bytes that have arrived. Raises FramingError."""
        downstream, decoder = self._downstream, self.decoder
        if not downstream.received:
            return b""
        if decoder is None:
            payload = downstream.take(min(self._left, len(downstream.received)))
            self._left -= len(payload)
            self.done = not self._left
            return payload
        pieces, used = decoder.decode(downstream.received)
        if used:
            downstream.take(used)
        self.done = decoder.done
        return b"".join(pieces)

    @property
    def has_more(self) -> bool:
        """Whether `take` stopped for the sake of other connections and can go on without waiting for bytes."""
        return self.decoder is not None and self.decoder.eager


async def hold_body(
    downstream: Downstream, head: RequestHead, mode: Held, idle_s: float, record: ExchangeRecord, engine: Engine
) -> HeldBody | None:
    """Receive the whole body, at most `idle_s` between its parts, and `mode.within_s` in all or as long as the caller's token is valid;
    None where `mode` streams it.

    Trailers are dropped (RFC 9110 6.5.1).

    Raises Fault: limit_body, limit_connections, bad_request, request_timeout; and StreamClosed when the caller disconnects.
    """
    limit_bytes = mode.limit_bytes
    if not mode.holds(head):
        return None
    if head.length > limit_bytes:
        raise _too_large(mode)
    if head.length:
        _reserve(head.length, mode, record, engine)
    if head.expects_continue:
        downstream.write(CONTINUE)
    reader, digest, body = BodyReader(downstream, head), hashlib.sha256(), bytearray()
    end_at = engine.now() + min(mode.within_s, record.caller.expires_at - engine.wall())  # nothing of it is sent before its end
    try:
        while not reader.done:
            payload = reader.take()
            record.bytes_in += len(payload)
            engine.metrics.body_bytes_in += len(payload)
            if record.bytes_in > limit_bytes:
                raise _too_large(mode)
            if record.bytes_in > record.held_bytes:
                _reserve(record.bytes_in - record.held_bytes, mode, record, engine)
            digest.update(payload)
            body += payload  # no list of pieces: small ones would take many times their size
            if reader.has_more:
                await asyncio.sleep(0)
            elif not reader.done:
                downstream.deadline_at = min(end_at, engine.now() + idle_s)
                if not await downstream.fill():
                    raise StreamClosed
    except FramingError as error:
        raise Fault("bad_request", str(error)) from None
    except TimeoutError:
        raise _stalled() from None
    finally:
        downstream.deadline_at = math.inf
    return HeldBody(octets=bytes(body), sha256=digest.digest())


def _reserve(size: int, mode: Held, record: ExchangeRecord, engine: Engine) -> None:
    """Count memory for a body, which the end of the exchange gives back. One body alone always finds room. Raises Fault."""
    if engine.held_bytes + size > max(engine.limits.held_bytes, mode.limit_bytes):
        raise Fault("limit_connections", "held: bodies that are held whole take all the memory that is meant for them; send it again")
    engine.held_bytes += size
    record.held_bytes += size


def _too_large(mode: Held | None = None) -> Fault:
    if mode is not None and mode.too_large:
        return Fault(mode.too_large, "too_large: the request body is larger than may be held for it")
    return Fault("limit_body", "limit_body: the request body is larger than is allowed here")


def _stalled() -> Fault:
    return Fault("request_timeout", "body: no byte of the request body within {stream_idle_timeout}")


class StreamedBody:
    """One request body on its way to one upstream connection. `fault`: why it could not be sent; the upstream is aborted then."""

    __slots__ = (
        "_continue",
        "_downstream",
        "_engine",
        "_limit_bytes",
        "_options",
        "_record",
        "_route",
        "_task",
        "_upstream",
        "fault",
        "reader",
    )

    def __init__(
        self, downstream: Downstream, upstream: Upstream, head: RequestHead, route: Route, record: ExchangeRecord, engine: Engine
    ) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._route = route
        self._record = record
        self._engine = engine
        self._limit_bytes = engine.limits.body_bytes or math.inf
        self._options = head.connection_options
        self._continue: asyncio.Event | None = asyncio.Event() if head.expects_continue else None
        self._task: asyncio.Task[None] | None = None
        self.reader = BodyReader(downstream, head)
        self.fault: Fault | None = None

    def start(self) -> None:
        """Send what has arrived; a task sends the rest. Raises FramingError, Fault `limit_body`."""
        if self._continue is not None or not self._advance():
            self._task = self._engine.tasks.start(self._run(), "request body")

    def got_continue(self) -> None:
        """The origin sent 100: the body may go."""
        if self._continue is not None:
            self._continue.set()

    async def stop(self) -> bool:
        """End the task. Returns True if the body was not complete."""
        early = not self.reader.done
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        return early

    def _advance(self) -> bool:
        """Forward what has arrived. Returns True if the body is complete. Raises FramingError, Fault `limit_body`."""
        downstream, reader = self._downstream, self.reader
        if not downstream.received:
            return reader.done
        payload = octets = reader.take()
        if reader.decoder is not None:
            octets = chunk(payload) if payload else b""
            if reader.done:
                octets += last_chunk(forward_trailers(reader.decoder.trailers, self._options, self._route.header_rules, Direction.UPSTREAM))
        self._record.bytes_in += len(payload)
        self._engine.metrics.body_bytes_in += len(payload)
        if self._record.bytes_in > self._limit_bytes:
            raise _too_large()
        if octets:
            self._upstream.write(octets)
        if reader.done:
            downstream.resume_reading()
            self._upstream.deadline_at = self._engine.now() + self._route.deadlines.response_s
        return reader.done

    async def _run(self) -> None:
        try:
            if self._continue is not None:
                await self._await_continue(self._continue)
            await self._pump()
        except FramingError as error:
            self._fail(Fault("bad_request", str(error)))
        except Fault as fault:
            self._fail(fault)
        except TimeoutError:
            self._fail(_stalled())
        except StreamClosed:
            self._upstream.abort()  # the caller or the origin disconnected: the exchange finds out which
        finally:
            self._downstream.deadline_at = math.inf

    async def _await_continue(self, arrived: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_CONTINUE_S):
                await arrived.wait()
        except TimeoutError:
            pass  # no response within the second: send the body anyway

    async def _pump(self) -> None:
        downstream, upstream, engine = self._downstream, self._upstream, self._engine
        idle_s = self._route.deadlines.stream_idle_s
        while not self._advance():
            if upstream.write_blocked:
                downstream.pause_reading()
            while upstream.write_blocked:
                downstream.deadline_at = upstream.deadline_at = engine.now() + idle_s
                await upstream.flush()
                upstream.deadline_at = math.inf
            if self.reader.has_more:
                await asyncio.sleep(0)  # a flood of small chunks: other connections have their turn
                continue
            downstream.deadline_at = engine.now() + idle_s
            if not await downstream.fill():
                raise StreamClosed
        while upstream.write_blocked:
            await upstream.flush()

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self._upstream.abort()
