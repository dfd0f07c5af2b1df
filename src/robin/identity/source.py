"""An identity source is one method: fetch proof of this workload for one audience. What is fetched is checked and kept by others.

A third source is one file in `identity/sources/` and one line in `identity/catalog.py`; `testing/check_source.py` says whether it behaves.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RawIdentity:
    """What the platform gave, unchecked and untrimmed.

    `issued_to` is the SPIFFE ID that its reply names, None where it names none. `warning` deserves one log line per process.
    """

    text: Secret
    issued_to: str | None = None
    warning: str = ""


class IdentitySource(Protocol):
    """Where tokens come from. It keeps no token, waits for no retry and logs nothing; its caller bounds it in time and may cancel it."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        """The token as the platform has it now. Raises SourceFailure; or TokenRefused, where the platform's reply is to be discarded."""
        ...


class Outlook(Enum):
    """What a failure says of the next try."""

    RETRY = "retry"  # it may pass: try again, with backoff
    DENIED = "denied"  # not entitled now; a registration may still arrive: try again, with backoff
    REFUSED = "refused"  # it will not pass: no further try before a SIGHUP or a new endpoint
    OURS = "ours"  # Robin lacks what it takes to look: no verdict on the token that it holds


class SourceFailure(Exception):
    """No token could be had. `label` names why, from a closed set (a metric label); `fault` is a code of `model.faults`.

    `detail` starts with a reason word and names the variable and the fix; it never holds bytes of a token.
    """

    def __init__(self, label: str, detail: str, *, fault: str = "identity_unavailable", outlook: Outlook = Outlook.RETRY) -> None:
        super().__init__(label, detail)
        self.label = label
        self.detail = detail
        self.fault = fault
        self.outlook = outlook
