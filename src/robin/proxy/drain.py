"""The drain: one value with three states, passed to all that must know; the order of its steps, and what each of them ends.

SERVING: everything is served. LINGERING: a drain was asked for; readiness is gone, requests are still served, for the least time of the
drain. CLOSING: the listeners are closed. `begin_closing` tells each part, and each ends as soon as nothing of value is cut:

- a connection at once where it is idle, else behind its response; a request that it has read but not begun gets 503 `draining`
  (`Downstream.begin_closing`, `serve_exchange`);
- the pool closes its idle connections upstream and keeps none;
- a WebSocket gets a Close frame on both sides, now or `tunnels_s` before the end, as the plane has it (`Tunnel.begin_closing`);
- other tunnels, and those of CONNECT, run on.

The drain is over when every downstream connection has ended, its last response flushed, or at its deadline. What is left then is cut by
the caller of `run`: the task of each connection is cancelled, and the connection reset. The states only go forward. A signal begins it
(`app/shutdown.py`).
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from robin.telemetry.metrics import Metrics

SERVING: Final = 0
LINGERING: Final = 1
CLOSING: Final = 2


class Drainable(Protocol):
    """A connection, a tunnel or a pool, as the drain sees it. (CONNECT tunnels run on until the drain's deadline: `proxy/splice.py`.)"""

    def begin_closing(self) -> None:
        """CLOSING began: end as soon as nothing of value is cut."""
        ...


class Connection(Drainable, Protocol):
    """A downstream connection, as the sweep sees it."""

    def detect_disconnect(self) -> None:
        """Detect that the caller of a connection that is not being read has disconnected."""
        ...


class Drain:
    """`state` is one of the three numbers above (plain numbers: an enum costs 150 ns a look on CPython 3.11).

    `drained` is set once the state is CLOSING and no connection is left. `tunnels_closing`: WebSockets are asked to end.
    """

    __slots__ = ("_members", "_metrics", "_tunnels", "connections", "drained", "state", "tunnels_closing")

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.state: int = SERVING
        self.drained = asyncio.Event()
        self.connections: set[Connection] = set()
        self._members: set[Drainable] = set()
        self._tunnels: set[Drainable] = set()
        self.tunnels_closing = False

    async def run(self, *, min_s: float, max_s: float, tunnels_s: float, stop_accepting: Callable[[], None]) -> bool:
        """Serve on for `min_s`, then close, at most until `max_s` after now. WebSockets are asked to end `tunnels_s` before that.

        `stop_accepting` closes the listeners. Returns False at the deadline. True where no connection is left, and also where `drained`
        was set because the process is to end now.
        """
        began_at = asyncio.get_running_loop().time()
        self.begin_lingering()
        await self._wait_until_drained(began_at + min_s)
        stop_accepting()
        await asyncio.sleep(0)  # a connection that was accepted a moment ago takes its place among those that are waited for
        self.begin_closing()
        if tunnels_s < max_s and await self._wait_until_drained(began_at + max_s - tunnels_s):
            return True
        self.close_tunnels()
        return await self._wait_until_drained(began_at + max_s)

    async def _wait_until_drained(self, deadline_at: float) -> bool:
        """Wait for `drained`, at most until `deadline_at` (loop time), at which this returns False."""
        try:
            async with asyncio.timeout_at(deadline_at):
                await self.drained.wait()
        except TimeoutError:
            return False
        return True

    def connected(self, connection: Connection) -> None:
        """The task that serves a downstream connection has begun; if the state is CLOSING already, it begins to end."""
        self.connections.add(connection)
        if self.state == CLOSING:
            connection.begin_closing()

    def begin_lingering(self) -> None:
        """Enter LINGERING; repeatable."""
        self._enter(max(self.state, LINGERING))

    def begin_closing(self) -> None:
        """Enter CLOSING: each connection and member begins to end."""
        self._enter(CLOSING)
        for part in [*self.connections, *self._members]:
            part.begin_closing()
        self._check_drained()

    def _enter(self, state: int) -> None:
        self.state = self._metrics.drain_state = state

    def add(self, member: Drainable) -> None:
        """Drain `member`, which is no connection, too; at once if the state is CLOSING already."""
        self._members.add(member)
        if self.state == CLOSING:
            member.begin_closing()

    def add_tunnel(self, tunnel: Drainable) -> None:
        """`close_tunnels` ends this one too; at once if it was called already."""
        self._tunnels.add(tunnel)
        if self.tunnels_closing:
            tunnel.begin_closing()

    def close_tunnels(self) -> None:
        """Each tunnel that was opened by an upgrade begins to end, behind CLOSING."""
        self.tunnels_closing = True
        for tunnel in list(self._tunnels):
            tunnel.begin_closing()

    def remove(self, member: Drainable) -> None:
        """`member`, or a tunnel, has ended."""
        self._members.discard(member)
        self._tunnels.discard(member)

    def disconnected(self, connection: Connection) -> None:
        """The task that serves a downstream connection has ended."""
        self.connections.discard(connection)
        self._check_drained()

    def _check_drained(self) -> None:
        if self.state == CLOSING and not self.connections:
            self.drained.set()

    def detect_client_disconnects(self, _: float) -> None:
        """Once a sweep: a caller that disconnected while its upload was paused must not hold an upstream connection."""
        for connection in list(self.connections):
            connection.detect_disconnect()
