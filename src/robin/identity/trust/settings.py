"""What one trusted issuer of JWTs is configured with: frozen values that `config/` builds. Durations are seconds."""

from dataclasses import dataclass
from typing import Final

ALGORITHMS: Final = frozenset({*(f"{family}{size}" for family in ("RS", "PS", "ES") for size in (256, 384, 512)), "EdDSA"})
"""Every algorithm that can be configured: asymmetric signatures only, so neither `none` nor HS256 (RFC 8725 section 3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwksSettings:
    """Where an issuer's keys come from: exactly one of `url` and `file`.

    Keys from a URL are fetched again after `refresh_s`; an unknown `kid` causes a fetch at most once per `min_refetch_s`; keys that can no
    longer be fetched or read serve for `max_stale_s`. `ca_file` None means the system roots; `bearer_file` authenticates the fetch.
    """

    url: str | None = None
    file: str | None = None
    ca_file: str | None = None
    bearer_file: str | None = None
    refresh_s: float = 300.0
    min_refetch_s: float = 10.0
    max_stale_s: float = 86400.0
    fetch_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if (self.url is None) == (self.file is None):
            raise ValueError("jwks needs exactly one of url and file")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """What a JWT of one issuer must be.

    `issuer` is compared byte for byte with `iss`; None makes `iss` optional. One of `audiences` must be in `aud`. `leeway_s` is the
    tolerated difference of clocks. A token whose whole life is longer than `max_lifetime_s` is refused.
    """

    issuer: str | None
    audiences: tuple[str, ...]
    algorithms: frozenset[str]
    jwks: JwksSettings
    leeway_s: float = 30.0
    max_lifetime_s: float = 86400.0
    subject_limit_chars: int = 2048

    def __post_init__(self) -> None:
        if not self.algorithms or not self.algorithms <= ALGORITHMS:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        if not self.audiences:
            raise ValueError("audiences must not be empty")
