"""What all exchanges of one plane share: built once by the plane's builder, read on the request path, never changed by it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from robin.grants.grant import Credentials
from robin.model.caller import Caller
from robin.model.faults import Refusals
from robin.model.limits import Deadlines, Limits
from robin.model.message import HeldBody, RequestHead
from robin.model.verdict import Permit, Verdict
from robin.proxy.drain import Drain
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.entropy import Entropy
from robin.transport.pool import Pool
from robin.transport.tasks import TaskOwner
from robin.wire.http1 import REVERSE_PROXY, RequestForms
from robin.wire.shape import ParsedRequest

if TYPE_CHECKING:
    from robin.proxy.downstream import Downstream


class Policy(Protocol):
    """The policy of one plane."""

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """Return a Permit, a Denial or a LocalResponse. Pure: no I/O, no clock."""
        ...


Authenticate = Callable[[RequestHead, Caller], Awaitable[Caller]]
"""From the caller of the connection and one request head to the caller of that request. Raises Fault."""

Audit = Callable[[ExchangeRecord, Permit, HeldBody | None], Awaitable[None]]
"""Write the record of a decision. Returns when it may be relied on; raises Fault, and then nothing is sent."""

Connect = Callable[["Downstream", ParsedRequest, Permit, ExchangeRecord], Awaitable[bool]]
"""Serve a permitted CONNECT to its end. Returns True if the connection can be reused; raises Fault while nothing was answered."""


class Engine:
    """The shared parts. `limits` and `deadlines` are those of the downstream side; what differs per rule stands on the Route.

    `authenticate` None: the caller of a connection is the caller of each of its requests. `audit` None: decisions are not audited.
    `refusals`: how refusals are written where the route has no form of its own. `forms`: the request targets that are parsed; `connect`
    serves CONNECT where they have it.
    """

    __slots__ = (
        "audit",
        "authenticate",
        "clock",
        "connect",
        "credentials",
        "deadlines",
        "drain",
        "entropy",
        "events",
        "forms",
        "limits",
        "loop",
        "metrics",
        "now",
        "policy",
        "pool",
        "recorder",
        "refusals",
        "sweeper",
        "tasks",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        policy: Policy,
        credentials: Credentials,
        pool: Pool,
        limits: Limits,
        deadlines: Deadlines,
        metrics: Metrics,
        recorder: Recorder,
        events: EventLog,
        sweeper: Sweeper,
        tasks: TaskOwner,
        entropy: Entropy,
        clock: Clock,
        drain: Drain,
        refusals: Refusals,
        authenticate: Authenticate | None = None,
        audit: Audit | None = None,
        forms: RequestForms = REVERSE_PROXY,
        connect: Connect | None = None,
    ) -> None:
        self.loop = loop
        self.now = loop.time  # for deadlines: cheap, and as coarse as a turn of the loop
        self.clock = clock.monotonic  # for what is recorded
        self.policy = policy
        self.credentials = credentials
        self.pool = pool
        self.limits = limits
        self.deadlines = deadlines
        self.metrics = metrics
        self.recorder = recorder
        self.events = events
        self.sweeper = sweeper
        self.tasks = tasks
        self.entropy = entropy
        self.drain = drain
        self.refusals = refusals
        self.authenticate = authenticate
        self.audit = audit
        self.forms = forms
        self.connect = connect
        drain.add(pool)
