"""The life of one process, whatever plane runs in it: build, bind, start, accept, reload, drain, close, exit code.

The order matters: probes are answered before anything else listens and until everything else is closed, a connection is accepted only
when the plane has started, and the service manager is notified of readiness only when the plane was ready once.
"""

import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial
from typing import Final

import uvloop

from robin import __version__
from robin.admin.readiness import Readiness
from robin.admin.server import AdminServer
from robin.app.activation import check_activation
from robin.app.plane import Build, Parts, RuntimeSettings
from robin.app.shutdown import EXIT_BIND, EXIT_FAILED, EXIT_SETTINGS, EXIT_STARTUP, Shutdown, StartFailure
from robin.model.address import Address
from robin.proxy.drain import Drain
from robin.telemetry.exposition import Exposition
from robin.telemetry.logs import EventLog, stack_of
from robin.telemetry.metrics import Metrics
from robin.telemetry.writer import LineWriter
from robin.transport.clock import Clock, SystemClock
from robin.transport.deadlines import Sweeper
from robin.transport.entropy import SystemEntropy
from robin.transport.listen import Acceptor, BindError, BoundSocket, OwnAddresses, bind
from robin.transport.malloc_trim import MallocTrimmer, find_malloc_trim
from robin.transport.systemd import Notifier, activated_sockets
from robin.transport.tasks import TaskOwner

_DESCRIPTORS: Final = 1 << 18


def run(settings: RuntimeSettings, build: Build, environ: Mapping[str, str]) -> int:
    """Run a plane until it has drained. Returns the exit code."""
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(live(settings, build, environ))


