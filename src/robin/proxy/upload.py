"""The request body on its way up: framing made anew, at most one read held, stopped by an early answer."""

import asyncio
import math
from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead
from robin.model.route import Route
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.proxy.pool import Upstream
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import forward_trailers
from robin.wire.framing import ChunkedDecoder, FramingError, chunk, last_chunk

_CONTINUE_S: Final = 1.0  # how long a body is withheld without a 100 (RFC 9110 10.1.1)


class Upload:
    """One request body. `done`: all of it is written. `fault`: why it can not be: the connection upstream is aborted then.

    `began`: some of it was taken from the caller, framing counted: what is left can not be read as a body once more.
    """

    __slots__ = (
        "_decoder",
        "_downstream",
        "_engine",
        "_go",
        "_hop",
        "_left",
        "_record",
        "_route",
        "_task",
        "_upstream",
        "began",
        "done",
        "fault",
    )

    def __init__(
        self, downstream: Downstream, upstream: Upstream, head: RequestHead, route: Route, record: ExchangeRecord, engine: Engine
    ) -> None:
        self._downstream = downstream
        self._upstream = upstream
        self._route = route
        self._record = record
        self._engine = engine
        self._decoder = ChunkedDecoder() if head.framing == Framing.CHUNKED else None
        self._hop = head.outline.hop
        self._left = head.length
        self._go: asyncio.Event | None = asyncio.Event() if head.expects_continue else None
        self._task: asyncio.Task[None] | None = None
        self.began = False
        self.done = False
        self.fault: Fault | None = None

    def start(self) -> None:
        """Send what is here; the rest goes on in a task of its own."""
        if self._go is not None or not self._advance():
            self._task = self._engine.tasks.start(self._run(), "upload")

    def got_continue(self) -> None:
        """The upstream said 100: the body may go."""
        if self._go is not None:
            self._go.set()

    async def stop(self) -> bool:
        """End the task, wherever it is. Whether that came too early for the body."""
        early = not self.done
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        return early

    def _advance(self) -> bool:
        """Send on what has been received; whether the body is complete. Raises FramingError."""
        downstream = self._downstream
        if not downstream.received:
            return self.done
        self.began = True
        if self._decoder is None:
            payload = downstream.take(min(self._left, len(downstream.received)))
            self._left -= len(payload)
            octets = payload
            self.done = not self._left
        else:
            pieces, used = self._decoder.decode(downstream.received)
            if used:
                downstream.take(used)
            payload = b"".join(pieces)
            octets = chunk(payload) if payload else b""
            if self._decoder.done:
                octets += last_chunk(forward_trailers(self._decoder.trailers, self._route.header_rules, self._hop))
                self.done = True
        self._record.bytes_in += len(payload)
        self._engine.metrics.body_bytes_in += len(payload)
        if octets:
            self._upstream.write(octets)
        if self.done:
            downstream.resume_reading()
            self._upstream.deadline_at = self._engine.now() + self._route.deadlines.response_s
        return self.done

    async def _run(self) -> None:
        try:
            if self._go is not None:
                await self._await_continue()
            await self._pump()
        except FramingError as error:
            self._fail(Fault("bad_request", str(error)))
        except TimeoutError:
            self._fail(Fault("request_timeout", "body: no byte of the request body within ROBIN_STREAM_IDLE_TIMEOUT"))
        except StreamClosed:
            self._upstream.abort()  # the caller or the upstream left: the exchange finds out which
        finally:
            self._downstream.deadline_at = math.inf

    async def _await_continue(self) -> None:
        assert self._go is not None
        try:
            async with asyncio.timeout(_CONTINUE_S):
                await self._go.wait()
        except TimeoutError:
            pass  # silence: send the body anyway

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
            if self._decoder is not None and self._decoder.eager:
                await asyncio.sleep(0)  # a flood of small chunks: others have their turn
                continue
            downstream.deadline_at = engine.now() + idle_s
            if not await downstream.fill():
                raise StreamClosed
        while upstream.write_blocked:
            await upstream.flush()

    def _fail(self, fault: Fault) -> None:
        self.fault = fault
        self._upstream.abort()
