"""What stays open behind its request, CONNECTs and upgrades: a plane whose policy changes judges them again."""

from typing import TYPE_CHECKING, Final, Protocol

from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.telemetry.record import ExchangeRecord

if TYPE_CHECKING:
    from robin.proxy.engine import Policy

WITHDRAWN_S: Final = 2.0
"""How long what is no longer permitted may take to end by itself; with what is in its buffers it has ended within five seconds."""
FLUSH_S: Final = 1.0


class OpenTunnels(Protocol):
    """Where a tunnel is from its opening to its end; a set is one."""

    def add(self, tunnel: "OpenTunnel", /) -> None:
        """It was opened."""
        ...

    def discard(self, tunnel: "OpenTunnel", /) -> None:
        """It has ended."""
        ...


class OpenTunnel(Protocol):
    """`head` and the caller and verdict of `record` are what it was permitted for."""

    @property
    def head(self) -> RequestHead:
        """Of the request."""
        ...

    @property
    def policy(self) -> "Policy":
        """That of its listener, as it is now."""
        ...

    @property
    def record(self) -> ExchangeRecord:
        """Of the exchange."""
        ...

    def withdraw(self, fault: Fault) -> None:
        """It is not permitted any more, for this reason: end within five seconds. Repeatable."""
        ...
