"""Token grants in a running plane: from what a configuration came to, to the credentials that the engine asks for.

The builder of a plane calls `build_credentials` once, and `use` with what `bind` returns at the start and at each reload; its policy
selects bindings (`policy.select.Selector`) and names their grants on the route (`policy.bound_routes.BoundRoutes`).
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from robin.app.issuer_client import PooledIssuerClient
from robin.app.plane import Parts
from robin.grants.bound import BoundCredentials, BoundGrant
from robin.grants.cache import CredentialCache
from robin.grants.catalog import GRANTS
from robin.grants.files import KeyFile, TokenFile
from robin.grants.grant import Flow, Grant, GrantCall, Inputs
from robin.grants.metrics import GrantMetrics
from robin.grants.rate import IssuerRates
from robin.grants.run import GrantDriver
from robin.grants.settings import GrantPlan, GrantsSettings, TokenRequestSettings
from robin.identity.identity import Identity
from robin.model.limits import Deadlines, Limits
from robin.model.route import TlsProfile
from robin.model.secret import Secret
from robin.transport.clock import Clock
from robin.transport.dial import Dialer, Judge, Resolver
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.tls import UpstreamTls
from robin.wire.oauth import render_field


class IdentitySources(Protocol):
    """The identities of a plane; `identity.identities.Identities` is one."""

    def get(self, source: str, audience: str | None = None, /) -> Identity:
        """Return the identity of this source for this audience."""
        ...


def build_credentials(
    parts: Parts,
    settings: GrantsSettings,
    *,
    resolver: Resolver,
    judge: Judge,
    limits: Limits,
    deadlines: Deadlines,
    record_call: Callable[[GrantCall], None],
    metrics: GrantMetrics | None = None,
) -> tuple[BoundCredentials, Pool]:
    """The credentials of a plane, without a binding yet, and the pool on which issuers are dialled, as `judge` permits.

    `metrics`: where what is replaced by these has counted. Raises TlsFileError.
    """
    metrics = metrics or GrantMetrics()
    bounds = settings.cache
    profile = TlsProfile() if settings.ca_file is None else TlsProfile(extra_ca_files=(settings.ca_file,))
    tls = UpstreamTls(lambda _profile, _result: None, profiles=[] if settings.ca_file is None else [profile])
    dialer = Dialer(parts.loop, parts.sweeper, resolver=resolver, judge=judge, tls=tls, connect_s=bounds.connect_timeout_s)
    pool = Pool(
        parts.loop,
        dialer=dialer,
        sweeper=parts.sweeper,
        limits=replace(limits, upstream_connections=bounds.concurrency),
        deadlines=deadlines,
        metrics=parts.metrics,
    )
    parts.drain.add(pool)
    driver = GrantDriver(
        PooledIssuerClient(HttpClient(pool), tls=profile),
        clock=parts.clock,
        entropy=parts.entropy,
        timeout_s=2 * bounds.token_timeout_s,
        call_s=bounds.token_timeout_s,
        rate_of=IssuerRates(parts.clock, bounds).of,
        on_call=partial(_note_call, metrics, record_call),
    )
    cache = CredentialCache(
        clock=parts.clock,
        entropy=parts.entropy,
        tasks=parts.tasks,
        wait_s=bounds.token_timeout_s,
        fetch_s=2 * bounds.token_timeout_s,
        entries_max=bounds.entries_max,
        forced_every_s=bounds.forced_every_s,
        on_forced=lambda key, result: _note_forced(credentials, key, result),
    )
    credentials = BoundCredentials(cache=cache, driver=driver, wall=parts.clock.wall, metrics=metrics)
    return credentials, pool


def _note_call(metrics: GrantMetrics, record_call: Callable[[GrantCall], None], call: GrantCall) -> None:
    provider = str(call.facts.get("provider", ""))
    metrics.call(provider, str(call.facts["kind"]), call.outcome, call.duration_s)
    for reason in call.warnings:
        metrics.warnings[provider, reason] += 1
    if call.offset_s is not None:
        metrics.clock_offset_s[provider] = call.offset_s
    record_call(call)


def _note_forced(credentials: BoundCredentials, key: Hashable, result: str) -> None:
    credentials.metrics.forced[credentials.owner(key), result] += 1


def bind(plans: Mapping[str, GrantPlan], identities: IdentitySources, clock: Clock) -> dict[str, BoundGrant]:
    """The grants of a plan with their identities, by the names that bindings use. Raises KeyError, TooManyIdentities."""
    binder = _Binder(identities, clock)
    return {name: binder.bound(plan) for name, plan in plans.items()}


class _Binder:
    """Puts identities and files to plans. One file is watched once, whatever uses it."""

    def __init__(self, identities: IdentitySources, clock: Clock) -> None:
        self._identities = identities
        self._clock = clock
        self._tokens: dict[str, TokenFile] = {}
        self._keys: dict[str, KeyFile] = {}

    def bound(self, plan: GrantPlan) -> BoundGrant:
        """One binding's grant."""
        return BoundGrant(
            provider=plan.provider,
            credential=plan.credential,
            header=plan.header,
            prefix=plan.prefix,
            grant=self._grant(plan),
            style=plan.style,
            more=tuple(render_field(name, "", Secret(value.encode())) for name, value in zip(plan.also, plan.also_values, strict=False)),
            username=plan.username,
        )

    def _grant(self, plan: GrantPlan) -> Grant:
        settings = plan.settings
        origin, scopes, audience = None, "", plan.audience
        if settings is not None:
            origin, scopes, audience = settings.issuer_origin, " ".join(settings.scopes), settings.audience
        return Grant(
            name=plan.kind,
            key=plan.key,
            identity=self._identities.get(plan.identity, plan.audience) if plan.identity else None,
            flow=_no_flow if settings is None else partial(GRANTS[settings.kind].flow, settings),
            calls_issuer=settings is not None,
            facts={
                "provider": plan.provider,
                "credential": plan.credential,
                "issuer_origin": origin,
                "audience": audience or None,
                "scope_requested": scopes or None,
            },
            token_file=self._token(plan.token_file),
            subject_file=self._token(plan.subject_file),
            subject_header=plan.subject_header,
            actor_file=self._token(plan.actor_file),
            key_file=self._key(plan.key_file),
            previous=None if plan.previous is None else self._grant(plan.previous),
            audience_of=self._identities.get(plan.audience_of, plan.audience) if plan.audience_of else None,
            fresh_identity=isinstance(settings, TokenRequestSettings) and settings.fresh_assertion,
        )

    def _token(self, path: str) -> TokenFile | None:
        if path and path not in self._tokens:
            self._tokens[path] = TokenFile(path, monotonic=self._clock.monotonic, wall=self._clock.wall)
        return self._tokens.get(path)

    def _key(self, path: str) -> KeyFile | None:
        if path and path not in self._keys:
            self._keys[path] = KeyFile(path, monotonic=self._clock.monotonic, wall=self._clock.wall)
        return self._keys.get(path)


def _no_flow(_inputs: Inputs, _now: float) -> Flow:
    """Of a grant that calls no issuer: the field is written with the token of the identity or file itself."""
    raise AssertionError("a grant without an issuer has no flow")
