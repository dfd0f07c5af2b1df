"""What each identity source is configured with: one frozen value per source, built by `config/` and read here only.

Durations are seconds. `audience` is the one audience that a token must carry; None accepts any (the source `file` only).
"""

from dataclasses import dataclass
from typing import Literal

from robin.model.address import TcpAddress, UnixAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentitySettings:
    """The source `file`. A token with less than `min_validity_s` left is not used; a failing file is bridged for `grace_s`."""

    token_file: str
    token_format: Literal["jwt", "opaque"]
    audience: str | None
    min_validity_s: float
    grace_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvidSettings:
    """The source `jwtsvid`. `wait_s` bounds the wait of one request; `stop_when_denied`: a denial ends the cached token at once."""

    audience: str
    spiffe_socket: UnixAddress | TcpAddress
    spiffe_id: str | None
    hint: str | None
    min_validity_s: float
    refresh_before_s: float
    fetch_timeout_s: float
    wait_s: float
    stop_when_denied: bool


IdentitySettings = FileIdentitySettings | JwtSvidSettings
