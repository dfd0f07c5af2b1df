"""The gateway as a relay in an agent's pod (`gateway.parent`): it authenticates to the parent for the agent, and has no other secret.

Names are resolved by the system here, hosts file included: the parent is the operator's, and a pod without DNS has it in its hosts file.
"""

from dataclasses import replace
from functools import partial
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.gateway_audit import build_audit
from robin.app.gateway_process import runtime_settings
from robin.app.plane import Listener, Parts, Plane
from robin.app.runtime import run
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.config.load import environment
from robin.model.address import UnixAddress
from robin.model.caller import Caller, ListenerRule
from robin.model.faults import Fault
from robin.model.route import HeaderRules, Route, RouteDeadlines, TlsProfile
from robin.planes.gateway.caller_limits import GatewayCallerLimits
from robin.planes.gateway.callers import connection_caller
from robin.planes.gateway.grant_records import GrantRecords
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.parent import ParentToken, ParentTunnels, translate_parent
from robin.planes.gateway.records import GATEWAY_COLUMNS, GatewayRecorder, GatewayRecords
from robin.planes.gateway.settings import GatewaySettings, ListenerSettings, ParentSettings
from robin.policy.addresses import refuse_own_listeners
from robin.policy.gateway import NO_NOTES
from robin.policy.relay import RelayPolicy
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.proxy.refusal import refuse_connection
from robin.telemetry.audit import reopen_audit
from robin.transport.dial import Dialer
from robin.transport.inspection import refuse_inspection
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import TlsFileError, UpstreamTls
from robin.wire.http1 import RequestForms
from robin.wire.proxy_status import ProblemRefusals

_FORMS: Final = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))
_SETTING_NAMES: Final = {
    "upstream_url": "gateway.parent.url",
    "upstream_ca_file": "gateway.parent.ca_file",
    "header_timeout": "gateway.timeouts.head",
    "upstream_dns_timeout": "gateway.timeouts.dns",
    "upstream_connect_timeout": "gateway.timeouts.connect",
    "upstream_tls_timeout": "gateway.timeouts.tls",
}


def run_relay(settings: GatewaySettings) -> int:
    """Run the relay until it has drained. Returns the exit code of `robin gateway`."""
    refuse_inspection()
    return run(runtime_settings(settings, _SETTING_NAMES), partial(build_relay, settings), environment())


def build_relay(settings: GatewaySettings, parts: Parts) -> "Relay":
    """Build the plane. Raises StartFailure, or OSError."""
    assert settings.parent is not None
    try:
        return Relay(settings, settings.parent, parts)
    except TlsFileError as error:
        text = f"gateway.parent.ca_file: {error}; give a readable PEM bundle of CA certificates"
        raise StartFailure(EXIT_SETTINGS, text) from None


