"""The sidecar as a plane of the runtime: its settings in parts, its engine, its identity, and the roots of its upstream."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from robin.admin.readiness import Readiness
from robin.app.plane import Listener, Parts, Plane, RuntimeSettings
from robin.app.runtime import Runtime, run
from robin.app.shutdown import EXIT_SETTINGS, StartFailure
from robin.config.load import environment
from robin.config.settings import Settings
from robin.grants.catalog import GRANTS
from robin.identity.catalog import build_identity
from robin.identity.identity import Identity
from robin.identity.surroundings import Surroundings
from robin.planes.sidecar.build import build_endpoint, build_policy, build_route
from robin.planes.sidecar.listener import ACTIVATION_FIXES, LISTENER_SETTINGS, REFUSALS, listener_rule
from robin.proxy.connection import serve_connection
from robin.proxy.engine import Engine
from robin.proxy.pool import Pool
from robin.proxy.refusal import refuse_connection
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.telemetry.recorder import Recorder
from robin.transport.dial import Dialer
from robin.transport.tls import RootsError, UpstreamTls

_CA_POLL_S: Final = 1.0
_SETTLE_S: Final = 0.02  # how long an exchange that ended may wait to be counted and written, with others
_UNSAFE: Final = ("listen", "upstream_http", "any_host")


def run_sidecar(settings: Settings) -> int:
    """Run the sidecar until it has drained. Returns the exit code of `robin sidecar`."""
    return run(runtime_settings(settings), partial(build_sidecar, settings), environment())


def sidecar_runtime(settings: Settings, environ: Mapping[str, str], *, log_fd: int = 1) -> Runtime:
    """A runtime with a sidecar, for a caller that has an event loop already. Raises StartFailure."""
    return Runtime(runtime_settings(settings), partial(build_sidecar, settings), environ, log_fd=log_fd)


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """The part of the settings that is about the process."""
    unsafe = settings.unsafe_switches
    warnings = [("unsafe", {"switch": switch, "detail": f"ROBIN_UNSAFE_{switch.upper()} is on"}) for switch in unsafe]
    if settings.peercred and settings.peercred_allow_uids is None:
        warnings.append(("any_local_peer", {"detail": "any local user may spend this identity; set ROBIN_PEERCRED_ALLOW_UIDS"}))
    return RuntimeSettings(
        plane="sidecar",
        admin=settings.admin,
        admin_setting="ROBIN_ADMIN_ADDR",
        admin_quit=settings.admin_quit,
        drain_min_s=settings.drain_min_s,
        drain_max_s=settings.drain_max_s,
        startup_timeout_s=settings.startup_timeout_s,
        log_level=settings.log_level,
        log_format=settings.log_format,
        unsafe={switch: switch in unsafe for switch in _UNSAFE},
        warnings=tuple(warnings),
    )


def build_sidecar(settings: Settings, parts: Parts) -> "Sidecar":
    """Build the plane. Raises StartFailure, or OSError."""
    try:
        return Sidecar(settings, parts)
    except RootsError as error:
        text = f"ROBIN_UPSTREAM_CA_FILE: {error}; give a readable PEM bundle of CA certificates"
        raise StartFailure(EXIT_SETTINGS, text) from None


class Sidecar(Plane):
    """One listener, one identity, one upstream."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        self._parts = parts
        self._tls = UpstreamTls(settings.upstream_ca_file, self._on_ca_reload) if settings.upstream.origin.tls else None
        self._ca_polled_at = 0.0
        self.identity_metrics = IdentityMetrics(settings.token_source)
        self._identity = _build_identity(settings, parts, self.identity_metrics)
        self._recorder = _build_recorder(settings, parts)
        self._engine = _build_engine(settings, parts, tls=self._tls, identity=self._identity, recorder=self._recorder)
        self.listeners = (_build_listener(settings, parts, self._engine),)
        self.readables = (self._recorder, self.identity_metrics)  # the recorder first: when it is read it counts what it has noted
        self.chores = (self._poll_ca,)
        self.started_fields = {"upstream": str(settings.upstream)}

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Ready while the identity is usable."""
        return Readiness(started=started, draining=draining, identities=(self._identity.status(),))

    async def start(self) -> None:
        """Begin to keep the identity current."""
        await self._identity.start()

    def reload(self) -> None:
        """Read the roots again, and look for a new identity now."""
        if self._tls is not None:
            self._tls.reload()
        self._identity.wake()

    def flush(self) -> None:
        """Count the exchanges that ended and write their lines."""
        self._recorder.settle()

    async def close(self) -> None:
        """Stop the identity."""
        await self._identity.close()

    def _poll_ca(self, now: float) -> None:
        if self._tls is not None and now - self._ca_polled_at >= _CA_POLL_S:
            self._ca_polled_at = now
            self._tls.refresh()

    def _on_ca_reload(self, result: str) -> None:
        self._parts.metrics.ca_reloads[result] += 1
        if result == "loaded":
            self._engine.pool.retire_generation()
            self._parts.events.info("upstream_ca_reloaded")
        else:
            detail = "ROBIN_UPSTREAM_CA_FILE cannot be used; the roots read before stay in force"
            self._parts.events.error("upstream_ca_failed", detail=detail)


def _build_identity(settings: Settings, parts: Parts, metrics: IdentityMetrics) -> Identity:
    return build_identity(
        settings,
        Surroundings(
            clock=parts.clock,
            entropy=parts.entropy,
            tasks=parts.tasks,
            log=parts.events,
            metrics=metrics,
            changed=parts.on_ready_change,
            turn=parts.loop.time,  # of uvloop: milliseconds, and constant within a turn
        ),
    )


def _build_recorder(settings: Settings, parts: Parts) -> Recorder:
    return Recorder(
        parts.metrics,
        parts.writer,
        mode=settings.access_log,
        style=settings.log_format,
        wall=parts.clock.wall,
        prefix=parts.entropy.token_hex(8),
        identity_source=settings.token_source,
        later=lambda settle: parts.loop.call_later(_SETTLE_S, settle),
    )


def _build_engine(settings: Settings, parts: Parts, *, tls: UpstreamTls | None, identity: Identity, recorder: Recorder) -> Engine:
    limits, deadlines = settings.limits, settings.deadlines
    pseudonym = f"robin-{parts.entropy.token_hex(4)}"
    route = build_route(
        settings.upstream,
        strip=settings.strip_headers,
        required=settings.require_header,
        pseudonym=pseudonym,
        upgrades=settings.upgrade_protocols,
        deadlines=deadlines,
    )
    policy = build_policy(
        route,
        build_endpoint(settings.upstream, settings.upstream_ca_file),
        hosts=settings.allowed_hosts,
        origins=settings.allowed_origins,
        required=settings.require_header,
        pseudonym=pseudonym,
        any_host=settings.unsafe_any_host,
    )
    dialer = Dialer(parts.loop, tls=tls, connect_s=deadlines.connect_s, own=parts.own.has)
    pool = Pool(parts.loop, dialer=dialer, tls=tls, sweeper=parts.sweeper, limits=limits, deadlines=deadlines, metrics=parts.metrics)
    return Engine(
        loop=parts.loop,
        policy=policy,
        credentials=GRANTS[route.grant](identity),
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
    )


def _build_listener(settings: Settings, parts: Parts, engine: Engine) -> Listener:
    unix = settings.peercred
    admission = parts.build_admission(
        connections=settings.limits.connections,
        serve=partial(serve_connection, engine=engine),
        refuse=partial(refuse_connection, engine),
        details=REFUSALS,
    )
    return Listener(
        setting=LISTENER_SETTINGS[unix],
        addresses=settings.listen,
        rule=listener_rule(unix=unix, allow_uids=settings.peercred_allow_uids, unsafe_listen=settings.unsafe_listen),
        take=admission.take,
        fixes=ACTIVATION_FIXES[unix],
    )
