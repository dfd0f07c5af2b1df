"""A grant turns an identity token into a credential: its values, its failures, and the interface that the engine sees."""

import math
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from robin.identity.identity import Identity
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.credential import Credential, SigningKeys
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.model.verdict import Permit

if TYPE_CHECKING:  # a plane that only forwards its identity does not load what keys need
    from robin.grants.files import KeyFile, TokenFile
    from robin.wire.client_assertion import AssertionKey


class Credentials(Protocol):
    """The engine's view of identity and grants. `obtain` raises Fault when no usable credential can be had."""

    def ready(self, permit: Permit) -> Credential | None:
        """Return the credential for this Permit if one is usable now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """Return a usable credential after a bounded wait; requests for the same credential share one fetch. Raises Fault.

        Cancelling a request never cancels the fetch. `notes` are those of the exchange's record.
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
    `scopes` are those granted, None where the issuer does not say; `warnings` are reason words. `signing`: the keys that requests are
    signed with; `token` is their session token then. `request_id`: how the issuer names this call.
    """

    fields: tuple[Secret, ...] = ()
    token: Secret | None = None
    usable_s: float
    scopes: frozenset[str] | None = None
    warnings: tuple[str, ...] = ()
    signing: SigningKeys | None = None
    request_id: str = ""
    issued_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GivenToken:
    """A token that a flow exchanges, of a caller, a file or the stage before. `expires_at`: its `exp` if it is a JWT, else None.

    `type`: what it is (RFC 8693 section 3), "" where the settings say that.
    """

    value: Secret
    expires_at: float | None = None
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What one run of a flow is given.

    `identity` is there where the kind needs one. `key` signs the assertions of private_key_jwt; `random_hex` returns so many random bytes.
    `audience` is the one asked for where the settings cannot say it: the subject of another identity.
    """

    identity: IdentityToken | None = None
    subject: GivenToken | None = None
    actor: GivenToken | None = None
    key: "AssertionKey | None" = None
    audience: str = ""
    random_hex: Callable[[int], str] = "0".__mul__


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
    `request_id`: how the issuer names the call, if it does.
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
        request_id: str = "",
    ) -> None:
        super().__init__(failure_class, code, detail)
        self.failure_class = failure_class
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.throttled = throttled
        self.issuer_error = issuer_error
        self.request_id = request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One configured grant. `flow(inputs, now)` starts it; `now` is the wall clock.

    `key` is everything in the configuration that the issued credential depends on; grants with equal keys share cache entries.
    `calls_issuer` False: the flow yields no request, and the credential is the token of the identity or of `token_file`, current as it is.
    `facts` are what the record of a call has about it. The others say where further tokens of a run come from: files, a field of the
    request, or the stage `previous`; `audience_of` is the identity whose subject is the audience that is asked for. `fresh_identity`: each
    run gets a new token.
    """

    name: str
    key: Hashable
    identity: Identity | None
    flow: Callable[[Inputs, float], Flow]
    calls_issuer: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)
    token_file: "TokenFile | None" = None
    subject_file: "TokenFile | None" = None
    subject_header: str = ""
    actor_file: "TokenFile | None" = None
    key_file: "KeyFile | None" = None
    previous: "Grant | None" = None
    audience_of: Identity | None = None
    fresh_identity: bool = False

    @property
    def is_given_tokens(self) -> bool:
        """Whether what it issues depends on a file or on a request."""
        return bool(self.subject_file or self.subject_header or self.actor_file or (self.previous and self.previous.is_given_tokens))

    @property
    def stages(self) -> int:
        """How many calls to issuers come after each other."""
        return 1 if self.previous is None else 1 + self.previous.stages


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCall:
    """One call to an issuer that ended. `status` None: no response. `outcome`: `issued`, or the code of the failure.

    `facts` are those of the grant, and of the token if there is one. `offset_s`: the issuer's clock less ours, None where it does not say.
    """

    facts: Mapping[str, object]
    status: int | None
    duration_s: float
    outcome: str
    issuer_error: str = ""
    offset_s: float | None = None
    warnings: tuple[str, ...] = ()


def usable_s(
    expires_in_s: float | None, *, default_s: float = 300.0, max_s: float = 3600.0, skew_s: float = 30.0, cap_s: float = math.inf
) -> float:
    """Return how long a token may be used: its lifetime, at most `max_s`, less the margin for clock skew; at most `cap_s`, at least 0."""
    lifetime_s = max(0.0, min(default_s if expires_in_s is None else expires_in_s, max_s))  # 0 also for NaN, in this order
    return max(0.0, min(cap_s, lifetime_s - min(skew_s, lifetime_s / 10)))
