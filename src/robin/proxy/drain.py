"""The drain: one value with three states, passed to all that must know; and what it ends.

SERVING: everything is served. LINGERING: a drain was asked for; readiness is gone, requests are still served. CLOSING: nothing is accepted
any more. A connection that is idle closes at once; one that is not closes behind its response, and a request that it has not begun to serve
gets 503 `draining`. The pool closes its idle connections upstream and keeps none. WebSockets get a Close frame, as it begins or a while
before the drain's end, as the plane has it; other tunnels run on. The drain is over when every downstream connection has ended, its last
response flushed. The states only go forward.
"""

import asyncio
from typing import Final, Protocol

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

    __slots__ = ("_members", "_tunnels", "connections", "drained", "state", "tunnels_closing")

    def __init__(self) -> None:
        self.state: int = SERVING
        self.drained = asyncio.Event()
        self.connections: set[Connection] = set()
        self._members: set[Drainable] = set()
        self._tunnels: set[Drainable] = set()
        self.tunnels_closing = False

    def connected(self, connection: Connection) -> None:
        """The task that serves a downstream connection has begun; if the state is CLOSING already, it begins to end."""
        self.connections.add(connection)
        if self.state == CLOSING:
            connection.begin_closing()

    def begin_lingering(self) -> None:
        """Enter LINGERING."""
        self.state = max(self.state, LINGERING)

    def begin_closing(self) -> None:
        """Enter CLOSING: each connection and member begins to end."""
        self.state = CLOSING
        for part in [*self.connections, *self._members]:
            part.begin_closing()
        self._check_drained()

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
