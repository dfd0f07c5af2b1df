"""The settings of the gateway: frozen values that `config/gateway.py` builds from robin.yaml. Durations are seconds."""

from dataclasses import dataclass, field
from typing import Literal

from robin.identity.trust.settings import TrustSettings
from robin.model.address import Address
from robin.model.limits import Deadlines, Limits
from robin.model.route import TlsProfile
from robin.policy.gateway import RuleSet

Auth = Literal["none", "jwt", "unix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """One proxy listener. `issuers` are names, for `jwt`; `uids` those that may use a Unix socket, for `unix`."""

    name: str
    addresses: tuple[Address, ...]
    auth: Auth = "none"
    issuers: tuple[str, ...] = ()
    uids: frozenset[int] = frozenset()
    unsafe_open: bool = False


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
class AuditSettings:
    """`file` None: standard output. `deny`: nothing is forwarded whose decision cannot be recorded."""

    file: str | None = None
    deny: bool = True
    checkpoint_every: int = 1000
    checkpoint_key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """The settings of one gateway. `upstream_idle_s` and the like stand in `deadlines`."""

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
    audit: AuditSettings
    warnings: tuple[tuple[str, dict[str, str]], ...] = ()
