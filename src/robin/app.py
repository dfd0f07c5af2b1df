"""Wiring: the one place that builds everything, and knows the order of start and drain."""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping

import uvloop

from robin import __version__
from robin.admin.readiness import Readiness
from robin.admin.server import AdminServer
from robin.config.load import environment
from robin.config.settings import SidecarSettings
from robin.grants.catalog import build_grant
from robin.grants.credentials import GrantedCredentials
from robin.identity.catalog import source_name
from robin.identity.identities import Identities
from robin.identity.identity import Dependencies
from robin.model.address import Address
from robin.planes.sidecar.access_record import SIDECAR_COLUMNS
from robin.planes.sidecar.activation import check_activation
from robin.planes.sidecar.admission import Admission
from robin.planes.sidecar.build import build_endpoint, build_policy, build_route
from robin.planes.sidecar.ending import EXIT_BIND, EXIT_CUT, EXIT_DRAINED, EXIT_FAILED, EXIT_SETTINGS, EXIT_STARTUP, Ending
from robin.proxy.drain import Drain
from robin.proxy.engine import Engine
from robin.proxy.pool import Pool
from robin.telemetry.exposition import Exposition
from robin.telemetry.logs import EventLog, stack_of
from robin.telemetry.metrics import Metrics
from robin.telemetry.recorder import Recorder
from robin.telemetry.writer import LineWriter
from robin.transport.clock import SystemClock
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.entropy import SystemEntropy
from robin.transport.listen import Acceptor, BindError, BoundSocket, OwnAddresses, bind
from robin.transport.malloc_trim import MallocTrimmer, find_malloc_trim
from robin.transport.systemd import Notifier, activated_sockets
from robin.transport.tasks import TaskOwner
from robin.transport.tls import RootsError, UpstreamTls

_CA_POLL_S = 1.0
_FLUSH_S = 0.02  # how long an exchange that ended may wait to be counted and written, with others
_DESCRIPTORS = 1 << 18


def run_sidecar(settings: SidecarSettings) -> int:
    """Run the sidecar until it has drained; the exit code of `robin sidecar`."""
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, environment()))


