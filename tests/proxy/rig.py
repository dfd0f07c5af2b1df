"""What the engine's tests stand in: a real engine (pool, dialer, policy, recorder) for one origin, and callers on real sockets."""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.permits import CALLER, PSEUDONYM, permit_to, route

from robin.config.table import SETTING_NAMES
from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route, RouteDeadlines
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.planes.sidecar.access_record import SIDECAR_COLUMNS
from robin.policy.addresses import refuse_own_listeners
from robin.policy.guards import SidecarPolicy
from robin.proxy.connection import serve_connection
from robin.proxy.downstream import Downstream
from robin.proxy.drain import Drain
from robin.proxy.engine import Engine
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.recorder import Recorder
from robin.telemetry.writer import LineWriter
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.entropy import SystemEntropy
from robin.transport.pool import Bucket, Pool
from robin.transport.resolve import Resolver
from robin.transport.tasks import TaskOwner
from robin.wire.proxy_status import ProblemRefusals


class Tokens:
    """Credentials by hand: `token` None: none is ready, and `obtain` waits until there is one, or until `refuse` says why not."""

    def __init__(self, token: bytes | None = b"t0ken") -> None:
        self.token = token
        self.rejections = 0
        self.waiting = 0
        self._changed = asyncio.Condition()
        self._fault: Fault | None = None

    def ready(self, permit: Permit) -> Credential | None:
        if self.token is None:
            return None
        identity = IdentityToken(
            value=Secret(self.token), subject="alice", audiences=("a",), expires_at=None, not_before_at=None, seen_at=0.0, usable_until=9e9
        )
        return Credential(fields=(Secret(b"Authorization: Bearer " + self.token + b"\r\n"),), note=permit.route.grant, identity=identity)

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        self.waiting += 1
        try:
            async with self._changed:
                while (credential := self.ready(permit)) is None and self._fault is None:
                    await self._changed.wait()
        finally:
            self.waiting -= 1
        if credential is None:
            assert self._fault is not None
            raise self._fault
        return credential

    def rejected(self, permit: Permit, credential: Credential) -> None:
        self.rejections += 1

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        self.rejected(permit, credential)
        return self.ready(permit)

    async def give(self, token: bytes) -> None:
        self.token = token
        async with self._changed:
            self._changed.notify_all()

    async def refuse(self, fault: Fault) -> None:
        self._fault = fault
        async with self._changed:
            self._changed.notify_all()


class Room:
    """The engine, its only origin, and what it wrote."""

    def __init__(self, engine: Engine, permit: Permit, tokens: Tokens, log: Path, failures: list[BaseException]) -> None:
        self.engine = engine
        self.permit = permit
        self.tokens = tokens
        self.failures = failures  # of tasks
        self._log = log
        self._met: list[Downstream] = []
        self._callers: list[socket.socket] = []

    @property
    def recorded(self) -> int:
        """How many exchanges were recorded."""
        return sum(self.engine.metrics.requests.values())

    @property
    def bucket(self) -> Bucket:
        """The connections to the origin."""
        pool, endpoint = self.engine.pool, self.permit.endpoint
        return pool.buckets.get(endpoint) or Bucket(pool, endpoint, None)

    def outcomes(self) -> dict[str, int]:
        """How many exchanges ended how."""
        found: dict[str, int] = {}
        for (outcome, _, _), count in self.engine.metrics.requests.items():
            found[outcome] = found.get(outcome, 0) + count
        return found

    def call(self) -> "CallerEnd":
        """A new caller, connected and being served."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        task = self.engine.tasks.start(serve_connection(far, CALLER, self.engine), "connection")
        return self._caller(near, task)

    def _caller(self, sock: socket.socket, task: "asyncio.Task[None] | None") -> "CallerEnd":
        self._callers.append(sock)
        return CallerEnd(sock, task)

    async def meet(self) -> "tuple[Downstream, CallerEnd]":
        """A connected Downstream that nobody serves, and the caller at its other end."""
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        downstream = Downstream(self.engine, CALLER)
        await self.engine.loop.connect_accepted_socket(lambda: downstream, far)
        self._met.append(downstream)
        return downstream, self._caller(near, None)

    def part(self) -> None:
        """Close what `call` and `meet` opened."""
        for sock in self._callers:
            sock.close()
        for downstream in self._met:
            downstream.abort()

    async def records(self) -> list[dict[str, Any]]:
        """The access records, when all of them are written."""
        expected = self.recorded
        return await eventually(lambda: found if len(found := self._read("exchange")) >= expected else None, what="the records")

    def events(self) -> list[dict[str, Any]]:
        """Lines that are no access records, as far as they are written."""
        return [line for line in self._read(None) if line["event"] != "exchange"]

    def _read(self, event: str | None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if event is None or line["event"] == event]

    async def settled(self) -> None:
        """Wait until nothing is in use, and hold the counts against each other."""
        engine, metrics, bucket = self.engine, self.engine.metrics, self.bucket
        for _ in range(200):  # turns, not seconds: what is told to end does not wait for a deadline of its own
            if not len(engine.tasks):
                break
            await asyncio.sleep(0)
        assert not len(engine.tasks)
        assert (metrics.in_flight, metrics.upstream_active, metrics.upgrades_active) == (0, 0, 0)
        assert bucket.count == len(bucket.idle) == metrics.upstream_idle
        assert not bucket.waiters
        assert not engine.drain.connections
        assert engine.sweeper.coalescer.last_woken is None, "the woken task has run"
        assert not any(metrics.downstream_connections.values())
        assert self.failures == []


class CallerEnd:
    """The caller's socket, and the task that serves its other end (if one does)."""

    def __init__(self, sock: socket.socket, task: "asyncio.Task[None] | None") -> None:
        self.sock = sock
        self.task = task
        self.loop = asyncio.get_running_loop()

    async def send(self, octets: bytes) -> None:
        await self.loop.sock_sendall(self.sock, octets)

    async def receive(self, *, until: bytes = b"", octets: int = 0) -> bytes:
        """What comes, up to a marker or a count, or (neither) to the end."""
        seen = bytearray()
        async with asyncio.timeout(10):
            while not (until and until in seen) and not (octets and len(seen) >= octets):
                try:
                    piece = await self.loop.sock_recv(self.sock, 65536)
                except ConnectionResetError:
                    piece = b""
                if not piece:
                    assert not until, f"ended before {until!r}: {bytes(seen)!r}"
                    break
                seen += piece
        return bytes(seen)

    async def ask(self, octets: bytes) -> bytes:
        """One request, and its whole answer of known length."""
        await self.send(octets)
        head = await self.receive(until=b"\r\n\r\n")
        start, _, rest = head.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in start.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        if len(rest) < length:
            head += await self.receive(octets=length - len(rest))
        return head

    async def hang_up(self) -> None:
        """Leave, and wait until the connection was noticed to have ended."""
        self.sock.close()
        await self.served()

    async def served(self) -> None:
        """Wait until the connection is served to its end."""
        assert self.task is not None
        async with asyncio.timeout(10):
            await asyncio.wait([self.task])


