"""What one exchange did: filled in by the engine as the exchange proceeds, written as one line when it ends.

A record is mutable while its exchange runs and belongs to that exchange alone. Times are seconds of the monotonic clock;
nothing here holds token bytes, a query string or a field value.
"""

from robin.model.address import Dialled, ResolvedAddress
from robin.model.caller import Caller
from robin.model.identity import IdentityToken
from robin.model.message import RequestHead
from robin.model.verdict import Verdict


class ExchangeRecord:
    """The record of one exchange; docs/reference/log-fields.md describes its line. None where the exchange did not get that far."""

    __slots__ = (
        "address",
        "bytes_in",
        "bytes_out",
        "caller",
        "credential",
        "dialled",
        "duration_s",
        "ended_at",
        "held_bytes",
        "identity",
        "identity_wait_s",
        "method",
        "notes",
        "offered",
        "outcome",
        "path",
        "protocol",
        "request_id",
        "retries",
        "reused",
        "started_at",
        "status",
        "traceparent",
        "ttfb_s",
        "upstream_status",
        "verdict",
    )

    def __init__(self, caller: Caller, started_at: float) -> None:
        self.caller = caller
        self.started_at = started_at
        self.outcome = "internal_error"
        self.request_id: str | None = None  # set where the caller is shown it; else the recorder sets it
        self.method: str | None = None
        self.path: bytes | None = None  # without the query
        self.protocol: str | None = None  # "HTTP/1.1"
        self.status: int | None = None
        self.upstream_status: int | None = None
        self.bytes_in = 0  # body bytes from the caller
        self.bytes_out = 0  # body bytes to the caller
        self.held_bytes = 0  # of memory for a body that is received whole
        self.ttfb_s: float | None = None
        self.duration_s = 0.0
        self.ended_at = 0.0  # seconds since the epoch, unlike the others: set by the recorder
        self.identity_wait_s = 0.0
        self.retries = 0
        self.reused: bool | None = None
        self.identity: IdentityToken | None = None
        self.offered: str | None = None  # the note of the credential in the request that is about to be sent
        self.credential: str | None = None  # the same, once it was sent
        self.traceparent: bytes | None = None
        self.verdict: Verdict | None = None
        self.address: ResolvedAddress | None = None  # of the upstream connection
        self.dialled: Dialled | None = None  # how that connection came about
        self.notes: dict[str, object] = {}  # what a plane has to add to its records

    def note_head(self, head: RequestHead) -> None:
        """Copy what the record needs of the request head."""
        self.method = head.method
        self.path = head.path
        self.protocol = "HTTP/1.1" if head.minor else "HTTP/1.0"
        self.traceparent = head.traceparent
