"""One live grant outside of a running gateway, for `robin doctor --grant` and `robin token --grant`.

Identity, issuer client and driver are those of the gateway: the same dialled addresses, roots, limits and judgements. Nothing is kept,
and no metadata call carries a token.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from robin import __version__
from robin.app.grants import bind
from robin.app.issuer_client import PooledIssuerClient
from robin.grants.bound import BoundCredentials
from robin.grants.cache import CredentialCache
from robin.grants.run import GrantDriver
from robin.grants.settings import CacheSettings, GrantPlan, TokenRequestSettings
from robin.identity.identities import Identities
from robin.identity.identity import Dependencies
from robin.identity.issuer import IssuerClient, IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.route import TlsProfile
from robin.model.secret import Secret
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.control import permit_control
from robin.policy.issuers import issuer_judge
from robin.policy.overlap import uncovered
from robin.telemetry.metrics import Metrics
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.dns import DnsResolver
from robin.transport.entropy import SystemEntropy
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.tasks import TaskOwner
from robin.transport.tls import UpstreamTls
from robin.wire.issuer_words import IssuerMetadata, metadata_urls, parse_metadata

_METADATA_BYTES: Final = 262_144
_NAME: Final = "one"


@dataclass(slots=True, kw_only=True)
class OneGrant:
    """How it went. `token` None: `fault` says why, and `refusal` is what the issuer sent last, None where it was not asked.

    `usable_s` None: it is not known. `facts` are those of a record. `metadata` None: `no_metadata` has what was found at each place,
    nothing where none was looked for.
    """

    identity: IdentityToken | None = None
    fault: Fault | None = None
    token: Secret | None = None
    usable_s: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    refusal: IssuerResponse | None = None
    metadata: IssuerMetadata | None = None
    metadata_url: str = ""
    no_metadata: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What must not be shown."""
        return tuple(one for one in (None if self.identity is None else self.identity.value, self.token) if one is not None)


class _Overheard:
    """An `identity.issuer.IssuerClient` that keeps the last response."""

    def __init__(self, client: IssuerClient) -> None:
        self._client = client
        self.last: IssuerResponse | None = None

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        self.last = None
        self.last = await self._client.send(request, deadline_at)
        return self.last


def plans_of(settings: GatewaySettings, provider: str, credential: str) -> list[GrantPlan]:
    """The grants of a credential: one for each audience and set of scopes that a request may get, those of its endpoints first."""
    own = [one for one in settings.providers.bindings if (one.provider, one.credential) == (provider, credential)]
    overrides = [one for one in own if one.override]
    found: dict[object, GrantPlan] = {}
    for binding in sorted(own, key=lambda one: one.override):
        if binding.override or all(uncovered(binding.host, binding.port, binding.path, binding.methods, one) for one in overrides):
            plan = settings.providers.grants[binding.grant]
            found.setdefault(plan.key, plan)
    return list(found.values())


def issuer_of(plan: GrantPlan) -> str:
    """The issuer as the profile names it, or else the audience of the assertion where that is at the host of the token endpoint."""
    settings = plan.settings
    if plan.issuer or not isinstance(settings, TokenRequestSettings):
        return plan.issuer
    if not settings.assertion_audience.startswith(f"{settings.issuer_origin}/"):
        return ""
    return "" if settings.assertion_audience == settings.token_endpoint else settings.assertion_audience


async def obtain_one(settings: GatewaySettings, plan: GrantPlan, clock: Clock, *, metadata: bool) -> OneGrant:
    """Run one grant; with `metadata`, look at what its issuer publishes about itself first. Raises TlsFileError."""
    bounds = settings.grants.cache
    tasks = TaskOwner(lambda _name, _error: None)
    client = _Overheard(_build_client(settings, clock))
    identities = Identities(
        settings.identities,
        Dependencies(clock=clock, entropy=SystemEntropy(), tasks=tasks, log=_NoLog(), on_change=lambda: None),
    )
    result = OneGrant()
    try:
        if metadata:
            await _look_at_metadata(client, plan, result, asyncio.get_running_loop().time() + bounds.token_timeout_s)
        client.last = None
        bound = bind({_NAME: plan}, identities, clock)
        credentials = _build_credentials(client, bounds, clock, tasks)
        credentials.use(bound)
        permit = permit_control(scheme="https", host="localhost", port=None, tls=TlsProfile())  # it is sent nowhere
        permit = replace(permit, route=replace(permit.route, grant=_NAME))
        identity = bound[_NAME].grant.identity
        try:
            credential = await credentials.obtain(permit, {})
        except Fault as fault:
            result.fault, result.refusal = fault, client.last
            result.identity = None if identity is None else identity.ready()
            return result
        result.identity = credential.identity or (None if identity is None else identity.ready())
        result.token, result.facts = credential.tokens[0], credential.facts
        usable_s = credential.facts.get("usable_s")
        if isinstance(usable_s, int):
            result.usable_s = usable_s
        elif plan.kind == "forward" and result.identity is not None:
            result.usable_s = result.identity.usable_until - clock.wall()
        return result
    finally:
        await identities.close()
        await tasks.close()


