"""How the gateway reaches origins, key sets, and issuers of credentials. The pools last; how they dial is a matter of the generation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from robin.app.grants import build_credentials
from robin.app.plane import Parts
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.grants.bound import BoundCredentials, BoundGrant
from robin.grants.grant import GrantCall
from robin.grants.metrics import GrantMetrics
from robin.grants.settings import GrantPlan
from robin.model.limits import StepDeadlines
from robin.planes.gateway.canary import CONNECT_S as CANARY_CONNECT_S
from robin.planes.gateway.canary import CanaryTarget
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.address_guard import AddressGuard, refuse_self
from robin.policy.issuers import issuer_judge
from robin.transport.dial import Dialer, Judge
from robin.transport.dns import DnsResolver
from robin.transport.pool import Pool
from robin.transport.tls import TlsFileError, UpstreamTls

_RESOLVER_ENDS_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outbound:
    """How the gateway dials: `guard` judges addresses, but for those of issuers and key sets."""

    guard: AddressGuard
    resolver: DnsResolver
    tls: UpstreamTls


def build_outbound(
    settings: GatewaySettings, parts: Parts, metrics: GatewayMetrics, before: "tuple[GatewaySettings, Outbound] | None" = None
) -> Outbound:
    """What is unchanged since the settings before is kept, with what it has loaded and learned. Raises TlsFileError, OSError."""
    addresses = settings.addresses
    old, kept = before or (None, None)
    resolver = None if old is None or kept is None or _resolution(settings) != _resolution(old) else kept.resolver
    tls = None if old is None or kept is None or settings.upstream_tls != old.upstream_tls else kept.tls
    guard = AddressGuard(deny=addresses.deny, nat64_prefixes=addresses.nat64_prefixes, unsafe_loopback=addresses.unsafe_loopback)
    guard.learn_self(frozenset() if kept is None else kept.guard.self_addresses)
    return Outbound(
        guard=guard,
        resolver=resolver
        or DnsResolver(
            servers=addresses.resolver,
            hosts=addresses.hosts,
            timeout_s=settings.tunnels.dns_s,
            now=parts.clock.monotonic,
            is_own_listener=parts.own.has,
            on_query=metrics.queried,
        ),
        tls=tls or UpstreamTls(lambda *_: None, profiles=[settings.upstream_tls]),
    )


def _resolution(settings: GatewaySettings) -> object:
    return settings.addresses.resolver, settings.addresses.hosts, settings.tunnels.dns_s


class Pools:
    """`origins` is for permitted requests, `keys` for the key sets of issuers."""

    __slots__ = ("keys", "origins")

    def __init__(self, outbound: Outbound, settings: GatewaySettings, parts: Parts) -> None:
        self.origins = _build_pool(outbound, settings, parts, outbound.guard.judge)
        self.keys = _build_pool(outbound, settings, parts, issuer_judge(settings.addresses.nat64_prefixes))
        parts.drain.add(self.keys)

    def use(self, outbound: Outbound, settings: GatewaySettings, generation: int) -> None:
        """Dial by these from now on."""
        judges = (outbound.guard.judge, issuer_judge(settings.addresses.nat64_prefixes))
        for pool, judge in zip((self.origins, self.keys), judges, strict=True):
            bound_s, steps = settings.deadlines.connect_s, _steps(settings)
            pool.dialer.use(resolver=outbound.resolver, judge=judge, tls=outbound.tls, connect_s=bound_s, steps=steps)
            pool.use(settings.limits, settings.deadlines)
        self.origins.retire_endpoints(generation)


def _steps(settings: GatewaySettings) -> StepDeadlines | None:
    """The bounds of a new connection. The resolver ends by itself in `timeouts.dns`, and counts it as what it is: so it comes first."""
    steps = settings.deadlines.connect_steps
    return None if steps is None else replace(steps, dns_s=steps.dns_s + _RESOLVER_ENDS_S)


def _build_pool(outbound: Outbound, settings: GatewaySettings, parts: Parts, judge: Judge) -> Pool:
    bound_s, steps = settings.deadlines.connect_s, _steps(settings)
    dialer = Dialer(
        parts.loop,
        parts.sweeper,
        resolver=outbound.resolver,
        judge=judge,
        tls=outbound.tls,
        connect_s=bound_s,
        steps=steps,
        refuse_self=refuse_self,
    )
    return Pool(
        parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=settings.limits, deadlines=settings.deadlines, metrics=parts.metrics
    )


class IssuedCredentials:
    """The credentials of bindings, and the pool on which issuers are called. Both are built anew where the bounds of `grants` change."""

    __slots__ = ("_parts", "_pool", "_record_call", "current", "metrics")

    def __init__(self, settings: GatewaySettings, parts: Parts, record_call: Callable[[GrantCall], None]) -> None:
        """Raises StartFailure."""
        self.metrics = GrantMetrics()
        self._parts = parts
        self._record_call = record_call
        self.current, self._pool = self._build(settings)

    def _build(self, settings: GatewaySettings) -> tuple[BoundCredentials, Pool]:
        try:
            return build_credentials(
                self._parts,
                settings.grants,
                resolver=_issuer_resolver(settings, self._parts),
                judge=issuer_judge(settings.addresses.nat64_prefixes),
                limits=settings.limits,
                deadlines=settings.deadlines,
                record_call=self._record_call,
                metrics=self.metrics,
            )
        except TlsFileError as error:
            raise StartFailure(EXIT_SETTINGS, f"gateway.grants.ca_file: {error}; give a readable PEM bundle of CA certificates") from None

    def prepare(self, before: GatewaySettings, after: GatewaySettings) -> None:
        """What `use` needs beside the settings: the part of a swap that can fail, and then nothing has changed. Raises StartFailure."""
        if (before.grants.cache, before.grants.ca_file) == (after.grants.cache, after.grants.ca_file):
            return
        old = self._pool
        self.current, self._pool = self._build(after)
        self._parts.drain.remove(old)
        old.begin_closing()

    def use(self, bound: Mapping[str, BoundGrant], before: GatewaySettings, after: GatewaySettings) -> None:
        """These are all the bindings from now on. Tokens that were exchanged for those of an identity that changed are dropped."""
        self._pool.dialer.use(
            resolver=_issuer_resolver(after, self._parts),
            judge=issuer_judge(after.addresses.nat64_prefixes),
            tls=self._pool.dialer.tls,
            connect_s=after.grants.cache.connect_timeout_s,
        )
        changed = {name for name, source in before.identities.items() if after.identities.get(name) != source}
        if changed:
            plans = after.providers.grants
            self.current.use({name: one for name, one in bound.items() if not _depends_on(plans[name], changed)})
        self.current.use(bound)


def _issuer_resolver(settings: GatewaySettings, parts: Parts) -> DnsResolver:
    """For issuers of credentials `localhost` is this machine."""
    return DnsResolver(
        servers=settings.addresses.resolver,
        hosts={"localhost": ("127.0.0.1", "::1"), **settings.addresses.hosts},  # RFC 6761 section 6.3
        timeout_s=settings.grants.cache.connect_timeout_s,
        now=parts.clock.monotonic,
        is_own_listener=parts.own.has,
    )


def _depends_on(plan: GrantPlan, identities: set[str]) -> bool:
    """Whether one of these identities has a part in its token."""
    if plan.identity in identities or plan.audience_of in identities:
        return True
    return plan.previous is not None and _depends_on(plan.previous, identities)


def canary_target(outbound: Outbound, settings: GatewaySettings, parts: Parts) -> CanaryTarget | None:
    """Where the canary is, and how it is dialled; None: there is none."""
    if settings.canary is None:
        return None
    judge, resolver = issuer_judge(settings.addresses.nat64_prefixes), outbound.resolver
    dialer = Dialer(parts.loop, parts.sweeper, resolver=resolver, judge=judge, tls=None, connect_s=CANARY_CONNECT_S)
    return CanaryTarget(place=settings.canary, resolver=resolver, judge=judge, dialer=dialer)
