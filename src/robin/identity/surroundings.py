"""What every identity keeps company with: clocks, chance, tasks, the log, its counters, and whoever must hear that readiness changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from robin.telemetry.identity_metrics import IdentityMetrics
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.transport.tasks import TaskOwner


class Log(Protocol):
    """Where events go; `telemetry.logs.EventLog` is one. It limits repeats by event and code itself."""

    def info(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Something worth a line."""
        ...

    def warning(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Something to look at."""
        ...

    def error(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Something to mend."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`changed` is called when the identity became usable or unusable, and with each new token; it must not block or raise.

    `turn` tells turns of the loop apart: equal numbers are the same moment, so that what was just looked at need not be looked at again;
    None: each look is a moment of its own.
    """

    clock: Clock
    entropy: Entropy
    tasks: TaskOwner
    log: Log
    metrics: IdentityMetrics
    changed: Callable[[], None]
    turn: Callable[[], float] | None = None
