"""The sidecar as a plane of the runtime: its settings in parts, its engine, its identity, and the roots of its upstream."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import Runtime, run
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.config.check import warnings
from robin.config.load import environment
from robin.config.settings import SidecarSettings
from robin.config.table import SETTING_NAMES
from robin.grants.forwarded import ForwardedCredentials
from robin.identity.catalog import source_name
from robin.identity.identities import Identities
from robin.identity.identity import Dependencies, Identity
from robin.model.route import TlsProfile
from robin.planes.sidecar.access_record import SIDECAR_COLUMNS
from robin.planes.sidecar.build import build_endpoint, build_policy, build_route
from robin.planes.sidecar.listener import ACTIVATION_FIXES, LISTENER_SETTINGS, REFUSALS, listener_rule
from robin.policy.addresses import refuse_own_listeners
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.proxy.refusal import refuse_connection
from robin.telemetry.recorder import Recorder
from robin.transport.dial import Dialer
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tls import TlsFileError, UpstreamTls
from robin.wire.proxy_status import ProblemRefusals

_CA_POLL_S: Final = 1.0
_UNSAFE: Final = ("listen", "upstream_http", "any_host")


def run_sidecar(settings: SidecarSettings) -> int:
    """Run the sidecar until it has drained. Returns the exit code of `robin sidecar`."""
    return run(runtime_settings(settings), partial(build_sidecar, settings), environment())


def sidecar_runtime(settings: SidecarSettings, environ: Mapping[str, str], *, log_fd: int = 1) -> Runtime:
    """A runtime with a sidecar, for a caller that has an event loop already. Raises StartFailure."""
    return Runtime(runtime_settings(settings), partial(build_sidecar, settings), environ, log_fd=log_fd)


def runtime_settings(settings: SidecarSettings) -> RuntimeSettings:
    """The part of the settings that is about the process."""
    return RuntimeSettings(
        plane="sidecar",
        admin=settings.listeners.admin,
        admin_setting="ROBIN_ADMIN_ADDR",
        admin_quit=settings.listeners.admin_quit,
        drain_min_s=settings.lifecycle.drain_min_s,
        drain_max_s=settings.lifecycle.drain_max_s,
        startup_timeout_s=settings.lifecycle.startup_timeout_s,
        log_level=settings.telemetry.log_level,
        log_format=settings.telemetry.log_format,
        unsafe={switch: switch in settings.unsafe.names for switch in _UNSAFE},
        warnings=warnings(settings),
        setting_names=SETTING_NAMES,
    )


def build_sidecar(settings: SidecarSettings, parts: Parts) -> "Sidecar":
    """Build the plane. Raises StartFailure, or OSError."""
    try:
        return Sidecar(settings, parts)
    except TlsFileError as error:
        text = f"ROBIN_UPSTREAM_CA_FILE: {error}; give a readable PEM bundle of CA certificates"
        raise StartFailure(EXIT_SETTINGS, text) from None


class Sidecar(Plane):
    """One listener, one identity, one upstream."""

    def __init__(self, settings: SidecarSettings, parts: Parts) -> None:
        self._parts = parts
        endpoint = build_endpoint(settings.upstream.url, settings.upstream.ca_file)
        self._tls = UpstreamTls(self._on_ca_reload, profiles=[endpoint.tls]) if endpoint.tls is not None else None
        self._ca_polled_at = 0.0
        self._identities = _build_identities(settings, parts)
        identity = self._identities.get(source_name(settings.identity))
        (self.identity_metrics,) = self._identities.metrics
        self._recorder = _build_recorder(settings, parts)
        self._engine = _build_engine(settings, parts, tls=self._tls, identity=identity, recorder=self._recorder)
        self.listeners = (_build_listener(settings, parts, self._engine),)
        self.readables = (self._recorder, self._identities)  # the recorder first: when it is read it counts what it has noted
        self.chores = (self._poll_ca,)
        self.started_fields = {"upstream": str(settings.upstream.url)}

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while the identity is usable."""
        return Readiness(started=started, draining=draining, identities=self._identities.statuses())

    async def start(self) -> None:
        """Begin to keep the identity current."""
        await self._identities.start()

    def reload(self) -> None:
        """Read the roots again, and look for a new identity now."""
        if self._tls is not None:
            self._tls.reload()
        self._identities.wake()

    def flush(self) -> None:
        """Count the exchanges that ended and write their lines."""
        self._recorder.flush()

    async def close(self) -> None:
        """Stop the identity."""
        await self._identities.close()

    def _poll_ca(self, now: float) -> None:
        if self._tls is not None and now - self._ca_polled_at >= _CA_POLL_S:
            self._ca_polled_at = now
            self._tls.refresh()

    def _on_ca_reload(self, _: TlsProfile, result: str) -> None:
        self._parts.metrics.ca_reloads[result] += 1
        if result == "loaded":
            self._engine.pool.retire_generation()
            self._parts.events.info("upstream_ca_reloaded")
        else:
            detail = "ROBIN_UPSTREAM_CA_FILE cannot be used; the roots read before stay in force"
            self._parts.events.error("upstream_ca_failed", detail=detail)