class Leaps:
    """Watches a count at each turn of the loop; `largest`: by how much it grew within one."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._last = count()
        self._handle: asyncio.Handle | None = None
        self.largest = 0

    def __enter__(self) -> "Leaps":
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _look(self) -> None:
        now = self._count()
        self.largest = max(self.largest, now - self._last)
        self._last = now
        self._handle = asyncio.get_running_loop().call_soon(self._look)


@asynccontextmanager
async def open_room(
    port: int, folder: Path, *, limits: Limits | None = None, deadlines: Deadlines | None = None, through: Route | None = None
) -> AsyncIterator[Room]:
    """An engine for the origin on this loopback port; exchanges that are still running at the end are cut."""
    loop = asyncio.get_running_loop()
    limits, deadlines = limits or Limits(), deadlines or Deadlines()
    clock = SystemClock()
    log = folder / "log"
    failures: list[BaseException] = []
    with log.open("wb") as sink:
        writer = LineWriter(sink.fileno(), flush_s=0.001)
        metrics = Metrics(version="0", unsafe={})
        sweeper = Sweeper(loop)
        sweeper.start()
        tasks = TaskOwner(lambda _, error: failures.append(error))
        origin = Origin(scheme="http", host="127.0.0.1", port=port, authority=b"127.0.0.1:%d" % port)
        times = RouteDeadlines(response_s=deadlines.response_s or math.inf, stream_idle_s=deadlines.stream_idle_s or math.inf)
        through = through or route(deadlines=times, upgrades=frozenset({("GET", b"websocket"), ("GET", b"irc")}))
        policy = SidecarPolicy(
            through,
            Endpoint(origin=origin),
            hosts=frozenset({b"localhost"}),
            origins=frozenset(),
            required=None,
            pseudonym=PSEUDONYM,
            any_host=False,
        )
        resolver = Resolver(loop, is_own_listener=lambda _host, _port: False)
        dialer = Dialer(loop, sweeper, resolver=resolver, judge=refuse_own_listeners, tls=None, connect_s=deadlines.connect_s)
        tokens = Tokens()
        engine = Engine(
            loop=loop,
            clock=clock,
            policy=policy,
            credentials=tokens,
            pool=Pool(loop, dialer=dialer, sweeper=sweeper, limits=limits, deadlines=deadlines, metrics=metrics),
            limits=limits,
            deadlines=deadlines,
            metrics=metrics,
            recorder=Recorder(
                metrics, writer, columns=SIDECAR_COLUMNS, mode="all", style="json", wall=clock.wall, prefix="0" * 16, identity_source="file"
            ),
            events=EventLog(writer, level="debug", style="json", wall=clock.wall, monotonic=clock.monotonic),
            sweeper=sweeper,
            tasks=tasks,
            entropy=SystemEntropy(),
            drain=Drain(metrics),
            refusals=ProblemRefusals("robin", SETTING_NAMES),
        )
        room = Room(engine, permit_to(origin, through), tokens, log, failures)
        try:
            yield room
        finally:
            await tasks.close()
            room.part()
            engine.pool.begin_closing()
            sweeper.close()
            for _ in range(5):  # uvloop complains of transports that were closed in the very turn in which it ends
                await asyncio.sleep(0)
            writer.close()
