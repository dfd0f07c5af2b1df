"""The settings of the gateway: frozen values that `config/gateway.py` builds from robin.yaml. Durations are seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from robin.grants.settings import GrantPlan, GrantsSettings
from robin.identity.settings import IdentitySettings
from robin.identity.trust.settings import TrustSettings
from robin.model.address import Address
from robin.model.limits import Deadlines, Limits
from robin.model.origin import Origin
from robin.model.route import TlsProfile
from robin.policy.reverse import ReverseRoute
from robin.policy.rules import RuleSet
from robin.policy.select import Binding

Auth = Literal["none", "jwt", "mtls", "unix"]
Kind = Literal["proxy", "reverse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTlsSettings:
    """The certificate of a listener: files (PEM), or the names of a leaf that the CA of the bridge signs."""

    cert_file: str = ""
    key_file: str = ""
    minted_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MtlsSettings:
    """`ca_file`: the roots of client certificates. `accept_cn`: without a SPIFFE ID the common name is the caller."""

    ca_file: str
    trust_domains: frozenset[str] = frozenset()
    accept_cn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """One listener. `issuers` are names, for `jwt`; `uids` those that may use a Unix socket, for `unix`.

    `tls` None: the listener is without TLS. `mtls` is there for `mtls`.
    """

    name: str
    addresses: tuple[Address, ...]
    kind: Kind = "proxy"
    auth: Auth = "none"
    issuers: tuple[str, ...] = ()
    uids: frozenset[int] = frozenset()
    unsafe_open: bool = False
    tls: ListenerTlsSettings | None = None
    mtls: MtlsSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSettings:
    """One issuer of caller tokens. `trust_domain` for `spiffe`; `namespaces` for `kubernetes`, empty: all."""

    name: str
    kind: Literal["kubernetes", "spiffe", "oidc"]
    trust: TrustSettings
    trust_domain: str = ""
    namespaces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """`slots` are folders with tls.crt and tls.key; `sign_with` names the one that signs, empty: nothing is bridged."""

    slots: dict[str, str] = field(default_factory=dict)
    sign_with: str = ""
    leaf_ttl_s: float = 86400.0
    leaf_cache: int = 1024
    ech: Literal["refuse", "allow"] = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressSettings:
    """How names are resolved and which addresses are refused; `policy.address_guard` has the meaning."""

    resolver: tuple[tuple[str, int], ...] = ()
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    deny: tuple[str, ...] = ()
    nat64_prefixes: tuple[str, ...] = ()
    self_names: tuple[str, ...] = ()
    unsafe_loopback: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSettings:
    """Limits of tunnels, 0: none; and their times, infinity: none."""

    tunnels: int = 2048
    tunnels_per_caller: int = 128
    mints_per_second: int = 200
    first_bytes_s: float = 10.0
    tls_s: float = 10.0
    dns_s: float = 5.0
    idle_s: float = 900.0
    max_s: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimitSettings:
    """Limits of one caller, 0: none. `requests_per_s` counts each request and each CONNECT."""

    connections: int = 256
    in_flight: int = 256
    requests_per_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """`file` None: standard output. `deny`: nothing is forwarded whose decision cannot be recorded."""

    file: str | None = None
    deny: bool = True
    checkpoint_every: int = 1000
    checkpoint_key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """What the providers come to. `grants`: by the name that bindings have in `Binding.grant`. `pins`: by profile id."""

    bindings: tuple[Binding, ...] = ()
    grants: Mapping[str, GrantPlan] = field(default_factory=dict)
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentSettings:
    """The gateway behind a relay. `ca_file` None: the roots of the system."""

    origin: Origin
    token_file: str
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The settings of one gateway. `upstream_idle_s` and the like stand in `deadlines`. `rules` has those of providers too.

    `canary` is host and port, None: there is none. With a `parent` it is a relay, and of the rest only listeners, limits and times count.
    """

    name: str
    listeners: tuple[ListenerSettings, ...]
    issuers: dict[str, IssuerSettings]
    rules: RuleSet
    bridge: BridgeSettings
    upstream_tls: TlsProfile
    addresses: AddressSettings
    limits: Limits
    deadlines: Deadlines
    tunnels: TunnelSettings
    drain_min_s: float
    drain_max_s: float
    admin: tuple[Address, ...]
    probes: tuple[Address, ...] = ()
    routes: tuple[ReverseRoute, ...] = ()
    callers: CallerLimitSettings = CallerLimitSettings()
    audit: AuditSettings
    identities: Mapping[str, IdentitySettings] = field(default_factory=dict)
    providers: ProviderSettings = ProviderSettings()
    grants: GrantsSettings = field(default_factory=GrantsSettings)
    canary: tuple[str, int] | None = None
    parent: ParentSettings | None = None
    warnings: tuple[tuple[str, dict[str, str]], ...] = ()
