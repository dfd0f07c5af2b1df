"""What a profile file comes to, as values; nothing of it depends on the provider that uses it."""

import math
from dataclasses import dataclass

from robin.config.diagnostic import Position
from robin.config.profile_endpoints import ProfileEndpoint
from robin.grants.settings import ASSERTION_TYP, ClientAuth, Strictness
from robin.policy.patterns import HostPattern, Methods, PathPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another audience for a part of the endpoints. `port` None, any path and any method stand for those of the endpoint."""

    at: Position
    host: HostPattern
    port: int | None
    path: PathPattern
    methods: Methods
    audience: str
    scopes: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """How a credential is obtained, with the defaults of its preset. `cap_s`: the longest usable time, infinity for none.

    `options` are the keys that only its kind has, as `grant_kinds` reads them. `assertion_type` "" depends on the identity token.
    `preset_audience`: that of the identity token by the preset; `typ`, `algorithms` as in `TokenRequestSettings`. `shares_audience`: other
    issuers may have the same. `intermediate`: a stage whose token is only exchanged for another one.
    """

    at: Position
    endpoint_at: Position
    kind: str
    token_endpoint: str
    issuer: str
    audience: str
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    jwt_svid_audience: str
    assertion_type: str
    client_auth: ClientAuth
    client_id: str
    extra: tuple[tuple[str, str], ...]
    cap_s: float = math.inf
    check_scope: Strictness
    check_audience: Strictness
    overrides: tuple[Override, ...] = ()
    options: object = None
    preset: str = ""
    preset_audience: str = ""
    typ: str = ASSERTION_TYP
    algorithms: frozenset[str] = frozenset()
    shares_audience: bool = False
    fresh_assertion: bool = False
    intermediate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCredential:
    """One credential. `inactive`: why it is not obtained, unless it `takes_file` and the provider names one for it; "" if it is."""

    at: Position
    name: str
    required: bool
    header: str
    prefix: str
    style: str
    grant: TokenGrant | None
    inactive: str = ""
    takes_file: bool = False
    username: str = ""
    placeholder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile file that can be used."""

    at: Position
    id: str
    credentials: tuple[ProfileCredential, ...]
    endpoints: tuple[ProfileEndpoint, ...]
