"""The egress gateway as a plane of the runtime: its policy, callers, resolver, pool, bridge and records, put together from its settings."""

import asyncio
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.issuer_client import PooledIssuerClient
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import run
from robin.app.shutdown import EXIT_BIND, EXIT_SETTINGS, StartFailure
from robin.config.load import environment
from robin.grants.credentials import GrantedCredentials
from robin.identity.trust.key_sources import build_key_source
from robin.identity.trust.verify import TokenVerifier
from robin.model.address import UnixAddress
from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.route import HeaderRules, RouteDeadlines
from robin.planes.gateway.authority import BridgeAuthority, CaInvalid
from robin.planes.gateway.callers import TokenCallers, challenges, connection_caller
from robin.planes.gateway.connect import Connector
from robin.planes.gateway.records import (
    GATEWAY_COLUMNS,
    Audit,
    GatewayRecorder,
    GatewayRecords,
    StandardOutputAudit,
    decide_with_id,
)
from robin.planes.gateway.settings import GatewaySettings, ListenerSettings
from robin.policy.address_guard import AddressGuard
from robin.policy.addresses import refuse_own_listeners
from robin.policy.gateway import GatewayPolicy
from robin.proxy.admission import ListenerRule
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Authenticate, Engine
from robin.proxy.refusal import refuse_connection
from robin.telemetry.audit import AuditLog
from robin.telemetry.audit_file import AuditFile, AuditUnavailable, load_checkpoint_key
from robin.transport.dial import Dialer
from robin.transport.dns import DnsResolver
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import TlsFileError, UpstreamTls
from robin.wire.http1 import RequestForms
from robin.wire.proxy_status import ProblemRefusals

STRIP: Final = frozenset(
    b"x-api-key api-key apikey x-auth-token x-access-token x-vault-token x-warden-token private-token x-goog-api-key"
    b" x-amz-security-token ocp-apim-subscription-key".split()
)
"""Credentials of callers that are never forwarded, beside Authorization and Proxy-Authorization (grants.md section 8)."""

_FORWARD: Final = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))
_INNER: Final = RequestForms(schemes=frozenset({b"http", b"https"}))
_FLUSH_S: Final = 0.02
_SELF_NAMES_S: Final = 60.0


def run_gateway(settings: GatewaySettings) -> int:
    """Run the gateway until it has drained. Returns the exit code of `robin gateway`."""
    return run(runtime_settings(settings), partial(build_gateway, settings), environment())


def runtime_settings(settings: GatewaySettings) -> RuntimeSettings:
    """The part of the settings that is about the process."""
    return RuntimeSettings(
        plane="gateway",
        admin=settings.admin,
        admin_setting="gateway.admin.listen",
        drain_min_s=settings.drain_min_s,
        drain_max_s=settings.drain_max_s,
        unsafe={"open": any(listener.unsafe_open for listener in settings.listeners)},
        warnings=settings.warnings,
        setting_names={"upstream_url": "the target", "upstream_ca_file": "gateway.upstream_tls", "header_timeout": "gateway.timeouts.head"},
    )


def build_gateway(settings: GatewaySettings, parts: Parts) -> "Gateway":
    """Build the plane. Raises StartFailure, or OSError."""
    try:
        return Gateway(settings, parts)
    except TlsFileError as error:
        raise StartFailure(EXIT_SETTINGS, f"gateway.upstream_tls: {error}; give a readable PEM bundle of CA certificates") from None
    except CaInvalid as error:
        raise StartFailure(EXIT_SETTINGS, f"ca_invalid: gateway.bridge.slots: {error}; robin ca init makes a CA") from None
    except AuditUnavailable as error:
        code = EXIT_BIND if error.reason == "locked" else EXIT_SETTINGS
        raise StartFailure(code, f"gateway.audit.file: {error}") from None


