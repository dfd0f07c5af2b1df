"""One permitted CONNECT, from the dial to its end: the 200, the client's first bytes, then a passthrough, a tunnel or a bridge.

Rules to keep: the destination is connected, and its certificate verified where the gateway speaks TLS, before the 200; a bridge may have
an idle connection of the pool, which was verified when it was dialled for the same endpoint. The decision is recorded before the 200 too.
After it nothing can be answered any more: what is wrong then ends the connection, and its code is recorded.
There is no way from a bridge to a tunnel: a client that does not accept the leaf ends, and the next one is bridged as well.
"""

import math
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from robin.model.address import ResolvedAddress
from robin.model.caller import Caller, Connect
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.planes.gateway.authority import BridgeAuthority
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.open_tunnels import OpenConnect
from robin.planes.gateway.records import note_reason
from robin.planes.gateway.rejections import Rejections
from robin.planes.gateway.settings import TunnelSettings
from robin.policy.gateway import ConnectPermit
from robin.policy.rules import Tls
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.proxy.exchange import serve_exchange
from robin.proxy.splice import splice
from robin.telemetry.record import ExchangeRecord
from robin.transport.deadlines import TaskDeadline
from robin.transport.pool import Pool, Upstream
from robin.transport.stream import Stream, StreamClosed
from robin.transport.tls_stream import peek_client_hello, start_tls
from robin.wire.client_hello import (
    DECODE_ERROR,
    NO_APPLICATION_PROTOCOL,
    UNRECOGNIZED_NAME,
    ClientHello,
    ClientHelloError,
    fatal_alert,
)
from robin.wire.shape import ParsedRequest

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"
_TLS_RECORD: Final = 0x16
_ACCESS_DENIED: Final = 49  # RFC 8446 section 6
_METHOD = re.compile(rb"[A-Z][A-Z-]{0,31} ")
_METHOD_OCTETS: Final = 33

RecordDecision = Callable[[ExchangeRecord, Permit], Awaitable[None]]


