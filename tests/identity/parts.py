"""What the identity tests are built from: a manual clock, seeded entropy, a recording log, real tasks."""

import random
from typing import Any

from robin.identity.identity import Dependencies
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.testing.manual_clock import ManualClock
from robin.transport.clock import Clock
from robin.transport.tasks import TaskOwner


class RecordingLog:
    """Remembers every event with its level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, /, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, /, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, /, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def count(self, event: str) -> int:
        """How often this event was told."""
        return sum(1 for _level, name, _fields in self.lines if name == event)

    def codes(self, event: str) -> list[str]:
        """The codes that this event was told with, in order."""
        return [fields["code"] for _level, name, fields in self.lines if name == event and "code" in fields]


class SeededEntropy:
    """Chance that repeats itself."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token_hex(self, size: int) -> str:
        return self._random.randbytes(size).hex()

    def uniform(self) -> float:
        return self._random.random()


class Parts:
    """The dependencies and the metrics of one identity, for a test to set and read."""

    def __init__(self, *, clock: Clock | None = None, seed: int = 1, source: str = "test") -> None:
        self.clock = clock or ManualClock()
        self.log = RecordingLog()
        self.metrics = IdentityMetrics(source)
        self.changes = 0
        self.crashes: list[tuple[str, BaseException]] = []
        self.tasks = TaskOwner(lambda name, error: self.crashes.append((name, error)))
        self.dependencies = Dependencies(
            clock=self.clock,
            entropy=SeededEntropy(seed),
            tasks=self.tasks,
            log=self.log,
            on_change=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1