class Gateway(Plane):
    """One engine for each listener, since each knows its callers in its own way; one for the requests inside of CONNECT."""

    def __init__(self, settings: GatewaySettings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        self._tls = UpstreamTls(lambda *_: None, profiles=[settings.upstream_tls])
        self._guard = AddressGuard(
            deny=settings.addresses.deny,
            nat64_prefixes=settings.addresses.nat64_prefixes,
            unsafe_loopback=settings.addresses.unsafe_loopback,
        )
        self._resolver = DnsResolver(
            servers=settings.addresses.resolver,
            hosts=settings.addresses.hosts,
            timeout_s=settings.tunnels.dns_s,
            now=parts.clock.monotonic,
            is_own_listener=parts.own.has,
        )
        dialer = Dialer(parts.loop, resolver=self._resolver, judge=self._guard.judge, tls=self._tls, connect_s=settings.deadlines.connect_s)
        self._pool = Pool(
            parts.loop,
            dialer=dialer,
            sweeper=parts.sweeper,
            limits=settings.limits,
            deadlines=settings.deadlines,
            metrics=parts.metrics,
        )
        self._policy = GatewayPolicy(
            settings.rules,
            name=settings.name,
            header_rules=HeaderRules(via=b"1.1 " + settings.name.encode("ascii"), strip=STRIP),
            deadlines=RouteDeadlines(response_s=settings.deadlines.response_s, stream_idle_s=settings.deadlines.stream_idle_s),
            tls=settings.upstream_tls,
        )
        self._recorder = _build_recorder(parts)
        self._audit = _build_audit(settings, parts)
        self._records = GatewayRecords(self._audit, instance=settings.name, fail_closed=settings.audit.deny, notes_of=self._policy.notes)
        self._recorder.attach(self._records)
        self._refusals = ProblemRefusals(settings.name, runtime_settings(settings).setting_names, fields={407: challenges(settings.name)})
        self._inner = self._engine(_INNER)
        self._authority = self._build_authority()
        self._connector = Connector(
            policy=self._policy,
            inner=self._inner,
            settings=settings.tunnels,
            authority=self._authority,
            ech_allowed=settings.bridge.ech == "allow",
            record_decision=self._records.decide,
            wall=parts.clock.wall,
        )
        self._verifiers = self._build_verifiers()
        self.listeners = tuple(self._build_listener(listener) for listener in settings.listeners)
        self.readables = (self._recorder,)

    def _build_authority(self) -> BridgeAuthority | None:
        bridge = self._settings.bridge
        if not bridge.sign_with:
            return None
        return BridgeAuthority(
            bridge.slots[bridge.sign_with],
            ttl_s=bridge.leaf_ttl_s,
            contexts=bridge.leaf_cache,
            per_second=self._settings.tunnels.mints_per_second,
            wall=self._parts.clock.wall,
        )

    def _build_verifiers(self) -> dict[str, TokenVerifier]:
        parts, settings = self._parts, self._settings
        if not settings.issuers:
            return {}
        control = Dialer(
            parts.loop,
            resolver=Resolver(parts.loop, is_own_listener=parts.own.has),
            judge=refuse_own_listeners,
            tls=self._tls,
            connect_s=settings.deadlines.connect_s,
        )
        pool = Pool(
            parts.loop,
            dialer=control,
            sweeper=parts.sweeper,
            limits=settings.limits,
            deadlines=settings.deadlines,
            metrics=parts.metrics,
        )
        parts.drain.add(pool)
        client = PooledIssuerClient(HttpClient(pool))
        return {
            name: TokenVerifier(
                issuer.trust,
                build_key_source(issuer.trust.jwks, client=client, clock=parts.clock, entropy=parts.entropy, tasks=parts.tasks),
                parts.clock.wall,
            )
            for name, issuer in settings.issuers.items()
        }

    def _engine(self, forms: RequestForms, authenticate: Authenticate | None = None, *, connects: bool = False) -> Engine:
        settings, parts = self._settings, self._parts
        return Engine(
            loop=parts.loop,
            policy=self._policy,
            credentials=GrantedCredentials({}, wall=parts.clock.wall),
            pool=self._pool,
            limits=settings.limits,
            deadlines=settings.deadlines,
            metrics=parts.metrics,
            recorder=self._recorder,
            events=parts.events,
            sweeper=parts.sweeper,
            tasks=parts.tasks,
            entropy=parts.entropy,
            clock=parts.clock,
            drain=parts.drain,
            refusals=self._refusals,
            authenticate=authenticate,
            audit=decide_with_id(self._records, self._recorder),
            forms=forms,
            connect=self._connector.serve if connects else None,
        )

    def _build_listener(self, listener: ListenerSettings) -> Listener:
        authenticate = None
        if listener.auth == "jwt":
            issuers = [(self._settings.issuers[name], self._verifiers[name]) for name in listener.issuers]
            authenticate = TokenCallers(issuers).authenticate
        engine = self._engine(_FORWARD, authenticate, connects=True)
        unix = any(isinstance(address, UnixAddress) for address in listener.addresses)
        admission = self._parts.build_admission(
            connections=self._settings.limits.connections,
            serve=partial(_serve, engine=engine, named=listener.auth != "jwt"),
            refuse=partial(_refuse, engine),
        )
        return Listener(
            setting=f"gateway.listeners.{listener.name}",
            addresses=listener.addresses,
            rule=ListenerRule(
                unix=unix,
                allow_uids=listener.uids if listener.auth == "unix" else None,
                beyond_loopback=listener.unsafe_open or listener.auth == "jwt",
            ),
            take=admission.take,
        )

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready once the listeners are bound."""
        return Readiness(started=started, draining=draining)

    async def start(self) -> None:
        """Learn the addresses of our own names, again and again."""
        if self._settings.addresses.self_names:
            self._parts.tasks.start(self._learn_self(), "self names")

    async def _learn_self(self) -> None:
        while True:
            found: set[IPv4Address | IPv6Address] = set()
            for name in self._settings.addresses.self_names:
                try:
                    found.update(map(ip_address, await self._resolver.lookup(name)))
                except Fault:
                    continue
            self._guard.learn_self(frozenset(found))
            await asyncio.sleep(_SELF_NAMES_S)

    def flush(self) -> None:
        """Count the exchanges that ended."""
        self._recorder.flush()

    async def seal(self) -> None:
        """Write what waits, and close the audit."""
        await self._audit.close()


def _build_recorder(parts: Parts) -> GatewayRecorder:
    return GatewayRecorder(
        parts.metrics,
        parts.writer,
        columns=GATEWAY_COLUMNS,
        mode="off",
        style="json",
        wall=parts.clock.wall,
        prefix=parts.entropy.token_hex(8),
        identity_source="none",
        later=lambda flush: parts.loop.call_later(_FLUSH_S, flush),
    )


def _build_audit(settings: GatewaySettings, parts: Parts) -> Audit:
    audit = settings.audit
    if audit.file is None:
        return StandardOutputAudit(parts.writer, parts.clock.wall)
    try:
        key = None if audit.checkpoint_key_file is None else load_checkpoint_key(Path(audit.checkpoint_key_file))
    except (OSError, ValueError) as error:
        raise StartFailure(EXIT_SETTINGS, f"gateway.audit.checkpoint_key_file: {error}") from None
    file = AuditFile(Path(audit.file), plane="gateway", wall=parts.clock.wall, key=key, checkpoint_every=audit.checkpoint_every)
    return AuditLog(file, monotonic=parts.clock.monotonic)


async def _serve(sock: object, caller: Caller, *, engine: Engine, named: bool) -> None:
    """`named`: the evidence of the connection names its caller; else each request does."""
    await serve_connection(sock, connection_caller(caller) if named else caller, engine)  # type: ignore[arg-type]


def _refuse(engine: Engine, caller: Caller, fault: Fault) -> bytes:
    """A denied peer is closed without a response; the limit of connections gets one."""
    octets = refuse_connection(engine, caller, fault)
    return b"" if fault.code == "peer_denied" else octets
