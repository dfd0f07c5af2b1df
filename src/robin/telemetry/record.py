"""The one line per exchange: what happened, filled in by the hall as it goes, written when it ends.

A record is mutable while its exchange runs and belongs to that exchange alone. Times are monotonic seconds of the loop's clock;
nothing here holds token bytes, a query string or a field value.
"""

from robin.model.caller import Caller
from robin.model.identity import IdentityToken
from robin.model.message import RequestHead


class ExchangeRecord:
    """What one exchange did (sidecar spec section 8). None where the exchange did not get that far."""

    # Defaults stand on the class: most exchanges change few of them, and a record is made for each.
    outcome = "internal_error"
    request_id: str | None = None  # set by whoever shows it to the caller; else the recorder gives one
    method: str | None = None
    path: bytes | None = None  # without the query
    protocol: str | None = None  # "HTTP/1.1"
    status: int | None = None
    upstream_status: int | None = None
    bytes_in = 0  # body bytes from the caller
    bytes_out = 0  # body bytes to the caller
    ttfb_s: float | None = None
    duration_s = 0.0
    identity_wait_s = 0.0
    retries = 0
    reused: bool | None = None
    identity: IdentityToken | None = None
    traceparent: bytes | None = None

    def __init__(self, caller: Caller, started_at: float) -> None:
        self.caller = caller
        self.started_at = started_at

    def note_head(self, head: RequestHead) -> None:
        """What the request said of itself."""
        self.method = head.method
        self.path = head.path
        self.protocol = "HTTP/1.1" if head.minor else "HTTP/1.0"
        self.traceparent = head.traceparent
