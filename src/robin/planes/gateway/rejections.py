"""Clients that do not accept the leaf of a bridge: one line for the operator a second and caller, with a count, whatever the clients do."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from robin.telemetry.logs import EventLog

_EVERY_S: Final = 1.0
_CALLERS_MAX: Final = 1024


class Rejections:
    """`note` writes a line, or counts into the next one of the same caller. The callers that were noted last are remembered."""

    __slots__ = ("_events", "_now", "_seen")

    def __init__(self, events: EventLog, now: Callable[[], float]) -> None:
        self._events = events
        self._now = now
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # caller: when a line was written, and how many came since

    def note(self, caller: str, alert: str, ca_sha256: str) -> None:
        """A client of this caller ended its handshake with this alert."""
        now = self._now()
        written_at, count = self._seen.pop(caller, (float("-inf"), 0))
        if now - written_at < _EVERY_S:
            self._seen[caller] = written_at, count + 1
            return
        self._seen[caller] = now, 0
        if len(self._seen) > _CALLERS_MAX:
            self._seen.popitem(last=False)
        self._events.warning(
            "tls_client_rejected",
            caller=caller,
            alert=alert,
            count=count + 1,
            ca_sha256=ca_sha256,
            detail="the client most likely does not trust this CA: give it ca.crt of the slot that signs (robin ca fingerprint compares)",
        )
