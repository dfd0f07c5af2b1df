"""An identity source is one method: fetch proof of this workload for one audience. Others check the proof and keep it current.

A further source is one file in `identity/sources/` and one row in `identity/catalog.py`; `testing/check_source.py` is its conformance
suite.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class RawIdentity:
    """What the platform returned, unchecked and untrimmed.

    `issued_to` is the SPIFFE ID that the reply names, None where it names none. `warning` is logged once per process.
    """

    text: Secret
    issued_to: str | None = None
    warning: str = ""


class IdentitySource(Protocol):
    """Where tokens come from. It keeps no token, waits for no retry and logs nothing; its caller bounds it in time and may cancel it."""

    async def fetch(self, audience: str | None) -> RawIdentity:
        """Return the token as the platform has it now. Raises SourceFailure; TokenRefused for a reply that is discarded."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHandle:
    """A source that can be used. `close` releases its connections.

    `endpoint_id` identifies the endpoint as it is now (None: absent, or not observable): a new one is worth a try at once.
    """

    source: IdentitySource
    close: Callable[[], None] = lambda: None
    endpoint_id: Callable[[], object] = lambda: None


class FailureClass(Enum):
    """Whether and when a failed fetch is tried again."""

    RETRY = "retry"  # it may pass: try again, with backoff
    DENIED = "denied"  # not entitled now; a registration may still arrive: try again, with backoff
    REFUSED = "refused"  # it will not pass: no further try before a SIGHUP or a new endpoint
    LOCAL = "local"  # Robin lacks a resource that the fetch needs: no statement about the token that it holds


class SourceFailure(Exception):
    """No token was returned. `label` names the cause, from a closed set (a metric label); `fault` is a code of `model.faults`.

    `detail` starts with a reason word and names the variable and the fix; it never holds bytes of a token.
    """

    def __init__(
        self, label: str, detail: str, *, fault: str = "identity_unavailable", failure_class: FailureClass = FailureClass.RETRY
    ) -> None:
        super().__init__(label, detail)
        self.label = label
        self.detail = detail
        self.fault = fault
        self.failure_class = failure_class