def _raise_descriptor_limit() -> None:
    """Use what the hard limit grants: the usual soft limit of 1024 is less than the connections that the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(settings: SidecarSettings, environ: Mapping[str, str]) -> int:
    try:
        sidecar = Sidecar(settings, environ)
    except RootsError as error:
        _complain(f"ROBIN_UPSTREAM_CA_FILE: {error}; give a readable PEM bundle of CA certificates")
        return EXIT_SETTINGS
    except OSError as error:
        _complain(f"cannot start: {error.strerror or type(error).__name__}")
        return EXIT_FAILED
    try:
        return await sidecar.serve()
    finally:
        await sidecar.close()


def _complain(text: str) -> None:
    print(f"robin: {text}", file=sys.stderr)  # noqa: T201 - a start-up failure is told on stderr


class Sidecar:
    """One running sidecar: built, started, served and drained in the order told here."""

    def __init__(self, settings: SidecarSettings, environ: Mapping[str, str], *, log_fd: int = 1) -> None:
        """Build every part; nothing is bound and nothing is contacted. Raises RootsError, or OSError."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._settings = settings
        self._environ = environ
        clock, entropy = SystemClock(), SystemEntropy()
        self._clock = clock
        self._writer = LineWriter(log_fd)
        self._events = EventLog(
            self._writer,
            level=settings.telemetry.log_level,
            style=settings.telemetry.log_format,
            wall=clock.wall,
            monotonic=clock.monotonic,
        )
        self._tasks = TaskOwner(self._task_failed)
        self._sweeper = Sweeper(loop)
        self._drain_state = Drain()
        unsafe = {name: name in settings.unsafe.names for name in ("listen", "upstream_http", "any_host")}
        self._metrics = Metrics(version=__version__, unsafe=unsafe)
        self._recorder = Recorder(
            self._metrics,
            self._writer,
            columns=SIDECAR_COLUMNS,
            mode=settings.telemetry.access_log,
            style=settings.telemetry.log_format,
            wall=clock.wall,
            prefix=entropy.token_hex(8),
            identity_source=source_name(settings.identity),
            later=lambda flush: loop.call_later(_FLUSH_S, flush),
        )
        self._tls = UpstreamTls(settings.upstream.ca_file, self._ca_reloaded) if settings.upstream.url.origin.tls else None
        self._identities = Identities(
            {source_name(settings.identity): settings.identity},
            Dependencies(
                clock=clock,
                entropy=entropy,
                tasks=self._tasks,
                log=self._events,
                on_change=self._identity_changed,
                turn=loop.time,  # of uvloop: milliseconds, and still within a turn
            ),
        )
        identity = self._identities.get(source_name(settings.identity))
        (self.identity_metrics,) = self._identities.metrics
        # the recorder first: being asked, it counts what it has noted
        self._exposition = Exposition((self._recorder, self._metrics, self._identities, self._writer), plane="sidecar")
        self._own = OwnAddresses()
        limits, deadlines = settings.limits, settings.deadlines
        dialer = Dialer(loop, tls=self._tls, connect_s=deadlines.connect_s, own=self._own.has)
        pseudonym = f"robin-{entropy.token_hex(4)}"
        route = build_route(
            settings.upstream.url,
            strip=settings.guards.strip_headers,
            required=settings.guards.require_header,
            pseudonym=pseudonym,
            upgrades=settings.guards.upgrade_protocols,
            deadlines=deadlines,
        )
        self._engine = Engine(
            loop=loop,
            policy=build_policy(
                route,
                build_endpoint(settings.upstream.url, settings.upstream.ca_file),
                hosts=settings.guards.allowed_hosts,
                origins=settings.guards.allowed_origins,
                required=settings.guards.require_header,
                pseudonym=pseudonym,
                any_host=settings.unsafe.any_host,
            ),
            credentials=GrantedCredentials({route.grant: build_grant("forward", identity)}, wall=clock.wall),
            pool=Pool(loop, dialer=dialer, tls=self._tls, sweeper=self._sweeper, limits=limits, deadlines=deadlines, metrics=self._metrics),
            limits=limits,
            deadlines=deadlines,
            metrics=self._metrics,
            recorder=self._recorder,
            events=self._events,
            sweeper=self._sweeper,
            tasks=self._tasks,
            entropy=entropy,
            clock=clock,
            drain=self._drain_state,
        )
        self._ending = Ending(self._drain_state.drained, self._events)
        self._admission = Admission(self._engine, allow_uids=settings.listeners.allow_uids, unsafe_listen=settings.unsafe.listen)
        self._notifier = Notifier(environ, os.getpid())
        self._admin: AdminServer | None = None
        self._listeners: list[BoundSocket] = []
        self._admin_sockets: list[BoundSocket] = []
        self._acceptors: list[Acceptor] = []
        self.started = False
        self._first_identity = asyncio.Event()
        self._ca_polled_at = 0.0

    # start

    async def serve(self) -> int:
        """Start, serve, drain. The exit code."""
        settings = self._settings
        self._loop.set_exception_handler(self._loop_failed)
        self._hear_signals()
        try:
            activated = activated_sockets(self._environ, os.getpid())
            check_activation(
                activated,
                listen=settings.listeners.proxy,
                admin=settings.listeners.admin,
                peercred=settings.listeners.peer_credentials,
                unsafe_listen=settings.unsafe.listen,
            )
        except ValueError as error:
            _complain(f"socket activation: {error}")
            return EXIT_SETTINGS
        try:
            self._admin_sockets = self._bind("ROBIN_ADMIN_ADDR", settings.listeners.admin, activated)
            self._start_admin()
            self._listeners = self._bind(
                "ROBIN_LISTEN_UDS" if settings.listeners.peer_credentials else "ROBIN_LISTEN_ADDR", settings.listeners.proxy, activated
            )
        except BindError as error:
            _complain(str(error))
            return EXIT_BIND
        self._own.learn([*self._listeners, *self._admin_sockets])
        self._events.info("listening", listen=self.listening, admin=self._labels(self._admin_sockets))
        self._warn()
        self._sweeper.every_sweep(self._poll_ca)
        self._sweeper.every_sweep(self._drain_state.detect_client_disconnects)
        if (trim := find_malloc_trim()) is not None:
            self._sweeper.every_sweep(MallocTrimmer(self._sweeper, trim, self._clock.monotonic).run)
        self._sweeper.start()
        await self._identities.start()
        for bound in self._listeners:
            acceptor = Acceptor(self._loop, bound, self._admission.take, self._accept_trouble, self._listener_died)
            acceptor.start()
            self._acceptors.append(acceptor)
        self._watchdog()
        gc.freeze()  # what is alive now lives as long as the process: collections need not look at it
        self._tasks.start(self._await_identity(), "startup")
        self._identity_changed()
        await self._ending.wait()
        return await self._drain()

    def _hear_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ending.signalled, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _bind(self, key: str, addresses: tuple[Address, ...], activated: dict[str, list[socket.socket]]) -> list[BoundSocket]:
        bound: list[BoundSocket] = []
        try:
            for address in addresses:
                bound += bind(address, activated, lambda event, text: self._events.warning(event, detail=text))
        except BindError as error:
            for one in bound:
                one.close()
            raise BindError(f"{key}: {error}") from None
        return bound

    def _start_admin(self) -> None:
        if self._admin_sockets:
            self._admin = AdminServer(
                self._admin_sockets,
                status=self._readiness,
                scrape=self._exposition.scrape,
                begin_drain=self.begin_drain if self._settings.listeners.admin_quit else None,
                wall=self._clock.wall,
                events=self._events,
                fatal=self._listener_died,
            )
            self._admin.start()

    def _warn(self) -> None:
        for switch in self._settings.unsafe.names:
            self._events.warning("unsafe", switch=switch, detail=f"ROBIN_UNSAFE_{switch.upper()} is on")
        if self._settings.listeners.peer_credentials and self._settings.listeners.allow_uids is None:
            self._events.warning("any_local_peer", detail="any local user may spend this identity; set ROBIN_PEERCRED_ALLOW_UIDS")

    async def _await_identity(self) -> None:
        try:
            async with asyncio.timeout(self._settings.lifecycle.startup_timeout_s or None):
                await self._first_identity.wait()
        except TimeoutError:
            if self._ending.asked:
                return
            self._events.error("startup_timeout", reasons=list(self._readiness().identity_reasons))
            self._ending.end(EXIT_STARTUP)
            return
        self.started = True
        if self._ending.asked:
            return
        listen = self.listening
        self._notifier.tell("READY=1", f"STATUS=serving on {', '.join(listen)}")
        self._events.info(
            "started",
            version=__version__,
            listen=listen,
            admin=self._labels(self._admin_sockets),
            upstream=str(self._settings.upstream.url),
        )

    @property
    def listening(self) -> list[str]:
        """The bound addresses of the proxy plane."""
        return self._labels(self._listeners)

    @staticmethod
    def _labels(bounds: list[BoundSocket]) -> list[str]:
        return [bound.label for bound in bounds]

    # while serving

    def _identity_changed(self) -> None:
        if all(status.usable for status in self._identities.statuses()):
            self._first_identity.set()

    def _readiness(self) -> Readiness:
        return Readiness(started=self.started, draining=self._ending.asked, identities=self._identities.statuses())

    def _poll_ca(self, now: float) -> None:
        if self._tls is not None and now - self._ca_polled_at >= _CA_POLL_S:
            self._ca_polled_at = now
            self._tls.refresh()

    def _ca_reloaded(self, result: str) -> None:
        self._metrics.ca_reloads[result] += 1
        if result == "loaded":
            self._engine.pool.retire_generation()
            self._events.info("upstream_ca_reloaded")
        else:
            self._events.error("upstream_ca_failed", detail="ROBIN_UPSTREAM_CA_FILE cannot be used; the roots read before stay in force")

    def _reload(self) -> None:
        """SIGHUP."""
        if self._ending.asked:
            return
        if self.started:  # the loop's own time lies behind by up to a turn; systemd ignores a reload told to be older than its signal
            self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.monotonic() * 1e6)}")
        self._events.info("reload")
        if self._tls is not None:
            self._tls.reload()
        self._identities.wake()
        if self.started:  # before that, READY would be untrue
            self._notifier.tell("READY=1")

    def _watchdog(self) -> None:
        if self._notifier.watchdog_s is not None:
            self._notifier.tell("WATCHDOG=1")
            self._loop.call_later(self._notifier.watchdog_s, self._watchdog)

    def _accept_trouble(self, code: str, text: str) -> None:
        self._events.error("accept_failed", code=code, detail=text)

    def _listener_died(self, label: str, error: OSError) -> None:
        self._events.error("listener_died", listener=label, error=error)
        self._ending.end(EXIT_FAILED)

    def _task_failed(self, name: str, error: BaseException) -> None:
        self._events.error("task_failed", code=type(error).__name__, task=name, stack=stack_of(error))

    def _loop_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):  # a peer that reset, told by the loop: its exchange is recorded
            self._events.debug("connection_error", error=error)
        elif isinstance(error, BaseException):
            self._events.error("loop_failed", code=type(error).__name__, stack=stack_of(error))

    # drain

    def begin_drain(self) -> None:
        """Begin to drain; repeatable."""
        self._ending.begin_drain()

    async def _drain(self) -> int:
        """Serve on until MIN, finish until MAX, cut the rest."""
        if self._ending.code is not None:
            return self._ending.code
        began = self._loop.time()
        self._notifier.tell("STOPPING=1", "STATUS=draining")
        self._metrics.drain_state = 1
        self._events.info("draining", in_flight=self._metrics.in_flight)
        await self._ending.wait_until_empty(began + self._settings.lifecycle.drain_min_s)
        self._metrics.drain_state = 2
        for acceptor in self._acceptors:
            acceptor.stop()
        for bound in self._listeners:
            bound.close()
        self._drain_state.close()
        emptied = await self._ending.wait_until_empty(began + self._settings.lifecycle.drain_max_s)
        if self._ending.code is not None:
            return self._ending.code
        in_flight = self._metrics.in_flight
        self._recorder.flush()  # so that `drained` comes after the lines of what was served
        self._events.info("drained", cut=0 if emptied else in_flight)
        return EXIT_DRAINED if emptied or not in_flight else EXIT_CUT

    async def close(self) -> None:
        """Give everything back; the admin listener last, so that probes answer until the end."""
        self._sweeper.close()
        for acceptor in self._acceptors:
            acceptor.stop()
        await self._identities.close()
        await self._tasks.close()
        for bound in self._listeners:
            bound.close()
        if self._admin is not None:
            await self._admin.close()
        for bound in self._admin_sockets:
            bound.close()
        self._notifier.close()
        self._recorder.flush()
        self._writer.close()
