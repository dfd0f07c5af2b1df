"""A small forward proxy around the real engine and token grants, in this process: what providers of a configuration do, and no more.

For demonstrations and tests on one machine. It takes requests in absolute form, permits what providers permit, and resolves the names that
it is given to loopback; it has no rules, no TLS bridge and no authentication of callers.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from robin.app.grants import build_credentials, use
from robin.app.plane import Parts
from robin.config.diagnostic import Diagnostic, Position
from robin.config.provider_schema import FIELDS, GrantsSettings
from robin.config.providers import ProviderPlan, load_providers
from robin.config.schema import Mapping as Section
from robin.config.yaml_reader import read_yaml
from robin.model.caller import Caller, Evidence
from robin.model.limits import Deadlines, Limits
from robin.model.route import HeaderRules, Route
from robin.planes.sidecar.access_record import SIDECAR_COLUMNS
from robin.policy.addresses import refuse_own_listeners
from robin.policy.bound_routes import BoundRoutes
from robin.policy.providers import ProviderPolicy
from robin.policy.select import EVERY_CALLER, Selector
from robin.proxy.connection import serve_connection
from robin.proxy.drain import Drain
from robin.proxy.engine import Engine
from robin.telemetry.logs import EventLog
from robin.telemetry.metrics import Metrics
from robin.telemetry.recorder import Recorder
from robin.telemetry.writer import LineWriter
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.transport.clock import Clock, SystemClock
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer
from robin.transport.entropy import SystemEntropy
from robin.transport.listen import OwnAddresses
from robin.transport.pool import Pool
from robin.transport.resolve import Resolver
from robin.transport.tasks import TaskOwner
from robin.wire.proxy_status import ProblemRefusals

NAME: Final = "robin-gateway"


class ConfigurationRefused(Exception):
    """The configuration has errors."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = diagnostics


def read_providers(text: str, folder: Path, identities: tuple[str, ...]) -> tuple[ProviderPlan, GrantsSettings]:
    """The providers of a text with the keys `profiles`, `providers` and `grants`. Raises ConfigurationRefused."""
    root, found = read_yaml(text.encode(), "robin.yaml", Section(fields=FIELDS))
    if root is None or found:
        raise ConfigurationRefused(found)
    plan, grants, found = load_providers(root.value, folder, Position(file="robin.yaml", line=1, col=1), identities)
    if any(one.severity == "error" for one in found):
        raise ConfigurationRefused(found)
    return plan, grants


