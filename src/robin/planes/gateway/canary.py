"""The canary: a place that agents must not reach themselves, and the gateway's own proof that something listens there.

An agent that cannot connect to the canary proves that its egress is closed only while the canary is up. So the gateway dials each of its
addresses every 30 s, and again when the enforcement document is asked for, at most once a second. Nothing is sent.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.policy.control import permit_control
from robin.telemetry import names
from robin.telemetry.names import Reading
from robin.transport.deadlines import Sweeper
from robin.transport.stream import Stream

EVERY_S: Final = 30.0
CONNECT_S: Final = 2.0
_CHECK_S: Final = 5.0
_APART_S: Final = 1.0

AnyStream = TypeVar("AnyStream", bound=Stream)


class Resolves(Protocol):
    """The gateway's resolver."""

    async def resolve(self, permit: Permit) -> Sequence[ResolvedAddress]:
        """Every address. Raises Fault."""
        ...


class Dials(Protocol):
    """The one way out, with the short deadline `CONNECT_S`."""

    async def dial(self, permit: Permit, build: Callable[[ResolvedAddress], AnyStream]) -> AnyStream:
        """A connected stream. Raises Fault."""
        ...


Judge = Callable[[Permit, Sequence[ResolvedAddress]], Sequence[ResolvedAddress]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryTarget:
    """Where it is, by the settings in force. `judge` says which addresses the operator's own places may have."""

    place: tuple[str, int]
    resolver: Resolves
    judge: Judge
    dialer: Dials


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryState:
    """One look at `place`. `up`: there are addresses, and each accepted a connection. `checked_at` is wall time, when it ended."""

    place: tuple[str, int]
    addresses: tuple[tuple[str, int], ...] = ()
    up: bool = False
    checked_at: float | None = None


class Canary:
    """Looks again and again at the target of the settings in force."""

    __slots__ = ("_asked", "_loop", "_state", "_sweeper", "_target", "_wall")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: Callable[[], CanaryTarget | None], *, sweeper: Sweeper, wall: Callable[[], float]
    ) -> None:
        """`target`: None where the settings have no canary."""
        self._loop = loop
        self._target = target
        self._sweeper = sweeper
        self._wall = wall
        self._asked = asyncio.Event()
        self._state: CanaryState | None = None

    @property
    def state(self) -> CanaryState | None:
        """The last look at the canary of the settings in force; None: they have none."""
        target = self._target()
        if target is None:
            return None
        if self._state is None or self._state.place != target.place:
            return CanaryState(place=target.place)
        return self._state

    def ask(self) -> None:
        """Someone relies on the state, or the settings have changed: look again soon."""
        self._asked.set()

    async def run(self) -> None:
        """Look until it is cancelled."""
        while True:
            self._asked.clear()
            target = self._target()
            self._state = None if target is None else await self._look(target)
            await asyncio.sleep(_APART_S)
            try:
                async with asyncio.timeout(EVERY_S - _APART_S):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _look(self, target: CanaryTarget) -> CanaryState:
        found: Sequence[ResolvedAddress] = ()
        accepted: list[bool] = []
        permit = permit_control(scheme="http", host=target.place[0], port=target.place[1])
        try:
            async with asyncio.timeout(_CHECK_S):
                found = target.judge(permit, await target.resolver.resolve(permit))
                accepted = await asyncio.gather(*(self._accepts(target.dialer, address) for address in found))
        except (Fault, TimeoutError):
            accepted = []
        addresses = tuple((address.host, address.port) for address in found)
        return CanaryState(place=target.place, addresses=addresses, up=bool(accepted) and all(accepted), checked_at=self._wall())

    async def _accepts(self, dialer: Dials, address: ResolvedAddress) -> bool:
        permit = permit_control(scheme="http", host=address.host, port=address.port)
        try:
            stream = await dialer.dial(permit, lambda _: Stream(self._loop, self._sweeper))
        except Fault:
            return False
        stream.abort()
        return True

    def readings(self) -> Iterator[Reading]:
        """Whether it is up, where there is one."""
        state = self.state
        if state is not None:
            yield names.GATEWAY_CANARY_UP, (), int(state.up)
