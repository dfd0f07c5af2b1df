"""Robin's access records, read as they come and kept in few bytes each: how many an exchange has, and what the last one said."""

import json
from array import array
from collections import Counter
from typing import Any

from robin.model.faults import OUTCOMES

_OUTCOMES = tuple(sorted(OUTCOMES))
_GROW = 65536
_KEPT_EACH = 40
_ROUTINE = frozenset({"forwarded", "local_response", "client_closed"})


class Records:
    """Everything that one sidecar wrote. `nameless`: by outcome, the records without a path."""

    def __init__(self) -> None:
        self.total = 0
        self.nameless: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.levels: Counter[tuple[str, str]] = Counter()
        self.kept: list[str] = []  # the first of each event and of each outcome that is no routine, for a reader
        self._count = bytearray()
        self._outcome = bytearray()
        self._status = array("H")
        self._octets = array("Q")

    def hear(self, stream: str, text: str) -> None:
        """One line of the process."""
        try:
            entry = json.loads(text)
        except ValueError:
            entry = None
        if stream != "stdout" or not isinstance(entry, dict):
            self.unreadable.append(f"{stream}: {text[:500]}")
        elif entry["event"] == "exchange":
            self._exchange(entry, text)
        else:
            self.events[entry["event"]] += 1
            self.levels[entry["level"], entry["event"]] += 1
            self._keep(text, self.events[entry["event"]])

    def of(self, number: int) -> tuple[int, str, int, int]:
        """(how many records, outcome, status, body bytes down) of one exchange."""
        if number >= len(self._count) or not self._count[number]:
            return 0, "", 0, 0
        return self._count[number], _OUTCOMES[self._outcome[number]], self._status[number], self._octets[number]

    @property
    def numbers(self) -> int:
        """One more than the largest number that has a record."""
        return len(self._count.rstrip(b"\0"))

    def _exchange(self, entry: dict[str, Any], text: str) -> None:
        self.total += 1
        outcome = entry["outcome"]
        self.outcomes[outcome] += 1
        if outcome not in _ROUTINE:
            self._keep(text, self.outcomes[outcome])
        if entry["path"] is None:
            self.nameless[outcome] += 1
            return
        try:
            _, _, digits, _ = entry["path"].split("/")
            number = int(digits)
        except ValueError:
            self.unreadable.append(text[:500])
            return
        if number >= len(self._count):
            self._grow(number + 1)
        self._count[number] = min(255, self._count[number] + 1)
        self._outcome[number] = _OUTCOMES.index(outcome)
        self._status[number] = entry["status"] or 0
        self._octets[number] = entry["bytes_out"]

    def _grow(self, least: int) -> None:
        more = max(_GROW, least - len(self._count))
        self._count.extend(bytes(more))
        self._outcome.extend(bytes(more))
        self._status.extend([0] * more)
        self._octets.extend([0] * more)

    def _keep(self, text: str, count: int) -> None:
        if count <= _KEPT_EACH:
            self.kept.append(text)