def raise_descriptor_limit() -> None:
    """Raise the soft limit as far as the hard limit allows: the usual 1024 is less than the connections that the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wished:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))


async def live(settings: RuntimeSettings, build: Build, environ: Mapping[str, str], *, log_fd: int = 1) -> int:
    """Build the runtime and its plane, serve, close. Returns the exit code; a failed start is reported on standard error."""
    try:
        runtime = Runtime(settings, build, environ, log_fd=log_fd)
        try:
            return await runtime.serve()
        finally:
            await runtime.close()
    except StartFailure as failure:
        code, reason = failure.code, str(failure)
    print(f"robin: {reason}", file=sys.stderr)  # noqa: T201 - a failed start is reported on standard error
    return code


class Runtime:
    """One process life. `parts` are shared with the `plane`; `started`: the plane was ready once."""

    def __init__(
        self,
        settings: RuntimeSettings,
        build: Build,
        environ: Mapping[str, str],
        *,
        log_fd: int = 1,
        clock: Clock | None = None,
        signals: bool = True,
    ) -> None:
        """Build every part; nothing is bound and nothing is contacted. `signals`: they are this process life's. Raises StartFailure."""
        loop, clock = asyncio.get_running_loop(), clock or SystemClock()
        self._signals = signals
        writer = LineWriter(log_fd)
        metrics = Metrics(version=__version__, unsafe=settings.unsafe)
        events = EventLog(
            writer,
            level=settings.log_level,
            style=settings.log_format,
            wall=clock.wall,
            monotonic=clock.monotonic,
            setting_names=settings.setting_names,
        )
        self.parts = Parts(
            loop=loop,
            clock=clock,
            entropy=SystemEntropy(),
            tasks=TaskOwner(self._report_failed_task),
            sweeper=Sweeper(loop),
            events=events,
            writer=writer,
            metrics=metrics,
            drain=Drain(metrics),
            own=OwnAddresses(),
            on_ready_change=self._on_ready_change,
            end=self._end,
        )
        self.started = False
        self._settings = settings
        self._environ = environ
        self._events = events
        self._shutdown = Shutdown(self.parts.drain, self.parts.tasks, events, metrics)
        self._ready_once = asyncio.Event()
        self._listening: list[BoundSocket] = []
        self._admin_listening: list[BoundSocket] = []
        self._acceptors: list[Acceptor] = []
        self._probes_listening: list[BoundSocket] = []
        self._admins: list[AdminServer] = []
        try:
            self.plane = build(self.parts)
            self._notifier = Notifier(environ, os.getpid())
        except OSError as error:
            raise StartFailure(EXIT_FAILED, f"cannot start: {error.strerror or type(error).__name__}") from None

    async def serve(self) -> int:
        """Start, serve until a drain or an end is asked for, drain. Returns the exit code. Raises StartFailure."""
        self.parts.loop.set_exception_handler(self._report_loop_error)
        self._handle_signals()
        activated = self._claim_activated()
        self._listen(activated)
        self._write_warnings()
        self._start_sweeper()
        await self.plane.start()
        self._accept()
        self._notify_watchdog()
        gc.freeze()  # what is alive now lives as long as the process: later collections need not scan it
        self.parts.tasks.start(self._await_ready(), "startup")
        self._on_ready_change()
        await self._shutdown.wait()
        self._notifier.notify("STOPPING=1", "STATUS=draining")
        min_s, max_s = self.plane.drain_s or (self._settings.drain_min_s, self._settings.drain_max_s)
        return await self._shutdown.drain(
            min_s=min_s,
            max_s=max_s,
            tunnels_s=self._settings.drain_tunnels_s,
            stop_accepting=self._stop_accepting,
            flush=self.plane.flush,
        )

    # start

    def _handle_signals(self) -> None:
        if not self._signals:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            self.parts.loop.add_signal_handler(number, self._shutdown.on_signal, number)
        self.parts.loop.add_signal_handler(signal.SIGHUP, self.reload)

    def _claim_activated(self) -> dict[str, list[socket.socket]]:
        try:
            activated = activated_sockets(self._environ, os.getpid())
            check_activation(activated, self.plane.listeners, self._settings.admin)
        except ValueError as error:
            raise StartFailure(EXIT_SETTINGS, f"socket activation: {error}") from None
        return activated

    def _listen(self, activated: dict[str, list[socket.socket]]) -> None:
        """Bind the admin listener and answer probes, then bind the listeners of the plane."""
        settings = self._settings
        self._admin_listening = self._bind(settings.admin_setting, settings.admin, activated)
        self._probes_listening = self._bind(settings.probes_setting, settings.probes, activated)
        self._start_admin()
        for listener in self.plane.listeners:
            bounds = self._bind(listener.setting, listener.addresses, activated)
            self._listening += bounds
            for bound in bounds:  # named before its first caller: `robin doctor` reads there where this proxy listens
                self.parts.metrics.downstream_connections.setdefault(bound.label, 0)
            take = partial(listener.take, listener.rule)
            self._acceptors += [Acceptor(self.parts.loop, bound, take, self._report_accept, self._on_dead_listener) for bound in bounds]
        self.parts.own.learn([*self._listening, *self._admin_listening, *self._probes_listening])
        self._events.info("listening", listen=self.listening, admin=_labels([*self._admin_listening, *self._probes_listening]))

    def _bind(self, setting: str, addresses: tuple[Address, ...], activated: dict[str, list[socket.socket]]) -> list[BoundSocket]:
        bounds: list[BoundSocket] = []
        try:
            for address in addresses:
                bounds += bind(address, activated, lambda event, text: self._events.warning(event, detail=text))
        except BindError as error:
            for bound in bounds:
                bound.close()
            raise StartFailure(EXIT_BIND, f"{setting}: {error}") from None
        return bounds

    def _start_admin(self) -> None:
        quit_drains = self._shutdown.begin_drain if self._settings.admin_quit else None
        parts = self.parts
        scrape = Exposition((*self.plane.readables, parts.metrics, parts.writer), plane=self._settings.plane).scrape
        admin = (self._admin_listening, quit_drains, self.plane.admin_pages)
        for bounds, begin_drain, pages in (admin, (self._probes_listening, None, self.plane.pages)):
            if bounds:
                server = AdminServer(
                    bounds,
                    status=self._readiness,
                    scrape=scrape,
                    begin_drain=begin_drain,
                    wall=parts.clock.wall,
                    events=parts.events,
                    fatal=self._on_dead_listener,
                    pages=pages,
                )
                server.start()
                self._admins.append(server)

    def _write_warnings(self) -> None:
        for event, fields in self._settings.warnings:
            self._events.warning(event, **fields)

    def _start_sweeper(self) -> None:
        sweeper = self.parts.sweeper
        for chore in (*self.plane.chores, self.parts.drain.detect_client_disconnects):
            sweeper.every_sweep(chore)
        if (trim := find_malloc_trim()) is not None:
            sweeper.every_sweep(MallocTrimmer(sweeper, trim, self.parts.clock.monotonic).run)
        sweeper.start()

    def _accept(self) -> None:
        for acceptor in self._acceptors:
            acceptor.start()

    async def _await_ready(self) -> None:
        """Notify of the start once the plane is ready for the first time; end the process if that does not come in time."""
        try:
            async with asyncio.timeout(self._settings.startup_timeout_s or None):
                await self._ready_once.wait()
        except TimeoutError:
            if not self._shutdown.asked:
                self._events.error("startup_timeout", reasons=list(self._readiness().failures))
                self._shutdown.end(EXIT_STARTUP)
            return
        self.started = True
        if self._shutdown.asked:
            return
        listen = self.listening
        self._notifier.notify("READY=1", f"STATUS=serving on {', '.join(listen)}")
        admin = _labels(self._admin_listening)
        self._events.info("started", version=__version__, listen=listen, admin=admin, **dict(self.plane.started_fields))

    @property
    def listening(self) -> list[str]:
        """The bound addresses of the plane."""
        return _labels(self._listening)

    @property
    def admin_listening(self) -> list[str]:
        """The bound addresses of the admin listener."""
        return _labels(self._admin_listening)

    # while serving

    def _readiness(self) -> Readiness:
        return self.plane.readiness(started=self.started, draining=self._shutdown.asked)

    def _end(self, code: int) -> None:
        self._shutdown.end(code)

    def _on_ready_change(self) -> None:
        if self._readiness().usable:
            self._ready_once.set()

    def reload(self) -> None:
        """Read again what can change while the process runs (SIGHUP)."""
        if self._shutdown.asked:
            return
        if self.started:  # loop time may be one turn old, and systemd ignores a reload that is older than its signal
            self._notifier.notify("RELOADING=1", f"MONOTONIC_USEC={int(self.parts.clock.monotonic() * 1e6)}")
        self._events.info("reload")
        behind = self.plane.reload()
        if behind is None:
            self._on_reloaded()
        else:
            behind.add_done_callback(self._on_reloaded)

    def _on_reloaded(self, _: object = None) -> None:
        if self.started and not self._shutdown.asked:  # before that, READY would be untrue; after it, STOPPING stands
            self._notifier.notify("READY=1")

    def _notify_watchdog(self) -> None:
        if self._notifier.watchdog_s is not None:
            self._notifier.notify("WATCHDOG=1")
            self.parts.loop.call_later(self._notifier.watchdog_s, self._notify_watchdog)

    def _report_accept(self, code: str, text: str) -> None:
        self._events.error("accept_failed", code=code, detail=text)

    def _on_dead_listener(self, label: str, error: OSError) -> None:
        self._events.error("listener_died", listener=label, error=error)
        self._shutdown.end(EXIT_FAILED)

    def _report_failed_task(self, name: str, error: BaseException) -> None:
        self._events.error("task_failed", code=type(error).__name__, task=name, stack=stack_of(error))

    def _report_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError):  # a peer that reset its connection, of which the record has the outcome
            self._events.debug("connection_error", error=error)
        elif isinstance(error, BaseException):
            self._events.error("loop_failed", code=type(error).__name__, stack=stack_of(error))

    # drain

    def begin_drain(self) -> None:
        """Begin to drain; repeatable."""
        self._shutdown.begin_drain()

    def _stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        for bound in self._listening:
            bound.close()

    # end

    async def close(self) -> None:
        """Close everything that is open, the admin listener last, so that probes are answered until the end."""
        self.parts.sweeper.close()
        for acceptor in self._acceptors:
            acceptor.stop()
        await self.parts.tasks.close()  # before the plane, so that what a cut exchange records still finds its log
        await self.plane.close()
        for bound in self._listening:
            bound.close()
        for server in self._admins:
            await server.close()
        for bound in (*self._admin_listening, *self._probes_listening):
            bound.close()
        self._notifier.close()
        self.plane.flush()
        await self.plane.seal()
        self.parts.writer.close()


def _labels(bounds: list[BoundSocket]) -> list[str]:
    return [bound.label for bound in bounds]