def _build_identities(settings: SidecarSettings, parts: Parts) -> Identities:
    return Identities(
        {source_name(settings.identity): settings.identity},
        Dependencies(
            clock=parts.clock,
            entropy=parts.entropy,
            tasks=parts.tasks,
            log=parts.events,
            on_change=parts.on_ready_change,
            turn=parts.loop.time,  # of uvloop: milliseconds, and constant within a turn
        ),
    )


def _build_recorder(settings: SidecarSettings, parts: Parts) -> Recorder:
    return parts.build_recorder(
        Recorder,
        columns=SIDECAR_COLUMNS,
        mode=settings.telemetry.access_log,
        style=settings.telemetry.log_format,
        identity_source=source_name(settings.identity),
    )


def _build_engine(settings: SidecarSettings, parts: Parts, *, tls: UpstreamTls | None, identity: Identity, recorder: Recorder) -> Engine:
    deadlines = settings.deadlines
    limits = replace(settings.limits, upstream_total=settings.limits.upstream_connections)  # there is one endpoint
    pseudonym = f"robin-{parts.entropy.token_hex(4)}"
    route = build_route(
        settings.upstream.url,
        strip=settings.guards.strip_headers,
        required=settings.guards.require_header,
        pseudonym=pseudonym,
        upgrades=settings.guards.upgrade_protocols,
        deadlines=deadlines,
    )
    policy = build_policy(
        route,
        build_endpoint(settings.upstream.url, settings.upstream.ca_file),
        hosts=settings.guards.allowed_hosts,
        origins=settings.guards.allowed_origins,
        required=settings.guards.require_header,
        pseudonym=pseudonym,
        any_host=settings.unsafe.any_host,
    )
    resolver = Resolver(parts.loop, is_own_listener=parts.own.has)
    dialer = Dialer(parts.loop, parts.sweeper, resolver=resolver, judge=refuse_own_listeners, tls=tls, connect_s=deadlines.connect_s)
    pool = Pool(parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=limits, deadlines=deadlines, metrics=parts.metrics)
    return Engine(
        loop=parts.loop,
        policy=policy,
        credentials=ForwardedCredentials({route.grant: identity}, wall=parts.clock.wall),
        pool=pool,
        limits=limits,
        deadlines=deadlines,
        metrics=parts.metrics,
        recorder=recorder,
        events=parts.events,
        sweeper=parts.sweeper,
        tasks=parts.tasks,
        entropy=parts.entropy,
        clock=parts.clock,
        drain=parts.drain,
        refusals=ProblemRefusals("robin", SETTING_NAMES),
    )


def _build_listener(settings: SidecarSettings, parts: Parts, engine: Engine) -> Listener:
    unix = settings.listeners.on_unix_socket
    admission = parts.build_admission(
        connections=settings.limits.connections,
        serve=partial(serve_connection, engine=engine),
        refuse=partial(refuse_connection, engine),
        details=REFUSALS,
    )
    return Listener(
        setting=LISTENER_SETTINGS[unix],
        addresses=settings.listeners.proxy,
        rule=listener_rule(unix=unix, allow_uids=settings.listeners.allow_uids, unsafe_listen=settings.unsafe.listen),
        take=admission.take,
        fixes=ACTIVATION_FIXES[unix],
    )
