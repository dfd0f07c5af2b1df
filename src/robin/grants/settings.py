"""What a token grant is configured with: frozen values, built by `config/` and read here only. Durations are seconds."""

import hashlib
import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

Strictness = Literal["warn", "require", "off"]
ClientAuth = Literal["identity", "private_key_jwt", "none"]
RefreshOn401 = Literal["any", "invalid_token", "never"]
JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
ASSERTION_TYP: Final = "client-authentication+jwt"  # draft-ietf-oauth-rfc7523bis
STRIPPED: Final = frozenset(
    "authorization proxy-authorization x-api-key api-key apikey x-auth-token x-access-token x-vault-token x-warden-token private-token "
    "x-goog-api-key x-amz-security-token ocp-apim-subscription-key".split()
)
"""Credentials of callers that are never forwarded, unless `strip_headers` replaces the list."""

SUBJECT_FIELD: Final = "x-robin-subject-token"
"""In which callers send a token to be exchanged; never forwarded, whatever the list is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """What all issuer calls share. A token lives for `max_ttl_s` at most, less the margin `skew_s`."""

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
class GrantsSettings:
    """What all providers share. `strip`: canonical names that are stripped from every request, besides those that providers write.

    `ca_file`: roots for issuers beside those of the system. `replay_max_body_bytes`: a body of known length up to this is held, so that the
    request can be repeated after a 401. `signing_max_body_bytes`: the largest body that is held so that its digest can be signed.
    """

    issuer: IssuerSettings = IssuerSettings()
    cache: CacheSettings = CacheSettings()
    refresh_on_401: RefreshOn401 = "any"
    replay_max_body_bytes: int = 65536
    strip: frozenset[str] = STRIPPED | {SUBJECT_FIELD}
    signing_max_body_bytes: int = 10_485_760
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequestSettings:
    """One call to a token endpoint (RFC 6749 section 3.2), of the kinds client_credentials, jwt_bearer and token_exchange.

    `client_auth`: "identity" sends the identity token as the assertion (RFC 7523 section 2.2), "private_key_jwt" one that is signed with a
    key of the client, "none" no assertion. `assertion_type` "": jwt-spiffe for the token of a SPIFFE ID, jwt-bearer for others. `typ` is
    that of an assertion that is signed here. `algorithms`: those that the issuer accepts of an identity token; empty: any. `subject`: what
    stands for the subject, `identity` or `given`; `actor` the same, "" for none. `cap_s`: the longest usable time; 0: for the waiting
    requests only. `intermediate`: the token is only exchanged for another one. `fresh_assertion`: each call gets a new identity token.
    """

    kind: str = "client_credentials"
    token_endpoint: str
    assertion_audience: str
    assertion_type: str = JWT_BEARER
    client_auth: ClientAuth = "identity"
    client_id: str = ""
    typ: str = ASSERTION_TYP
    algorithms: frozenset[str] = frozenset()
    audience: str = ""
    resources: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()
    subject: str = "identity"
    subject_type: str = ""
    actor: str = ""
    actor_type: str = ""
    requested_type: str = ""
    intermediate: bool = False
    fresh_assertion: bool = False
    cap_s: float = math.inf
    check_scope: Strictness = "warn"
    check_audience: Strictness = "warn"
    issuer: IssuerSettings = IssuerSettings()

    @property
    def issuer_origin(self) -> str:
        """Scheme, host and port of the token endpoint: what its rate is bounded by."""
        return origin_of(self.token_endpoint)

    def key(self, identity: str) -> bytes:
        """What names the cached token: everything that it depends on, and nothing about where it is used. `identity` names its source."""
        return digest_of(
            self.kind,
            identity,
            self.token_endpoint,
            self.client_auth,
            self.client_id,
            self.typ,
            self.assertion_type,
            self.assertion_audience,
            self.audience,
            digest_of(*self.resources).hex(),
            digest_of(*sorted(self.scopes)).hex(),
            digest_of(*(text for pair in self.extra for text in pair)).hex(),
            self.subject,
            self.subject_type,
            self.actor,
            self.actor_type,
            self.requested_type,
            repr((self.intermediate, self.fresh_assertion, sorted(self.algorithms))),
            repr(self.cap_s),
            self.check_scope,
            self.check_audience,
            repr(self.issuer),
        )


class KindSettings(Protocol):
    """What the settings of every kind that calls an issuer have. A kind has a dataclass of its own where the one above does not fit."""

    @property
    def kind(self) -> str:
        """Its name: a key of `catalog.GRANTS`."""
        ...

    @property
    def token_endpoint(self) -> str:
        """The URL that is called first, to be shown."""
        ...

    @property
    def issuer_origin(self) -> str:
        """Scheme, host and port of what is called, for records."""
        ...

    @property
    def audience(self) -> str:
        """What the token is asked for, for records; "" where that is not said."""
        ...

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, for records."""
        ...

    def key(self, identity: str) -> bytes:
        """What names the cached token; see `TokenRequestSettings.key`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantPlan:
    """How the token of some bindings is obtained and written.

    `identity` names the source of its identity token, for `audience`; "" where it needs none. `settings` None: the token is that of the
    identity, or of `token_file`. `style` is how the profile writes it: `bearer`, `header`, or `basic` for `username`. `subject_header`: the
    field in which a caller sends the subject. `previous` is the stage before: its token is the subject. `audience_of` names an identity
    source whose subject is the audience that is asked for. `signs`: its credential signs requests. `also` are further fields that it
    writes, with `also_values` where these are fixed. `issuer`: as the profile names it (RFC 8414), for `robin doctor` alone.
    """

    provider: str
    credential: str
    header: str
    prefix: str
    identity: str
    audience: str
    settings: KindSettings | None
    style: str = "bearer"
    username: str = ""
    token_file: str = ""
    subject_file: str = ""
    subject_header: str = ""
    actor_file: str = ""
    key_file: str = ""
    previous: "GrantPlan | None" = None
    audience_of: str = ""
    signs: bool = False
    also: tuple[str, ...] = ()
    also_values: tuple[str, ...] = ()
    issuer: str = ""

    @property
    def kind(self) -> str:
        """The kind of the grant, as records name it."""
        if self.settings is not None:
            return self.settings.kind if self.previous is None else "chain"
        return "static_file" if self.token_file else "forward"

    @property
    def key(self) -> bytes:
        """What names its token in the cache, but for the tokens that a request or a file gives."""
        if self.settings is None:
            return digest_of(self.kind, self.identity, self.audience, self.token_file)
        own = self.settings.key(self.identity).hex()
        before = "" if self.previous is None else self.previous.key.hex()
        return digest_of(own, self.subject_file, self.subject_header, self.actor_file, self.key_file, self.audience_of, before)

    @property
    def stages(self) -> tuple["GrantPlan", ...]:
        """Those before, in their order, and this one."""
        return (*(() if self.previous is None else self.previous.stages), self)


def origin_of(url: str) -> str:
    """Scheme, host and port as they stand in a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def digest_of(*fields: str) -> bytes:
    """SHA-256 over the fields, each behind its length, so that no field can imitate two."""
    digest = hashlib.sha256()
    for field in fields:
        octets = field.encode()
        digest.update(b"%d:" % len(octets) + octets)
    return digest.digest()
