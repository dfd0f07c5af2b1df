"""What the runtime and a plane give each other: the runtime's settings and shared parts, a plane's listeners, and the plane itself."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

from robin.admin.pages import Page
from robin.admin.readiness import Readiness
from robin.model.address import Address
from robin.model.caller import ListenerRule
from robin.proxy.admission import REFUSALS, Admission, Refuse, Serve
from robin.proxy.drain import Drain
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.names import Readable
from robin.telemetry.recorder import Recorder
from robin.telemetry.writer import LineWriter
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.entropy import Entropy
from robin.transport.listen import BoundSocket, OwnAddresses
from robin.transport.tasks import TaskOwner

_FLUSH_S: Final = 0.02  # how long an exchange that ended may wait to be counted and written, with others

R = TypeVar("R", bound=Recorder)

_FIXES: Final = {
    "wrong_kind": "pass a socket of the other kind",
    "not_loopback": "pass a socket that is bound to loopback",
    "unclaimed": "name it in the settings, or do not pass it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeSettings:
    """The settings of one process life, whatever plane runs in it.

    `plane` is the label of its metrics. `admin_setting` names the setting of `admin` in messages. `probes`: a listener for probes, metrics
    and the plane's pages alone, which others than this machine may reach. `unsafe`: the switches of the metric `robin_unsafe`. `warnings`:
    events written once at the start, with their fields. `setting_names`: what `model.faults.name_settings` puts into details. Durations
    are in seconds. `drain_tunnels_s`: how long before the end of the drain WebSockets are closed; infinity: as soon as nothing is accepted.
    """

    plane: str
    admin: tuple[Address, ...] = ()
    admin_setting: str = "admin"
    admin_quit: bool = False
    probes: tuple[Address, ...] = ()
    probes_setting: str = "probes"
    drain_min_s: float = 0.0
    drain_max_s: float
    drain_tunnels_s: float = float("inf")
    startup_timeout_s: float = 0.0  # 0: none
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    unsafe: Mapping[str, bool] = field(default_factory=dict)
    warnings: tuple[tuple[str, Mapping[str, str]], ...] = ()
    setting_names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the runtime shares with its plane. `own` are the addresses that this process listens on: nothing of it may dial them.

    A plane calls `on_ready_change` when its readiness may have changed, once it is built; `end`, with an exit code, ends the process.
    """

    loop: asyncio.AbstractEventLoop
    clock: Clock
    entropy: Entropy
    tasks: TaskOwner
    sweeper: Sweeper
    events: EventLog
    writer: LineWriter
    metrics: Metrics
    drain: Drain
    own: OwnAddresses
    on_ready_change: Callable[[], None]
    end: Callable[[int], None]

    def build_admission(self, *, connections: int, serve: Serve, refuse: Refuse, details: Mapping[str, str] | None = None) -> Admission:
        """Build what judges the accepted sockets of all listeners of the plane. `details`: texts of refusals that name a setting."""
        return Admission(
            loop=self.loop,
            tasks=self.tasks,
            metrics=self.metrics,
            connections=connections,
            serve=serve,
            refuse=refuse,
            details={**REFUSALS, **(details or {})},
        )

    def build_recorder(self, make: Callable[..., R], **given: Any) -> R:
        """Build what counts and writes the exchanges of the plane. `given` is what `make` needs beside the clock, entropy and the loop."""
        return make(
            self.metrics,
            self.writer,
            wall=self.clock.wall,
            prefix=self.entropy.token_hex(8),
            later=lambda flush: self.loop.call_later(_FLUSH_S, flush),
            **given,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Addresses to bind, and what accepts their connections: `take(rule, socket, bound)` owns the socket from then on.

    `setting` names the addresses in messages. `fixes`: what to do about a socket that systemd passed and that does not fit.
    """

    setting: str
    addresses: tuple[Address, ...]
    rule: ListenerRule
    take: Callable[[ListenerRule, socket.socket, BoundSocket], None]
    fixes: Mapping[str, str] = field(default_factory=lambda: _FIXES)


class Plane:
    """One service in the runtime. A plane overrides what it has; all but `listeners` has a default.

    Its builder binds nothing and contacts nothing; it may raise StartFailure. The runtime binds the listeners, calls `start`, and accepts.
    The drain reaches the plane by `Parts.drain`: a connection is added to `drain.connections`, any other part by `drain.add`. `close`
    comes after the drain, and also after a start that failed.
    """

    listeners: Sequence[Listener]
    readables: Sequence[Readable] = ()  # metrics beside those of the runtime
    chores: Sequence[Callable[[float], None]] = ()  # called at each sweep with the loop's time; must not block or raise
    pages: Mapping[bytes, Page] = {}  # of the listener for probes, by path
    admin_pages: Mapping[bytes, Page] = {}  # of the admin listener
    drain_s: tuple[float, float] | None = None  # the least and most of the drain, where a reload has changed them
    started_fields: Mapping[str, str] = {}  # of the event `started`

    def readiness(self, *, started: bool, draining: bool) -> Readiness:
        """Return the state for the probes, from what is known: this fetches nothing."""
        return Readiness(started=started, draining=draining)

    async def start(self) -> None:
        """Start background work. The listeners are bound, and nothing is accepted yet."""

    def reload(self) -> "asyncio.Task[None] | None":
        """SIGHUP: read again what can change while the process runs. Returns what goes on behind it, to be awaited; None: it is done."""

    def flush(self) -> None:
        """Write the records that are held back."""

    async def close(self) -> None:
        """Stop background work and close every connection to others."""

    async def seal(self) -> None:
        """Every task has ended, with its record: write what waits, and close what records are written to."""


Build = Callable[[Parts], Plane]