class Relay(Plane):
    """One engine for all listeners; one upstream."""

    def __init__(self, settings: GatewaySettings, parent: ParentSettings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        profile = TlsProfile(ca_file=parent.ca_file) if parent.origin.tls else None
        self._tls = None if profile is None else UpstreamTls(self._on_ca_reload, profiles=[profile])
        self._token = ParentToken(parent.token_file)
        self._metrics = GatewayMetrics(report=False)
        self._recorder = parts.build_recorder(GatewayRecorder, columns=GATEWAY_COLUMNS, mode="off", style="json", identity_source="none")
        self._audit = build_audit(settings.audit, parts)
        records = GatewayRecords(
            self._audit,
            self._metrics,
            GrantRecords(None),
            instance=settings.name,
            fail_closed=settings.audit.deny,
            notes_of=lambda _: NO_NOTES,
            generation=0,
        )
        self._caller_limits = GatewayCallerLimits(settings.callers, parts.clock.monotonic, body_bytes=settings.limits.body_bytes)
        self._recorder.attach(records, self._caller_limits.leave)
        self._engine = self._build_engine(parent, profile, records)
        self.listeners = tuple(self._build_listener(listener) for listener in settings.listeners)
        self.readables = (self._recorder, self._metrics)
        self.started_fields = {"parent": str(parent.origin)}

    def _build_engine(self, parent: ParentSettings, profile: TlsProfile | None, records: GatewayRecords) -> Engine:
        settings, parts = self._settings, self._parts
        deadlines = settings.deadlines
        route = Route(
            name="parent",
            header_rules=HeaderRules(via=b"1.1 " + settings.name.encode("ascii"), pass_authorization=True),
            upgrades=frozenset({("GET", b"websocket")}),
            deadlines=RouteDeadlines(response_s=deadlines.response_s, stream_idle_s=deadlines.stream_idle_s),
            rejects_with=407,
            repeat_on_401=True,
        )
        resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
        dialer = Dialer(
            parts.loop,
            parts.sweeper,
            resolver=resolver,
            judge=refuse_own_listeners,
            tls=self._tls,
            connect_s=deadlines.connect_s,
            steps=deadlines.connect_steps,
        )
        limits = replace(settings.limits, upstream_connections=settings.limits.upstream_total)  # there is one place to go
        pool = Pool(parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=limits, deadlines=deadlines, metrics=parts.metrics)
        return Engine(
            loop=parts.loop,
            policy=RelayPolicy(parent.origin, route, tls=profile, name=settings.name),
            credentials=self._token,
            pool=pool,
            limits=limits,
            deadlines=deadlines,
            metrics=parts.metrics,
            recorder=self._recorder,
            events=parts.events,
            sweeper=parts.sweeper,
            tasks=parts.tasks,
            entropy=parts.entropy,
            clock=parts.clock,
            drain=parts.drain,
            refusals=ProblemRefusals(settings.name, _SETTING_NAMES),
            audit=records.decide,
            forms=_FORMS,
            connect=ParentTunnels(settings.tunnels, self._metrics).serve,
            translate=translate_parent,
            callers=self._caller_limits,
        )

    def _build_listener(self, listener: ListenerSettings) -> Listener:
        engine = self._engine
        admission = self._parts.build_admission(
            connections=self._settings.limits.connections,
            serve=lambda sock, caller: serve_connection(sock, connection_caller(caller), engine),
            refuse=partial(_refuse, engine),
        )
        unix = any(isinstance(address, UnixAddress) for address in listener.addresses)
        return Listener(
            setting=f"gateway.listeners.{listener.name}",
            addresses=listener.addresses,
            rule=ListenerRule(unix=unix, allow_uids=listener.uids if unix else None, beyond_loopback=False),
            take=admission.take,
        )

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while there is a token for the parent, and the audit can be written."""
        reasons = ["audit_unavailable"] * bool(self._audit.failure)
        try:
            self._token.read()
        except Fault as fault:
            reasons.append(fault.code)
        return Readiness(started=started, draining=draining, reasons=tuple(reasons))

    def reload(self) -> None:
        """SIGHUP: read the roots again, and go on in a new audit file. The settings are read at the start only."""
        self._parts.tasks.start(reopen_audit(self._audit, self._parts.events), "audit reopen")
        if self._tls is not None:
            self._tls.reload()

    def _on_ca_reload(self, _: TlsProfile, result: str) -> None:
        if result == "loaded":
            self._engine.pool.retire_generation()
            self._parts.events.info("upstream_ca_reloaded")
        else:
            self._parts.events.error("upstream_ca_failed", detail="gateway.parent.ca_file cannot be used; the roots before stay in force")

    def flush(self) -> None:
        """Count the exchanges that ended."""
        self._recorder.flush()

    async def seal(self) -> None:
        """Write what waits, and close the audit."""
        await self._audit.close()


def _refuse(engine: Engine, caller: Caller, fault: Fault) -> bytes:
    """A denied peer is closed without a response; the limit of connections gets one."""
    octets = refuse_connection(engine, caller, fault)
    return b"" if fault.code == "peer_denied" else octets
