"""What a token grant is configured with: frozen values, built by `config/` and read here only. Durations are seconds."""

import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

Strictness = Literal["warn", "require", "off"]
JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """What all issuer calls share. `ca_file` None: the system's roots. A token lives for `max_ttl_s` at most, less the margin `skew_s`."""

    ca_file: str | None = None
    max_response_bytes: int = 65536
    max_token_bytes: int = 16384
    default_ttl_s: float = 300.0
    max_ttl_s: float = 3600.0
    skew_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Bounds of the cache and of the calls. `token_timeout_s` is of one call, from the name's resolution to its last byte.

    Per issuer: `rate_per_s` calls each second, `rate_burst` at once after a pause, `concurrency` that run at the same time.
    """

    token_timeout_s: float = 10.0
    connect_timeout_s: float = 3.0
    entries_max: int = 4096
    forced_every_s: float = 60.0
    rate_per_s: float = 5.0
    rate_burst: int = 20
    concurrency: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentialsSettings:
    """The grant client_credentials (RFC 6749 section 4.4) with an assertion (RFC 7523 section 2.2).

    `client_auth` "none" sends no assertion. `cap_s`: the longest usable time; 0: for the waiting requests only.
    """

    token_endpoint: str
    assertion_audience: str
    assertion_type: str = JWT_BEARER
    client_auth: Literal["identity", "none"] = "identity"
    client_id: str = ""
    audience: str = ""
    resources: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    cap_s: float = math.inf
    check_scope: Strictness = "warn"
    check_audience: Strictness = "warn"
    issuer: IssuerSettings = IssuerSettings()

    @property
    def issuer_origin(self) -> str:
        """Scheme, host and port of the token endpoint: what its rate is bounded by."""
        url = urlsplit(self.token_endpoint)
        return f"{url.scheme}://{url.netloc}"

    def key(self, identity: str) -> bytes:
        """What names the cached token: everything that it depends on, and nothing about where it is used. `identity` names its source."""
        return digest_of(
            "client_credentials",
            identity,
            self.token_endpoint,
            self.client_auth,
            self.client_id,
            self.assertion_type,
            self.assertion_audience,
            self.audience,
            digest_of(*self.resources).hex(),
            digest_of(*sorted(self.scopes)).hex(),
            digest_of(*(text for pair in self.extra for text in pair)).hex(),
            repr(self.cap_s),
            self.check_scope,
            self.check_audience,
        )


def digest_of(*fields: str) -> bytes:
    """SHA-256 over the fields, each behind its length, so that no field can imitate two."""
    digest = hashlib.sha256()
    for field in fields:
        octets = field.encode()
        digest.update(b"%d:" % len(octets) + octets)
    return digest.digest()