class ProviderProxy:
    """`async with ProviderProxy(text, folder, identities) as proxy:` listens on 127.0.0.1, `proxy.port`.

    `names`: hosts that resolve to loopback; no other name resolves. `names_of` returns the names of a caller.
    """

    def __init__(
        self,
        text: str,
        folder: Path,
        identities: EmbeddedIdentities,
        *,
        names: frozenset[str] = frozenset(),
        port: int = 0,
        names_of: Callable[[Caller], frozenset[str]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Raises ConfigurationRefused."""
        self.plan, self.grants = read_providers(text, folder, identities.names)
        self.port = port
        self.failures: list[BaseException] = []
        self._folder = folder
        self._identities = identities
        self._names = names
        self._names_of = names_of or (lambda _: frozenset({EVERY_CALLER, "local"}))
        self._clock = clock or SystemClock()
        self._sock: socket.socket | None = None
        self._log_fd = -1
        self.parts: Parts
        self.engine: Engine

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("127.0.0.1", self.port))
        self._sock.listen(1024)
        self._sock.setblocking(False)
        self.port = self._sock.getsockname()[1]
        self._log_fd = os.open(self._folder / "proxy.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.parts = self._build_parts(loop)
        self._credentials = build_credentials(
            self.parts, self.grants.cache, limits=Limits(), deadlines=Deadlines(), ca_file=self.grants.issuer.ca_file
        )
        self.engine = self._build_engine()
        self.reload(self.plan)
        self.parts.sweeper.start()
        self.parts.tasks.start(self._accept(self._sock), "accept")
        return self

    async def __aexit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        assert self._sock is not None
        await self.parts.tasks.close()
        self._sock.close()
        self.engine.pool.begin_closing()
        self.parts.sweeper.close()
        await asyncio.sleep(0)
        self.parts.writer.close()
        os.close(self._log_fd)

    def reload(self, plan: ProviderPlan) -> None:
        """Begin a generation: the next request on any connection meets it."""
        self.plan = plan
        use(self._credentials, plan, self._identities)
        self.engine.policy = self._build_policy(plan)

    def reload_text(self, text: str) -> None:
        """Begin a generation of another text. Raises ConfigurationRefused, and then the running one stays."""
        plan, _ = read_providers(text, self._folder, self._identities.names)
        self.reload(plan)

    def drop_tokens(self) -> None:
        """Forget every token, so that the next request of each grant calls its issuer."""
        use(self._credentials, replace(self.plan, grants={}), self._identities)
        use(self._credentials, self.plan, self._identities)

    async def _accept(self, sock: socket.socket) -> None:
        caller = Caller(evidence=Evidence.LOOPBACK, listener="proxy")
        while True:
            accepted, _ = await self.parts.loop.sock_accept(sock)
            self.parts.tasks.start(serve_connection(accepted, caller, self.engine), "connection")

    def _build_parts(self, loop: asyncio.AbstractEventLoop) -> Parts:
        clock, writer = self._clock, LineWriter(self._log_fd)
        return Parts(
            loop=loop,
            clock=clock,
            entropy=SystemEntropy(),
            tasks=TaskOwner(lambda _, error: self.failures.append(error)),
            sweeper=Sweeper(loop),
            events=EventLog(writer, level="debug", style="json", wall=clock.wall, monotonic=clock.monotonic),
            writer=writer,
            metrics=Metrics(version="0", unsafe={}),
            drain=Drain(),
            own=OwnAddresses(),
            on_ready_change=lambda: None,
        )

    def _build_policy(self, plan: ProviderPlan) -> ProviderPolicy:
        grants = self.grants
        routes = BoundRoutes(strip=grants.strip, refresh_on_401=grants.refresh_on_401, replay_body_bytes=grants.replay_max_body_bytes)
        route = Route(name="providers", header_rules=HeaderRules(via=b"1.1 " + NAME.encode()))
        return ProviderPolicy(Selector(plan.bindings), plan.permits, routes, route, names_of=self._names_of)

    def _resolve(self, host: str, *arguments: Any, **words: Any) -> list[Any]:
        if host not in self._names:
            raise socket.gaierror
        return socket.getaddrinfo("127.0.0.1", *arguments, **words)

    def _build_engine(self) -> Engine:
        parts, limits, deadlines = self.parts, Limits(), Deadlines()
        resolver = Resolver(parts.loop, is_own_listener=parts.own.has, getaddrinfo=self._resolve)
        dialer = Dialer(parts.loop, resolver=resolver, judge=refuse_own_listeners, tls=None, connect_s=deadlines.connect_s)
        return Engine(
            loop=parts.loop,
            policy=self._build_policy(self.plan),
            credentials=self._credentials,
            pool=Pool(parts.loop, dialer=dialer, sweeper=parts.sweeper, limits=limits, deadlines=deadlines, metrics=parts.metrics),
            limits=limits,
            deadlines=deadlines,
            metrics=parts.metrics,
            recorder=Recorder(
                parts.metrics,
                parts.writer,
                columns=SIDECAR_COLUMNS,
                mode="all",
                style="json",
                wall=parts.clock.wall,
                prefix=parts.entropy.token_hex(8),
                identity_source="jwtsvid",
            ),
            events=parts.events,
            sweeper=parts.sweeper,
            tasks=parts.tasks,
            entropy=parts.entropy,
            clock=parts.clock,
            drain=parts.drain,
            refusals=ProblemRefusals(NAME, {}),
        )
