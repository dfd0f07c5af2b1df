"""One request on one upstream connection: what sending it and relaying its response share.

Rules a reader must keep: a response head is parsed whole before a byte of it is relayed; at most one loop read is buffered per direction;
an upstream connection is `reusable` only after a whole and clean response with nothing behind it.
"""

import asyncio
import math
from typing import Final, NoReturn

from robin.model.faults import Fault
from robin.model.message import HeldBody, RequestHead
from robin.model.route import Route
from robin.model.secret import Secret
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.proxy.request_body import StreamedBody
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Upstream
from robin.transport.stream import StreamClosed
from robin.wire.framing import FramingError

_REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class CallerLeft(Exception):
    """The caller disconnected before the response ended."""


class StaleConnection(Exception):
    """The upstream closed before a byte of a response, or spoke before the request.

    `may_repeat`: the request may be sent once more, on a new connection.
    """

    def __init__(self, reason: str, *, may_repeat: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_repeat = may_repeat


class Attempt:
    """The parts of one attempt.

    `tokens` are those that this attempt and the ones before were sent with: no response head may show them. `held`: the request body is
    held, so it can be sent again. `body`: the streamed body, where it is not sent with the head. `upgrade`: the protocol that the route
    lets this request switch to. `interim`, `interim_bytes`: the interim responses so far. `scanned`: bytes of an unfinished response head
    that were searched for its end. `own_fields`: lines of our own for the final response.
    """

    __slots__ = (
        "_body_at",
        "body",
        "downstream",
        "engine",
        "head",
        "held",
        "idle_s",
        "interim",
        "interim_bytes",
        "own_fields",
        "record",
        "route",
        "scanned",
        "tokens",
        "upgrade",
        "upstream",
    )

    def __init__(
        self,
        downstream: Downstream,
        upstream: Upstream,
        head: RequestHead,
        route: Route,
        held: HeldBody | None,
        record: ExchangeRecord,
        engine: Engine,
    ) -> None:
        self.downstream = downstream
        self.upstream = upstream
        self.tokens: tuple[Secret, ...] = ()
        self.head = head
        self.route = route
        self.record = record
        self.engine = engine
        self.upgrade = None if head.upgrade is None or not route.permits_upgrade(head.method, head.upgrade) else head.upgrade
        self.idle_s = route.deadlines.stream_idle_s
        self.held = held
        self.body: StreamedBody | None = None
        self.interim = 0
        self.interim_bytes = 0
        self.scanned = 0
        self.own_fields = route.response_fields
        self._body_at = downstream.bytes_received - len(downstream.received)
        downstream.peer = upstream
        downstream.ending = False

    def took_body(self) -> bool:
        """Whether a byte behind the request head was taken from the caller, framing and what was sent with the head included: gone."""
        downstream = self.downstream
        return downstream.bytes_received - len(downstream.received) != self._body_at

    @property
    def body_is_repeatable(self) -> bool:
        """Whether the whole request can be sent again after a response: it has no body, or a held one.

        A body that was announced and not sent is none: its connection must not be used again.
        """
        return self.held is not None or (self.body is None and not self.took_body())

    def check_before_send(self) -> None:
        """Raise CallerLeft, or StaleConnection if the upstream spoke or ended while we waited: that is no response to this request.

        Nothing was sent yet, so a request of any method may be repeated.
        """
        upstream = self.upstream
        if self.downstream.eof:
            upstream.reusable = True
            raise CallerLeft
        if upstream.reused and (upstream.received or upstream.eof):
            raise StaleConnection("eof", may_repeat=True)

    def check_caller(self) -> None:
        """Raise Fault if the request body failed, CallerLeft if the caller disconnected."""
        if self.body is not None and self.body.fault is not None:
            raise self.body.fault
        if self.downstream.eof:
            raise CallerLeft

    async def flush_downstream(self) -> None:
        """Wait until the caller took what was written. Raises CallerLeft, StreamClosed."""
        downstream = self.downstream
        if not downstream.write_blocked:
            return  # the deadline may be that of a body that is still arriving
        while downstream.write_blocked:
            if downstream.eof:
                raise CallerLeft
            downstream.deadline_at = self.engine.now() + self.idle_s
            try:
                await downstream.flush()
            except TimeoutError:
                downstream.reset()  # it takes no more, as if it had disconnected; a part must not look like the whole
                raise CallerLeft from None
        uploading = self.body is not None and not self.body.reader.done
        downstream.deadline_at = self.engine.now() + self.idle_s if uploading else math.inf

    async def next_piece(self, *, partial: bool = False, may_end: bool = False) -> None:
        """Let the caller take what was written, then wait for more from the upstream. Raises CallerLeft, StreamClosed, TimeoutError.

        `partial`: what is in `received` was looked at already and is not enough. `may_end`: EOF is the end of the response.
        """
        downstream, upstream = self.downstream, self.upstream
        if downstream.write_blocked:
            upstream.pause_reading()
            await self.flush_downstream()
        if upstream.received and not partial:
            await asyncio.sleep(0)  # a flood of small chunks: other connections have their turn
            if downstream.eof:
                raise CallerLeft
            return
        more = not upstream.eof
        if more:
            upstream.deadline_at = self.engine.now() + self.idle_s
            try:
                await upstream.wait_readable()
            finally:
                upstream.wait_done()
            more = not upstream.eof or len(upstream.received) > 0
        if downstream.eof:
            raise CallerLeft
        if not more and not may_end:
            raise StreamClosed

    def classify_eof(self, *, begun: bool) -> NoReturn:
        """Raise what ended the wait for a response. `begun`: bytes of a head or an interim response arrived.

        A request may be repeated if its method is idempotent, the connection had served another before, and no byte of a body that is not
        held was taken from the caller.
        """
        self.check_caller()
        if begun or self.interim:
            raise Fault("upstream_closed", "upstream_closed: the upstream closed within its response head")
        may_repeat = self.upstream.reused and self.head.method in _REPEATABLE and not self.took_body()
        raise StaleConnection("reset" if self.upstream.was_reset else "eof", may_repeat=may_repeat)

    def classify_failure(self, error: Exception) -> Exception:
        """What broke the exchange: CallerLeft or a Fault."""
        if self.downstream.eof:
            return CallerLeft()
        if isinstance(error, TimeoutError) and self.record.upstream_status is None:
            return Fault("response_timeout", "response_timeout: no answer within {upstream_response_timeout}")
        if isinstance(error, TimeoutError):
            return Fault("upstream_closed", "idle: no byte within {stream_idle_timeout}")
        if isinstance(error, FramingError):
            return Fault("upstream_protocol", f"bad_response: {error}")
        return Fault("upstream_closed", "cut: the answer of the upstream broke off")
