"""The parent of a relay: the token that it knows the relay's callers by, and the tunnels that are opened through it.

Rules to keep: the token file is read for each request, and the callers' own Proxy-Authorization never goes on; the parent's 407 is an
answer to the relay's token and never reaches a caller; what else the parent answers does.
"""

import hashlib
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.gateway.connect import Tunnels
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.records import note_reason
from robin.planes.gateway.settings import TunnelSettings
from robin.proxy.attempt import Attempt, StaleConnection
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.proxy.request import send_request
from robin.proxy.response import relay_response
from robin.proxy.splice import splice
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Upstream
from robin.transport.stream import StreamClosed
from robin.transport.tls import TlsFileError, read_file
from robin.wire.forwarding import forward_request, render
from robin.wire.framing import FramingError
from robin.wire.jwt_inspection import TOKEN_LIMIT_BYTES
from robin.wire.shape import ParsedRequest

_ESTABLISHED: Final = b"HTTP/1.1 200 Connection Established\r\n\r\n"
_REFUSED: Final = 407
_KIND: Final = "relay"
_CONNECTING: Final = frozenset(
    {"dns_failed", "dns_timeout", "connect_refused", "connect_timeout", "unroutable", "upstream_certificate", "upstream_tls"}
)
"""What can go wrong before the parent has received a byte."""


class ParentToken:
    """The token in the file, as a field for the parent. A `grants.grant.Credentials`. The same token is the same Credential."""

    __slots__ = ("_last", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._last: tuple[bytes, Credential] | None = None  # by SHA-256

    def ready(self, permit: Permit) -> Credential | None:
        """The token as it is now; None if there is none."""
        try:
            return self.read()
        except Fault:
            return None

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """The same, or why there is none. Raises Fault `identity_unavailable`, `identity_malformed`."""
        return self.read()

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """The parent answered 407 and the request cannot be sent again. Raises Fault `parent_refused`."""
        raise _refused()

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """The token that the file has now, if it is another one. Raises Fault `parent_refused`."""
        fresh = self.read()
        if fresh is credential:
            raise _refused()
        return fresh

    def read(self) -> Credential:
        """The token in the file. Raises Fault."""
        try:
            text = read_file(self._path, "the token file").strip()
        except (TlsFileError, OSError) as error:
            word = error.strerror if isinstance(error, OSError) else str(error)
            raise Fault("identity_unavailable", f"token_file: the token for the parent cannot be read: {word}") from None
        if not text:
            raise Fault("identity_unavailable", "token_file: the token file of the parent is empty")
        if len(text) > TOKEN_LIMIT_BYTES or not all(0x21 <= octet <= 0x7E for octet in text):
            raise Fault("identity_malformed", "token_file: the file for the parent holds no single token of at most 16 KiB")
        digest = hashlib.sha256(text).digest()
        if self._last is None or self._last[0] != digest:
            token = Secret(text)
            field = token.wrapped(b"Proxy-Authorization: Bearer ", b"\r\n")
            self._last = digest, Credential(fields=(field,), note="parent", identity=None, tokens=(token,))
        return self._last[1]


def _refused() -> Fault:
    return Fault("parent_refused", "token: the parent gateway does not accept the token of gateway.parent.token_file")


def translate_parent(fault: Fault, record: ExchangeRecord) -> Fault:
    """A connection that could not be made is the parent's, whatever was asked for. A `proxy.engine.Translate`."""
    note_reason(fault, record)
    if fault.code not in _CONNECTING:
        return fault
    record.notes["why"] = fault.code
    return Fault("parent_unreachable", f"{fault.code}: the parent gateway cannot be reached")


class ParentTunnels:
    """Serves CONNECT: `serve` is a `proxy.engine.Connect`."""

    __slots__ = ("_metrics", "_settings", "_tunnels")

    def __init__(self, settings: TunnelSettings, metrics: GatewayMetrics) -> None:
        self._settings = settings
        self._tunnels = Tunnels(limits=settings)
        self._metrics = metrics

    async def serve(self, downstream: Downstream, head: ParsedRequest, permit: Permit, record: ExchangeRecord) -> bool:
        """Serve a CONNECT. Returns False: nothing can follow it. Raises Fault while nothing was answered."""
        caller = record.caller.id
        self._tunnels.open(caller)
        self._metrics.tunnels[_KIND] += 1
        record.notes["tls"] = _KIND
        downstream.expires_at = 0.0  # bytes of a tunnel may follow a refusal: they are no request
        try:
            while not await self._attempt(downstream, head, permit, record):
                record.retries += 1
            return False
        finally:
            self._tunnels.close(caller)
            self._metrics.tunnels[_KIND] -= 1

    async def _attempt(self, downstream: Downstream, head: ParsedRequest, permit: Permit, record: ExchangeRecord) -> bool:
        """Ask the parent once, on a connection of its own. Returns False if it is to be asked once more, with another token."""
        engine = downstream.engine
        await engine.credentials.obtain(permit, record.notes)  # without a token nothing is dialled
        upstream = await engine.pool.acquire(permit, fresh=True)
        try:
            credential = engine.credentials.ready(permit) or await engine.credentials.obtain(permit, record.notes)
            record.address, record.reused = upstream.address, False
            if engine.audit is not None:
                await engine.audit(record, permit, None)
            attempt = Attempt(downstream, upstream, head, permit.route, None, record, engine)
            attempt.tokens = credential.tokens
            try:
                response = await send_request(attempt, render(forward_request(head, permit, credential)))
                if response.status == _REFUSED:
                    await self._renew(engine, permit, credential, record)
                    return False
                if not 200 <= response.status < 300:
                    await relay_response(attempt, response)
                    return True
            except StaleConnection:
                raise Fault("upstream_closed", "upstream_closed: the parent closed before it answered") from None
            except (StreamClosed, FramingError, TimeoutError) as error:
                raise attempt.classify_failure(error) from None
            await self._tunnel(downstream, upstream, record)
            return True
        finally:
            downstream.peer = None
            engine.pool.release(upstream, None)

    @staticmethod
    async def _renew(engine: Engine, permit: Permit, credential: Credential, record: ExchangeRecord) -> None:
        """Another token is there for a second attempt. Raises Fault where there is none, or this was the second one."""
        if record.retries:
            engine.credentials.rejected(permit, credential)
        await engine.credentials.renew(permit, credential)

    async def _tunnel(self, downstream: Downstream, upstream: Upstream, record: ExchangeRecord) -> None:
        engine = downstream.engine
        record.status = 200
        record.ttfb_s = engine.clock() - record.started_at
        record.outcome = "forwarded"
        downstream.write(_ESTABLISHED)
        end = await splice(downstream, upstream, record, engine, idle_s=self._settings.idle_s, max_s=self._settings.max_s)
        record.notes["reason"] = str(end)
