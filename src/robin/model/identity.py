"""Who this workload is: its identity token, for exactly one audience, and how fresh it is."""

from dataclasses import dataclass
from enum import StrEnum

from robin.model.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityToken:
    """Proof of who this workload is, as the platform issued it.

    `value` is the compact serialization, trimmed and checked as an RFC 6750 b64token. `subject` and `audiences` are the claims (None and
    empty for an opaque token). `expires_at`, `not_before_at` are wall-clock seconds since the epoch (None: the token does not say);
    `seen_at` is the wall clock at which Robin first saw the token; `usable_until` = expires_at - min(min validity, lifetime/10)
    (infinity for opaque tokens): the token is injected only while now < usable_until. `algorithm` and `issued_at` are `alg` and `iat`.
    """

    value: Secret
    subject: str | None
    audiences: tuple[str, ...]
    expires_at: float | None
    not_before_at: float | None
    seen_at: float
    usable_until: float
    algorithm: str | None = None
    issued_at: float | None = None


class IdentityState(StrEnum):
    """The state of an identity in readiness. FRESH: use it. STALE: use it while a refresh runs. Others: not usable."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    MISSING = "missing"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityStatus:
    """A snapshot for probes: never fetches. `reasons` are fault codes; `expires_in_s` None where unknown."""

    source: str
    state: IdentityState
    expires_in_s: float | None
    usable: bool
    reasons: tuple[str, ...]
