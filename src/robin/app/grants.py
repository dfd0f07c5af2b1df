"""Token grants in a running plane: from what a configuration came to, to the credentials that the engine asks for.

The builder of a plane calls `build_credentials` once and `use` at the start and at each reload; its policy selects bindings
(`policy.select.Selector`) and names their grants on the route (`policy.bound_routes.BoundRoutes`).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from robin.app.issuer_client import PooledIssuerClient
from robin.app.plane import Parts
from robin.config.providers import GrantPlan, ProviderPlan
from robin.grants.bound import BoundCredentials, BoundGrant
from robin.grants.cache import CredentialCache
from robin.grants.catalog import GRANTS
from robin.grants.grant import Grant
from robin.grants.kinds import client_credentials
from robin.grants.rate import IssuerRates
from robin.grants.run import GrantDriver
from robin.grants.settings import CacheSettings
from robin.identity.identity import Identity
from robin.model.limits import Deadlines, Limits
from robin.model.route import TlsProfile
from robin.policy.issuers import judge_issuer
from robin.transport.dial import Dialer
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import UpstreamTls


class IdentitySources(Protocol):
    """The identities of a plane; `identity.identities.Identities` is one."""

    def get(self, source: str, audience: str | None = None, /) -> Identity:
        """Return the identity of this source for this audience."""
        ...


def build_credentials(
    parts: Parts, settings: CacheSettings, *, limits: Limits, deadlines: Deadlines, ca_file: str | None = None
) -> BoundCredentials:
    """The credentials of a plane, without a binding yet. Issuers are dialled on a pool of their own. Raises TlsFileError."""
    tls = UpstreamTls(lambda _profile, _result: None, profiles=[TlsProfile(ca_file=ca_file)])
    resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
    dialer = Dialer(parts.loop, resolver=resolver, judge=judge_issuer, tls=tls, connect_s=settings.connect_timeout_s)
    pool = Pool(
        parts.loop,
        dialer=dialer,
        sweeper=parts.sweeper,
        limits=replace(limits, upstream_connections=settings.concurrency),
        deadlines=deadlines,
        metrics=parts.metrics,
    )
    parts.drain.add(pool)
    driver = GrantDriver(
        PooledIssuerClient(HttpClient(pool)),
        clock=parts.clock,
        entropy=parts.entropy,
        timeout_s=2 * settings.token_timeout_s,
        rate_of=IssuerRates(parts.clock, settings).of,
    )
    cache = CredentialCache(
        clock=parts.clock,
        entropy=parts.entropy,
        tasks=parts.tasks,
        wait_s=settings.token_timeout_s,
        fetch_s=2 * settings.token_timeout_s,
        entries_max=settings.entries_max,
        forced_every_s=settings.forced_every_s,
    )
    return BoundCredentials(cache=cache, driver=driver)


def use(credentials: BoundCredentials, plan: ProviderPlan, identities: IdentitySources) -> None:
    """Begin a generation with the grants of this plan. Raises KeyError, TooManyIdentities."""
    credentials.use(bind(plan.grants, identities))


def bind(plans: Mapping[str, GrantPlan], identities: IdentitySources) -> dict[str, BoundGrant]:
    """The grants of a plan with their identities, by the names that bindings use."""
    return {name: _bound(name, plan, identities) for name, plan in plans.items()}


def _bound(name: str, plan: GrantPlan, identities: IdentitySources) -> BoundGrant:
    identity = identities.get(plan.identity, plan.audience)
    if plan.settings is None:
        grant = Grant(name="forward", key=name, identity=identity, flow=GRANTS["forward"].flow, calls_issuer=False)
    else:
        flow = partial(client_credentials.flow, plan.settings)
        grant = Grant(name="client_credentials", key=plan.settings.key(plan.identity), identity=identity, flow=flow)
    return BoundGrant(provider=plan.provider, credential=plan.credential, header=plan.header, prefix=plan.prefix, grant=grant)