def _build_credentials(client: IssuerClient, bounds: CacheSettings, clock: Clock, tasks: TaskOwner) -> BoundCredentials:
    driver = GrantDriver(client, clock=clock, entropy=SystemEntropy(), timeout_s=2 * bounds.token_timeout_s, call_s=bounds.token_timeout_s)
    cache = CredentialCache(
        clock=clock,
        entropy=SystemEntropy(),
        tasks=tasks,
        wait_s=bounds.token_timeout_s,
        fetch_s=2 * bounds.token_timeout_s,
        entries_max=bounds.entries_max,
        forced_every_s=bounds.forced_every_s,
    )
    return BoundCredentials(cache=cache, driver=driver, wall=clock.wall)


def _build_client(settings: GatewaySettings, clock: Clock) -> IssuerClient:
    """The issuer client as the gateway builds it. Raises TlsFileError."""
    loop, bounds = asyncio.get_running_loop(), settings.grants.cache
    profile = TlsProfile() if settings.grants.ca_file is None else TlsProfile(extra_ca_files=(settings.grants.ca_file,))
    resolver = DnsResolver(
        servers=settings.addresses.resolver,
        hosts={"localhost": ("127.0.0.1", "::1"), **settings.addresses.hosts},  # RFC 6761 section 6.3
        timeout_s=bounds.connect_timeout_s,
        now=clock.monotonic,
        is_own_listener=lambda *_: False,
    )
    tls = UpstreamTls(lambda _profile, _result: None, profiles=[] if settings.grants.ca_file is None else [profile])
    judge = issuer_judge(settings.addresses.nat64_prefixes)
    sweeper = Sweeper(loop)
    sweeper.start()
    pool = Pool(
        loop,
        dialer=Dialer(loop, sweeper, resolver=resolver, judge=judge, tls=tls, connect_s=bounds.connect_timeout_s),
        sweeper=sweeper,
        limits=settings.limits,
        deadlines=settings.deadlines,
        metrics=Metrics(version=__version__, unsafe={}),
    )
    return PooledIssuerClient(HttpClient(pool), tls=profile)


async def _look_at_metadata(client: IssuerClient, plan: GrantPlan, result: OneGrant, deadline_at: float) -> None:
    """Ask at each place where the metadata may be, without a token, until one has it."""
    for url in metadata_urls(issuer_of(plan)):
        request = IssuerRequest(method="GET", url=url, fields=(("Accept", Secret(b"application/json")),), limit_bytes=_METADATA_BYTES)
        try:
            response = await client.send(request, deadline_at)
            if response.status == 200:
                result.metadata, result.metadata_url = parse_metadata(response.body), url
                return
            result.no_metadata.append(f"{url}: status {response.status}")
        except IssuerUnreachable as unreachable:
            result.no_metadata.append(f"{url}: {unreachable.reason}")
        except ValueError:
            result.no_metadata.append(f"{url}: the body is no metadata document")


class _NoLog:
    """An `identity.identity.Log` that keeps nothing: what went wrong is in the result."""

    def info(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Nothing."""

    def warning(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Nothing."""

    def error(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Nothing."""


def credentials_of(settings: GatewaySettings) -> list[str]:
    """Each `PROVIDER/CREDENTIAL` that has a grant."""
    return sorted({f"{plan.provider}/{plan.credential}" for plan in settings.providers.grants.values()})