class _Ended(Exception):
    """The connection ends after its 200. `alert` None: without one."""

    def __init__(self, code: str, alert: int | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.alert = alert


@dataclass(slots=True, kw_only=True)
class Tunnels:
    """How many CONNECTs are open, in all and by caller."""

    limits: TunnelSettings
    count: int = 0
    by_caller: dict[str, int] | None = None

    def open(self, caller: str) -> None:
        """Count one. Raises Fault `limit_tunnels`."""
        counts = self.by_caller = {} if self.by_caller is None else self.by_caller
        limits = self.limits
        if limits.tunnels and self.count >= limits.tunnels:
            raise Fault("limit_tunnels", "tunnels: gateway.limits.tunnels is reached")
        if limits.tunnels_per_caller and counts.get(caller, 0) >= limits.tunnels_per_caller:
            raise Fault("limit_tunnels", "tunnels_per_caller: gateway.limits.tunnels_per_caller is reached")
        self.count += 1
        counts[caller] = counts.get(caller, 0) + 1

    def close(self, caller: str) -> None:
        """One has ended."""
        assert self.by_caller is not None
        self.count -= 1
        self.by_caller[caller] -= 1
        if not self.by_caller[caller]:
            del self.by_caller[caller]


class _Leg:
    """The connection to the destination that was opened before the 200; closed once, or handed to the pool once."""

    __slots__ = ("_pool", "stream")

    def __init__(self, stream: Stream, pool: Pool) -> None:
        self.stream = stream
        self._pool: Pool | None = pool

    def hand_over(self) -> None:
        """The pool gives it to the first request inside."""
        assert isinstance(self.stream, Upstream)
        self.stream.reusable = True
        self.close()

    def close(self) -> None:
        """It is not used here any more."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        if isinstance(self.stream, Upstream):
            pool.release(self.stream, None)
        else:
            self.stream.close()


class Connector:
    """Serves CONNECT: `serve` is a `proxy.engine.Connect`. `inner` is the engine of the requests inside."""

    __slots__ = ("_authority", "_decide", "_ech", "_inner", "_metrics", "_rejections", "_settings", "_tunnels", "_wall")

    def __init__(
        self,
        *,
        inner: Engine,
        settings: TunnelSettings,
        authority: BridgeAuthority | None,
        ech_allowed: bool,
        record_decision: RecordDecision,
        metrics: GatewayMetrics,
        wall: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._settings = settings
        self._authority = authority
        self._ech = ech_allowed
        self._decide = record_decision
        self._metrics = metrics
        self._rejections = Rejections(inner.events, inner.clock)
        self._tunnels = Tunnels(limits=settings)
        self._wall = wall

    def use(self, settings: TunnelSettings, authority: BridgeAuthority | None, *, ech_allowed: bool) -> None:
        """Serve the next CONNECT by these; one that is open goes on."""
        self._settings = self._tunnels.limits = settings
        self._authority, self._ech = authority, ech_allowed

    async def serve(self, downstream: Downstream, head: ParsedRequest, permit: Permit, record: ExchangeRecord) -> bool:
        """Serve a CONNECT. Returns False: nothing can follow it. Raises Fault while nothing was answered."""
        assert isinstance(permit, ConnectPermit)
        caller = record.caller
        self._tunnels.open(caller.id)
        opened, authority = OpenConnect(head, record, self._inner), self._authority
        leg: _Leg | None = None
        kind = "plain" if permit.tls is None else str(permit.tls)
        self._metrics.tunnels[kind] += 1
        try:
            record.request_id = record.request_id or self._inner.recorder.request_id()
            record.notes["tls"] = kind
            if permit.tls is Tls.BRIDGE:
                _check_bridge(permit, authority)
            leg = await self._dial(permit, record, pooled=permit.tls not in {Tls.TCP, Tls.PASSTHROUGH})
            opened.check()
            await self._decide(record, permit)
            opened.check()
            record.status = 200
            record.ttfb_s = self._inner.clock() - record.started_at
            record.outcome = "forwarded"
            downstream.write(_ESTABLISHED)
            opened.answered(downstream, leg.stream)
            try:
                await self._go_on(downstream, permit, leg, opened, authority)
            except _Ended as ended:
                record.outcome = ended.code
                if ended.alert is not None:
                    downstream.write(fatal_alert(ended.alert))
            except (StreamClosed, TimeoutError):
                record.outcome = "client_closed"
            return False
        finally:
            opened.close()
            self._tunnels.close(caller.id)
            self._metrics.tunnels[kind] -= 1
            if leg is not None:
                leg.close()

    async def _dial(self, permit: Permit, record: ExchangeRecord, *, pooled: bool) -> _Leg:
        """A connection to the destination: for a tunnel a new plain stream; else one of the pool, which may be idle there and was verified
        when it was dialled for the same endpoint, and which carries the first request.
        """
        engine = self._inner
        if pooled:
            upstream = await engine.pool.acquire(permit)
            record.address, record.dialled, record.reused = upstream.address, upstream.dialled, upstream.reused
            return _Leg(upstream, engine.pool)

        def build(address: ResolvedAddress) -> Stream:
            record.address = address
            return Stream(engine.loop, engine.sweeper)

        stream = await engine.pool.dialer.dial(permit, build)
        record.dialled = stream.dialled
        return _Leg(stream, engine.pool)

    # after the 200

    async def _go_on(
        self, downstream: Downstream, permit: ConnectPermit, leg: _Leg, opened: OpenConnect, authority: BridgeAuthority | None
    ) -> None:
        """What follows the 200, to its end. Raises _Ended, StreamClosed."""
        record = opened.record
        if permit.tls is Tls.TCP:
            await self._splice(downstream, leg, record)
            return
        downstream.deadline_at = self._inner.now() + self._settings.first_bytes_s
        if not await self._first_is_tls(downstream, permit):
            await self._plain(downstream, permit, leg, opened)
            return
        if permit.tls is None:
            raise _Ended("not_http")
        hello = await self._client_hello(downstream, permit)
        record.notes["sni"] = None if hello.server_name is None else hello.server_name.decode("ascii")
        if opened.fault is not None:
            raise StreamClosed  # by a reload
        downstream.deadline_at = math.inf
        if permit.tls is Tls.BRIDGE:
            assert authority is not None
            await self._bridge(downstream, permit, hello, leg, opened, authority)
        elif hello.ech and not self._ech:
            raise _Ended("ech_refused", _ACCESS_DENIED)
        else:
            await self._splice(downstream, leg, record)

    async def _plain(self, downstream: Downstream, permit: ConnectPermit, leg: _Leg, opened: OpenConnect) -> None:
        """Requests without TLS inside the CONNECT: each is judged."""
        record = opened.record
        if not permit.http:
            raise _Ended("not_tls")
        await self._check_http(downstream)
        if opened.fault is not None:
            raise StreamClosed  # by a reload
        downstream.deadline_at = math.inf
        record.notes["tls"] = "plain"
        opened.look_inside(downstream)
        if permit.tls is None:
            leg.hand_over()
        else:
            leg.close()  # it was for TLS
        downstream.serve(self._inner, self._inner_caller(permit, record, "http"))
        await self._serve(downstream)

    async def _first_is_tls(self, downstream: Downstream, permit: ConnectPermit) -> bool:
        try:
            while not downstream.received:
                if not await downstream.fill():
                    raise StreamClosed
        except TimeoutError:
            raise _Ended("not_http" if permit.tls is None else "client_hello_invalid") from None
        return downstream.received[0] == _TLS_RECORD

    async def _client_hello(self, downstream: Downstream, permit: Permit) -> ClientHello:
        """The ClientHello, whose server name is the target; of an address there is none."""
        try:
            hello = await peek_client_hello(downstream)
        except ClientHelloError as error:
            raise _Ended(error.code, None if error.code == "not_tls" else DECODE_ERROR) from None
        except TimeoutError:
            raise _Ended("client_hello_invalid") from None
        host = permit.endpoint.origin.host
        is_address = ":" in host or host.rpartition(".")[2].isdigit()
        if hello.server_name is None:
            if not is_address:
                raise _Ended("sni_missing", UNRECOGNIZED_NAME)
        elif is_address or hello.server_name.decode("ascii") != host:
            raise _Ended("sni_mismatch", UNRECOGNIZED_NAME)
        return hello

    async def _check_http(self, downstream: Downstream) -> None:
        """The first bytes begin with a method, or the connection ends."""
        try:
            while len(downstream.received) < _METHOD_OCTETS and b" " not in downstream.received:
                if not await downstream.fill():
                    raise StreamClosed
        except TimeoutError:
            raise _Ended("not_http") from None
        if _METHOD.match(downstream.received) is None:
            raise _Ended("not_http")

    async def _splice(self, downstream: Downstream, leg: _Leg, record: ExchangeRecord) -> None:
        settings = self._settings
        end = await splice(downstream, leg.stream, record, self._inner, idle_s=settings.idle_s, max_s=settings.max_s)
        record.notes.setdefault("reason", str(end))

    async def _bridge(
        self, downstream: Downstream, permit: Permit, hello: ClientHello, leg: _Leg, opened: OpenConnect, authority: BridgeAuthority
    ) -> None:
        """Open the client's TLS with a leaf for the target, then serve what is inside."""
        record = opened.record
        if hello.protocols and b"http/1.1" not in hello.protocols:
            raise _Ended("alpn_refused", NO_APPLICATION_PROTOCOL)
        engine = self._inner
        try:
            context = authority.context(permit.endpoint.origin.host, record.caller.id)
        except Fault as fault:
            note_reason(fault, record)
            raise _Ended(fault.code) from None
        caller = self._inner_caller(permit, record, "https")
        try:
            with TaskDeadline(engine.sweeper, engine.now() + self._settings.tls_s):
                inner = await start_tls(engine.loop, downstream, lambda: Downstream(engine, caller), context)
        except TimeoutError:
            raise _Ended("tls_client_rejected") from None
        except (OSError, ssl.SSLError) as error:
            if opened.fault is not None:
                raise StreamClosed from None  # by a reload
            self._note_rejection(error, caller, record, authority)
            raise _Ended("tls_client_rejected") from None
        engine.drain.connected(inner)
        try:
            opened.look_inside(inner)
            leg.hand_over()
            await self._serve(inner)
            await inner.finish_and_discard()
        except OSError:
            pass
        finally:
            engine.drain.disconnected(inner)
            inner.close()

    def _note_rejection(self, error: OSError, caller: Caller, record: ExchangeRecord, authority: BridgeAuthority) -> None:
        """For the operator: which CA the client does not trust, and what to do."""
        alert = str(getattr(error, "reason", None) or "closed").lower()
        record.notes["alert"] = alert
        self._metrics.rejected(alert)
        self._rejections.note(caller.id, alert, authority.ca.sha256)

    def _inner_caller(self, permit: Permit, record: ExchangeRecord, scheme: str) -> Caller:
        origin = permit.endpoint.origin
        assert record.request_id is not None
        return replace(record.caller, connect=Connect(id=record.request_id, scheme=scheme, host=origin.host, port=origin.port))

    async def _serve(self, inner: Downstream) -> None:
        """The requests inside, one after the other; none after the caller's token has expired."""
        engine = self._inner
        if inner.caller.expires_at != math.inf:
            inner.expires_at = engine.now() + inner.caller.expires_at - self._wall()
        while await inner.await_request() and await serve_exchange(inner, engine):
            pass


def _check_bridge(permit: Permit, authority: BridgeAuthority | None) -> None:
    """Raise Fault `bridge_unavailable` where there is no leaf for this host, before anything is dialled."""
    if authority is None:
        raise Fault("bridge_unavailable", "no_ca: a rule needs to see requests, and there is no CA to bridge with")
    authority.check(permit.endpoint.origin.host)
