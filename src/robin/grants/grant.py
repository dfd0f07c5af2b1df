"""A grant turns an identity token into a credential: its values, its failures, and the interface that the engine sees."""

import math
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from robin.identity.identity import Identity
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.model.verdict import Permit


class Credentials(Protocol):
    """The engine's view of identity and grants. `obtain` raises Fault when no usable credential can be had."""

    def ready(self, permit: Permit) -> Credential | None:
        """Return the credential for this Permit if one is usable now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self, permit: Permit) -> Credential:
        """Return a usable credential after a bounded wait; requests for the same credential share one fetch. Raises Fault.

        Cancelling a request never cancels the fetch.
        """
        ...

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """Record that the origin responded 401 to this credential: refresh it for later requests, at most once per interval."""
        ...

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """Record the same, and return another credential after a bounded wait. None: there is no other one, and the 401 stands."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCredential:
    """What a flow returns. `fields` are whole header lines with CRLF; or, where each binding writes a field of its own, there is `token`.

    `usable_s` counts from the start of the flow, with the safety margin already taken off; 0: for the waiting requests only, not cached.
    """

    fields: tuple[Secret, ...] = ()
    token: Secret | None = None
    usable_s: float


Flow = Generator[IssuerRequest, IssuerResponse, IssuedCredential]
"""A grant in progress, without I/O: it yields requests to the issuer, is sent their responses, and returns the credential.

It raises GrantFailure for a response that it does not accept.
"""


class GrantFailureClass(StrEnum):
    """What a failed call means for the next one."""

    RETRY = "retry"  # a passing condition
    REAUTHORIZE = "reauthorize"  # the identity token was refused: once more at once with a fresh one
    FIX_CONFIGURATION = "fix_configuration"  # it fails until the configuration changes
    INVESTIGATE = "investigate"  # a success with an unacceptable body


class GrantFailure(Exception):
    """No credential was issued. `code` is one of `model.faults.FAULTS`; `detail` starts with a reason word and holds no token bytes.

    `retry_after_s`: what the issuer asked for. `throttled`: the issuer responded 429. `issuer_error`: its error code, if it may be shown.
    """

    def __init__(
        self,
        failure_class: GrantFailureClass,
        code: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        throttled: bool = False,
        issuer_error: str = "",
    ) -> None:
        super().__init__(failure_class, code, detail)
        self.failure_class = failure_class
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.throttled = throttled
        self.issuer_error = issuer_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One configured grant. `flow(identity, now)` starts it; `now` is the wall clock.

    `key` is everything that the issued credential depends on; grants with equal keys share one cache entry. `calls_issuer` False: the flow
    yields no request and the credential lives exactly as long as its identity token, which the identity keeps fresh.
    """

    name: str
    key: Hashable
    identity: Identity
    flow: Callable[[IdentityToken, float], Flow]
    calls_issuer: bool = True


def usable_s(
    expires_in_s: float | None, *, default_s: float = 300.0, max_s: float = 3600.0, skew_s: float = 30.0, cap_s: float = math.inf
) -> float:
    """Return how long a token may be used: its lifetime, at most `max_s`, less the margin for clock skew; at most `cap_s`, at least 0."""
    lifetime_s = max(0.0, min(default_s if expires_in_s is None else expires_in_s, max_s))  # 0 also for NaN, in this order
    return max(0.0, min(cap_s, lifetime_s - min(skew_s, lifetime_s / 10)))
