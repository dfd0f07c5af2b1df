"""One bounded call to a token issuer or to a key set, as values, and the narrow client that performs it.

The client resolves, connects, verifies TLS and reads the whole response; it follows no redirect, keeps no cookie and reads no proxy
environment. Grants and verification keys depend on this Protocol only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerRequest:
    """One request. `fields` are added to Host and Content-Length; `body` None sends none; `ca_file` None means the system roots.

    A response body above `limit_bytes` is refused. `anew` makes the same request again for a repeat, where parts of it must not be sent
    twice; None: it can be sent again as it is, unless not `may_repeat`.
    """

    method: str
    url: str
    fields: tuple[tuple[str, Secret], ...] = ()
    body: Secret | None = None
    ca_file: str | None = None
    limit_bytes: int = 65536
    anew: Callable[[], "IssuerRequest"] | None = None
    may_repeat: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerResponse:
    """A whole response. Names in `fields` are lower case, repeated fields are joined by `, `."""

    status: int
    fields: dict[str, str]
    body: Secret


class IssuerUnreachable(Exception):
    """No whole response came. `reason` is one word: connect, closed, tls, timeout, protocol, too_large.

    `answered`: a byte of a response came."""

    def __init__(self, reason: str, *, answered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answered = answered


class IssuerClient(Protocol):
    """What performs a call."""

    async def send(self, request: IssuerRequest, deadline_at: float) -> IssuerResponse:
        """Return the response by `deadline_at` (monotonic seconds of the event loop). Raises IssuerUnreachable."""
        ...
