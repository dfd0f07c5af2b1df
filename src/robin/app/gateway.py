"""The egress gateway as a plane of the runtime: its engines, pools and records, which last, and the generation that they serve by."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.gateway_audit import build_audit
from robin.app.gateway_generation import Builder, Generation
from robin.app.gateway_listeners import ProxyListener, build_authenticate, policy_for
from robin.app.gateway_outbound import IssuedCredentials, Pools, build_outbound, canary_target
from robin.app.gateway_pages import published_pages
from robin.app.gateway_process import runtime_settings
from robin.app.gateway_reload import Load, Refused, Reloads
from robin.app.grants import IdentitySources
from robin.app.issuer_client import PooledIssuerClient
from robin.app.plane import Parts, Plane
from robin.app.runtime import Runtime, run
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.config.gateway_load import LoadedGateway
from robin.config.load import environment
from robin.grants.grant import GrantCall
from robin.identity.identities import Identities, TooManyIdentities
from robin.identity.identity import Dependencies
from robin.identity.trust.key_sources import KeySource
from robin.model.faults import Fault
from robin.planes.gateway.authority import BridgeAuthority, CaInvalid
from robin.planes.gateway.caller_limits import GatewayCallerLimits
from robin.planes.gateway.callers import bearer_challenge, challenges
from robin.planes.gateway.canary import Canary, CanaryTarget
from robin.planes.gateway.connect import Connector
from robin.planes.gateway.enforcement import Enforcement
from robin.planes.gateway.grant_records import GrantRecords
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.open_tunnels import OpenTunnels
from robin.planes.gateway.records import GATEWAY_COLUMNS, GatewayRecorder, GatewayRecords, note_reason
from robin.planes.gateway.report_warning import ReportWarning
from robin.planes.gateway.reverse import REVERSE_FORMS, refuse_reverse
from robin.planes.gateway.reverse import challenges as reverse_challenges
from robin.planes.gateway.settings import GatewaySettings, ListenerSettings
from robin.planes.gateway.slots import ca_readings
from robin.proxy.engine import Authenticate, Engine
from robin.telemetry.audit import reopen_audit
from robin.telemetry.names import Reading
from robin.transport.clock import Clock
from robin.transport.http_client import HttpClient
from robin.transport.tls import TlsFileError
from robin.wire.http1 import RequestForms
from robin.wire.proxy_status import ProblemRefusals

_FORWARD: Final = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))
_INNER: Final = RequestForms(schemes=frozenset({b"http", b"https"}))
_UNUSABLE: Final = (TooManyIdentities, TlsFileError, CaInvalid)
_SELF_NAMES_S: Final = 60.0
_TEND_S: Final = 1.0


_SETTING_NAMES: Final = {
    "upstream_url": "the target",
    "upstream_ca_file": "gateway.upstream_tls",
    "header_timeout": "gateway.timeouts.head",
    "upstream_dns_timeout": "gateway.timeouts.dns",
    "upstream_connect_timeout": "gateway.timeouts.connect",
    "upstream_tls_timeout": "gateway.timeouts.tls",
    "issuer_rate": "gateway.grants.issuer_rate",
}


def run_gateway(loaded: LoadedGateway, load: Load | None = None) -> int:
    """Run the gateway until it has drained. Returns the exit code of `robin gateway`. `load` reads the settings again."""
    assert loaded.settings is not None
    return run(runtime_settings(loaded.settings, _SETTING_NAMES), partial(build_gateway, loaded, load=load), environment())


def gateway_runtime(loaded: LoadedGateway, identities: IdentitySources, load: Load, *, log_fd: int, clock: Clock | None = None) -> Runtime:
    """A runtime with a gateway, for a caller that has an event loop and identities already, and signals of its own. Raises StartFailure."""
    assert loaded.settings is not None
    build = partial(build_gateway, loaded, identities=identities, load=load)
    return Runtime(runtime_settings(loaded.settings, _SETTING_NAMES), build, {}, log_fd=log_fd, clock=clock, signals=False)


def build_gateway(loaded: LoadedGateway, parts: Parts, *, identities: IdentitySources | None = None, load: Load | None = None) -> "Gateway":
    """Build the plane. `identities` None: those of the settings. Raises StartFailure, or OSError."""
    try:
        return Gateway(loaded, parts, own_sources=identities, load=load)
    except _UNUSABLE as error:
        raise StartFailure(EXIT_SETTINGS, _text_of(error)) from None
    except Fault as fault:
        raise StartFailure(EXIT_SETTINGS, f"gateway.listeners: {fault.detail}") from None


class Gateway(Plane):
    """One engine for each listener, since each knows its callers in its own way; one for the requests inside of CONNECT.

    Engines, pools, the connector and the records last; `_use` makes them serve by a generation.
    """

    def __init__(
        self, loaded: LoadedGateway, parts: Parts, *, own_sources: IdentitySources | None = None, load: Load | None = None
    ) -> None:
        settings = loaded.settings
        assert settings is not None
        self._parts = parts
        self._tended_at = 0.0
        self._succession = asyncio.Lock()  # of identities
        self._awaited: set[KeySource] = set()  # key sets that a reload has added, and that were not there yet
        self._replaced = asyncio.Event()  # the generation was
        self._metrics = GatewayMetrics(report=settings.rules.report)
        outbound = build_outbound(settings, parts, self._metrics)
        self._pools = Pools(outbound, settings, parts)
        self._canary = Canary(parts.loop, self._canary_target, sweeper=parts.sweeper, wall=parts.clock.wall)
        self._builder = Builder(
            parts=parts,
            metrics=self._metrics,
            key_client=PooledIssuerClient(HttpClient(self._pools.keys)),
            own_sources=own_sources,
            local=Enforcement(self._canary, self._ca_pem).respond,
        )
        self._generation = generation = self._builder.build(loaded, outbound, _build_identities(settings, parts))
        self._recorder = parts.build_recorder(GatewayRecorder, columns=GATEWAY_COLUMNS, mode="off", style="json", identity_source="none")
        self._audit = build_audit(settings.audit, parts)
        self._credentials = IssuedCredentials(settings, parts, self._note_call)
        self._credentials.use(generation.bound, settings, settings)
        self._records = GatewayRecords(
            self._audit,
            self._metrics,
            GrantRecords(self._credentials.current),
            instance=settings.name,
            fail_closed=settings.audit.deny,
            notes_of=generation.policy.notes,
        )
        self._caller_limits = GatewayCallerLimits(settings.callers, parts.clock.monotonic, body_bytes=settings.limits.body_bytes)
        self._report_warning = ReportWarning(parts.events, self._metrics, parts.loop.time())
        self._recorder.attach(self._records, self._caller_limits.leave)
        fields: dict[int | str, bytes] = {401: bearer_challenge(settings.name), 407: challenges(settings.name)}
        self._refusals = ProblemRefusals(settings.name, _SETTING_NAMES, fields=fields)
        self._open_tunnels = OpenTunnels(outbound.guard)
        self._inner = self._engine(_INNER)
        self._connector = Connector(
            inner=self._inner,
            settings=settings.tunnels,
            authority=generation.authority,
            ech_allowed=settings.bridge.ech == "allow",
            record_decision=self._records.decide,
            metrics=self._metrics,
            wall=parts.clock.wall,
        )
        self._listeners = tuple(self._build_listener(listener) for listener in settings.listeners)
        self._reloads = Reloads(
            parts,
            self._metrics,
            load=load,
            current=lambda: self._generation,
            build=self._build_next,
            use=self._use_or_refuse,
            canary=self._canary,
        )
        self.listeners = tuple(one.listener for one in self._listeners)
        self.readables = (self._recorder, self._metrics, self, self._credentials.metrics)
        self.chores = (self._tend,)
        self.pages = published_pages(lambda: self._generation)
        self.admin_pages = self._reloads.pages

    # parts that last

    def _ca_pem(self) -> bytes:
        """What callers must trust now."""
        return self._generation.slots.pem()

    def _canary_target(self) -> CanaryTarget | None:
        """By the settings in force."""
        return canary_target(self._generation.outbound, self._generation.settings, self._parts)

    def _note_call(self, call: GrantCall) -> None:
        """Records a call to an issuer; the records describe the credentials, so they are built after them."""
        self._records.note_call(call)

    def _engine(self, forms: RequestForms, authenticate: Authenticate | None = None, *, connects: bool = False) -> Engine:
        settings, parts = self._generation.settings, self._parts
        return Engine(
            loop=parts.loop,
            policy=self._generation.policy,
            credentials=self._credentials.current,
            pool=self._pools.origins,
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
            audit=self._records.decide,
            forms=forms,
            connect=self._connector.serve if connects else None,
            translate=note_reason,
            open_tunnels=self._open_tunnels,
            callers=self._caller_limits,
        )

    def _build_listener(self, listener: ListenerSettings) -> ProxyListener:
        authenticate = build_authenticate(listener, self._generation)
        if listener.kind == "proxy":
            engine = self._engine(_FORWARD, authenticate, connects=True)
        else:
            name = self._generation.settings.name
            engine = self._engine(REVERSE_FORMS, authenticate)
            engine.policy = policy_for(listener, self._generation)
            engine.refusals = ProblemRefusals(name, _SETTING_NAMES, fields=reverse_challenges(name))
            engine.translate = refuse_reverse
        return ProxyListener(listener, engine, self._parts, self._generation, self._metrics.rejected)

    # generations

    def _build_next(self, loaded: LoadedGateway) -> Generation:
        """The generation behind the one in force. Called in a thread. Raises Refused."""
        settings, before = loaded.settings, self._generation
        assert settings is not None
        try:
            outbound = build_outbound(settings, self._parts, self._metrics, (before.settings, before.outbound))
            return self._builder.build(loaded, outbound, before.identities.succeed(settings.identities), before)
        except _UNUSABLE as error:
            raise Refused(error=_text_of(error)) from None
        except OSError as error:  # of the machine, not of a file
            raise Refused(error=f"gateway.upstream_tls: {error.strerror}") from None

    def _use_or_refuse(self, generation: Generation) -> None:
        """Put a generation in force at once. Raises Refused, and then nothing has changed."""
        before = self._generation
        try:
            self._credentials.prepare(before.settings, generation.settings)
        except StartFailure as failure:
            raise Refused(error=str(failure)) from None
        self._use(generation, before)
        self._parts.tasks.start(self._succeed_identities(before.identities, generation.identities), "identities")

    def _use(self, generation: Generation, before: Generation) -> None:
        """Serve by this generation from now on."""
        settings, policy, outbound = generation.settings, generation.policy, generation.outbound
        self._generation = generation
        self._replaced.set()
        self._canary.ask()
        self._awaited |= {source for name, source in generation.keys.items() if before.keys.get(name) is not source}
        self._pools.use(outbound, settings, generation.number)
        self._credentials.use(generation.bound, before.settings, settings)
        for engine in (self._inner, *(listener.engine for listener in self._listeners)):
            engine.policy, engine.credentials = policy, self._credentials.current
            engine.limits, engine.deadlines = settings.limits, settings.deadlines
        for listener in self._listeners:
            listener.use(generation)
        self._caller_limits.use(settings.callers, body_bytes=settings.limits.body_bytes)
        self._connector.use(settings.tunnels, generation.authority, ech_allowed=settings.bridge.ech == "allow")
        self._metrics.report = settings.rules.report
        self._records.use(policy.generation, policy.notes, GrantRecords(self._credentials.current))
        self._open_tunnels.use(generation.number, outbound.guard, before.settings, settings)
        self._parts.tasks.start(self._open_tunnels.judge_again(), "open tunnels")
        self.drain_s = (settings.drain_min_s, settings.drain_max_s)

    async def _succeed_identities(self, before: Identities, after: Identities) -> None:
        async with self._succession:
            await after.start()
            await before.close(after=after)

    # the plane

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while the audit can be written, the keys of each issuer are there, and the CA can sign if anything is bridged.

        An issuer that a reload has added counts once its keys were there: the others are served meanwhile.
        """
        reasons = ["audit_unavailable"] * bool(self._audit.failure)
        keys, authority = self._generation.keys, self._generation.authority
        missing = [source for source in keys.values() if source.ready() is None]  # each is asked, since that begins a fetch
        self._awaited.intersection_update(missing)
        reasons += ["issuer_keys_unavailable"] * bool(set(missing) - self._awaited)
        if authority is not None and not authority.valid:
            reasons.append("bridge_unavailable")
        return Readiness(started=started, draining=draining, reasons=tuple(reasons))

    def readings(self) -> Iterator[Reading]:
        """The series of what the generation in force has."""
        generation = self._generation
        yield from generation.identities.readings()
        yield from self._metrics.key_readings(generation.keys)
        yield from self._canary.readings()
        yield from ca_readings(generation.slots, generation.settings.bridge.sign_with, generation.authority)

    def _tend(self, now: float) -> None:
        """Once a second: fetch keys that are due, look at files, and note whether the gateway became ready."""
        if now < self._tended_at + _TEND_S:
            return
        self._tended_at = now
        for listener in self._listeners:
            listener.refresh()
        self._report_warning.tend(now)
        authority = self._generation.authority
        if authority is not None and (event := authority.look()):
            self._note_ca(event, authority)
        self._parts.on_ready_change()

    def _note_ca(self, event: str, authority: BridgeAuthority) -> None:
        """The folder of the signing slot changed."""
        events, slot, sha256 = self._parts.events, self._generation.settings.bridge.sign_with, authority.ca.sha256
        if event == "ca_renewed":
            events.info("ca_renewed", slot=slot, ca_sha256=sha256)
        elif event == "ca_key_changed":
            detail = "the slot that signs has another key: the one before signs on until its certificate ends, or a restart"
            events.error("ca_key_changed", slot=slot, ca_sha256=sha256, detail=detail)
        else:
            detail = "the slot that signs holds no CA that can sign: the one before signs on"
            events.error("ca_invalid", slot=slot, ca_sha256=sha256, detail=detail)

    async def start(self) -> None:
        """Keep the identities current; learn the addresses of our own names, again and again; watch the files of the settings."""
        await self._generation.identities.start()
        self._parts.tasks.start(self._learn_self(), "self names")
        self._parts.tasks.start(self._canary.run(), "canary")
        self._parts.tasks.start(self._reloads.watch(), "files of the settings")

    async def _learn_self(self) -> None:
        while True:
            generation = self._generation
            found: set[IPv4Address | IPv6Address] = set()
            for name in generation.settings.addresses.self_names:
                try:
                    found.update(map(ip_address, await generation.outbound.resolver.lookup(name)))
                except Fault:
                    continue
            generation.outbound.guard.learn_self(frozenset(found))
            self._replaced.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SELF_NAMES_S):
                    await self._replaced.wait()

    def reload(self) -> "asyncio.Task[None]":
        """Read the settings again, and the files that they name: what can change does, whole or not at all."""
        self._wake()
        self._parts.tasks.start(reopen_audit(self._audit, self._parts.events), "audit reopen")
        return self._parts.tasks.start(self._reloads.reload(), "reload")

    def reload_now(self) -> None:
        """The same, before this returns; nothing is served meanwhile."""
        self._wake()
        self._reloads.reload_now()

    def _wake(self) -> None:
        self._generation.identities.wake()
        self._generation.outbound.tls.reload()
        for listener in self._listeners:
            listener.refresh()

    def flush(self) -> None:
        """Count the exchanges that ended."""
        self._recorder.flush()

    async def close(self) -> None:
        """Stop the identities."""
        await self._generation.identities.close()

    async def seal(self) -> None:
        """Write what waits, and close the audit."""
        await self._audit.close()


def _text_of(error: TooManyIdentities | TlsFileError | CaInvalid) -> str:
    """What a generation cannot be built of, by the key that names it."""
    if isinstance(error, TlsFileError):
        return f"gateway.upstream_tls: {error}; give a readable PEM bundle of CA certificates"
    if isinstance(error, CaInvalid):
        return f"ca_invalid: gateway.bridge.slots: {error}; robin ca init makes a CA"
    return f"gateway.providers: {error}"


def _build_identities(settings: GatewaySettings, parts: Parts) -> Identities:
    dependencies = Dependencies(
        clock=parts.clock,
        entropy=parts.entropy,
        tasks=parts.tasks,
        log=parts.events,
        on_change=lambda: None,  # a gateway is ready without them: only the requests that need one wait
        turn=parts.loop.time,  # of uvloop: milliseconds, and constant within a turn
    )
    return Identities(settings.identities, dependencies)
