"""The CONNECTs that are under way; and, after a reload, which open tunnels the new settings would not permit any more, and why."""

import asyncio
from typing import Final

from robin.model.faults import Fault
from robin.model.verdict import Denial, Permit
from robin.planes.gateway.settings import GatewaySettings, IssuerSettings
from robin.policy.address_guard import AddressGuard
from robin.policy.gateway import ConnectPermit
from robin.policy.rules import Tls
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine, Policy
from robin.proxy.open_tunnels import FLUSH_S, WITHDRAWN_S, OpenTunnel
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Stream
from robin.wire.shape import ParsedRequest

_IN_A_TURN: Final = 32
_GOES_ON: Final = {"bridge": {Tls.BRIDGE, Tls.PASSTHROUGH}, "passthrough": {Tls.PASSTHROUGH, Tls.TCP}, "tcp": {Tls.TCP}}
"""By what became of the TLS of a CONNECT: under which treatments it may go on."""


class OpenConnect:
    """A CONNECT that is under way. A `proxy.open_tunnels.OpenTunnel`.

    `fault`: why it is not permitted any more. `opaque`: nothing inside is judged, so that it ends at once; else its requests are refused
    for a moment before it ends.
    """

    __slots__ = ("_engine", "_timer", "_upstream", "downstream", "fault", "head", "opaque", "record")

    def __init__(self, head: ParsedRequest, record: ExchangeRecord, engine: Engine) -> None:
        self.head = head
        self.record = record
        self.fault: Fault | None = None
        self.opaque = True
        self.downstream: Downstream | None = None
        self._upstream: Stream | None = None
        self._engine = engine
        self._timer: asyncio.TimerHandle | None = None
        engine.open_tunnels.add(self)

    @property
    def policy(self) -> Policy:
        """What judges it now."""
        return self._engine.policy

    def check(self) -> None:
        """Raise the fault of a reload that came before the response."""
        if self.fault is not None:
            raise self.fault

    def answered(self, downstream: Downstream, upstream: Stream) -> None:
        """The 200 was sent, so that only these can be closed."""
        self.downstream, self._upstream = downstream, upstream

    def look_inside(self, downstream: Downstream) -> None:
        """Requests on this stream are judged from now on."""
        self.downstream, self.opaque = downstream, False
        if self.fault is not None:  # it came during the handshake
            self._end()

    def withdraw(self, fault: Fault) -> None:
        """Close, or refuse to begin."""
        if self.fault is not None:
            return
        self.fault = fault
        self.record.notes["reason"] = "policy_reload"
        if self.downstream is None:
            return
        if self.opaque:
            self._end()
        else:
            self._timer = self._engine.loop.call_later(WITHDRAWN_S, self._end)

    def _end(self) -> None:
        """A client that waits for nothing sees a close; one that is in an exchange, or may be, sees that it was cut."""
        assert self.downstream is not None
        if self.opaque and self._upstream is not None:
            self._upstream.reset()
        if self.downstream.closed:
            self.downstream.transport.abort()  # a TLS handshake has it
        elif self.downstream.idle and not self.opaque:
            self.downstream.close(FLUSH_S)
        else:
            self.downstream.reset()

    def close(self) -> None:
        """It has ended."""
        self._engine.open_tunnels.discard(self)
        if self._timer is not None:
            self._timer.cancel()


class OpenTunnels:
    """The tunnels that are open. `use` begins a generation, by which they are judged again."""

    __slots__ = ("_changed", "_generation", "_guard", "_open")

    def __init__(self, guard: AddressGuard, generation: int = 1) -> None:
        self._open: set[OpenTunnel] = set()
        self._guard = guard
        self._generation = generation
        self._changed: dict[str, int] = {}  # the issuers that are not trusted as before, and the generation from which on

    def add(self, tunnel: OpenTunnel) -> None:
        """One was opened. A reload may have come between its decision and now."""
        self._open.add(tunnel)
        verdict = tunnel.record.verdict
        if isinstance(verdict, Permit) and verdict.endpoint.generation != self._generation:
            self._judge(tunnel)

    def discard(self, tunnel: OpenTunnel) -> None:
        """One has ended."""
        self._open.discard(tunnel)

    def use(self, generation: int, guard: AddressGuard, before: GatewaySettings, after: GatewaySettings) -> None:
        """The policies of the engines are those of this generation now."""
        self._generation, self._guard = generation, guard
        for name, issuer in before.issuers.items():
            if _trusted(issuer) != _trusted(after.issuers.get(name)):
                self._changed[name] = generation

    async def judge_again(self) -> None:
        """End those that are not permitted any more; a few are judged in each turn of the loop."""
        for at, tunnel in enumerate(list(self._open), start=1):
            if tunnel in self._open:
                self._judge(tunnel)
            if at % _IN_A_TURN == 0:
                await asyncio.sleep(0)

    def _judge(self, tunnel: OpenTunnel) -> None:
        """By its own head, caller and address, whether it would be permitted as it was."""
        record, old = tunnel.record, tunnel.record.verdict
        if not isinstance(old, Permit):
            return
        if self._changed.get(record.caller.issuer, 0) > old.endpoint.generation:
            tunnel.withdraw(Fault("caller_token_invalid", "policy_reload: the issuer of the caller's token is not trusted as before"))
            return
        new = tunnel.policy.decide(tunnel.head, record.caller)
        if isinstance(new, Permit):
            fault = _why_not(record, old, new, self._guard)
        else:
            fault = Fault(new.code, new.detail, rule=new.rule) if isinstance(new, Denial) else _treated_otherwise()
        if fault is not None:
            tunnel.withdraw(fault)


def _why_not(record: ExchangeRecord, old: Permit, new: Permit, guard: AddressGuard) -> Fault | None:
    """Why a tunnel that is permitted cannot go on as it is."""
    if isinstance(new, ConnectPermit):
        kind = record.notes.get("tls")
        if not (new.http if kind == "plain" else new.tls in _GOES_ON.get(str(kind), ())):
            return _treated_otherwise()
    elif _leads(new) != _leads(old):  # the target of a CONNECT is its own, and what is inside is judged as requests are
        return _treated_otherwise()
    if not set(old.route.grant.split()) <= set(new.route.grant.split()):
        return Fault("binding_withdrawn", "policy_reload: its credential was taken away")
    if record.address is not None:
        try:
            guard.judge(new, [record.address])
        except Fault as fault:
            return fault
    return None


def _leads(permit: Permit) -> object:
    """Where a request is sent, and whom the connection trusts."""
    return permit.endpoint.origin, permit.endpoint.tls, permit.target


def _treated_otherwise() -> Fault:
    return Fault("rule_denied", "policy_reload: its connections are treated in another way now")


def _trusted(issuer: IssuerSettings | None) -> object:
    """What a token of an issuer is accepted for."""
    if issuer is None:
        return None
    trust = issuer.trust
    return issuer.kind, trust.issuer, trust.audiences, trust.algorithms, issuer.trust_domain, issuer.namespaces
