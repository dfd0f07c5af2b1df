"""Addresses to listen on (TCP, a Unix path, a socket that systemd passed in), addresses to connect to, and what a literal host means.

IPv4 within IPv6 (`::ffff:127.0.0.1`) is the IPv4 address everywhere: the kernel connects to it, and shows IPv4 peers of an IPv6 socket so.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """`host` is a literal IP address without brackets, or `` for every interface. `best_effort`: skipped when the family is missing."""

    host: str
    port: int
    best_effort: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """An absolute path of at most 107 bytes. `mode` None leaves the mode to the listener's own rule; `group` None is the process's own."""

    path: str
    mode: int | None = None
    group: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivatedAddress:
    """A socket passed by systemd under this `LISTEN_FDNAMES` name."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = TcpAddress | UnixAddress | ActivatedAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What the name of an address was resolved to: how many addresses, why some were refused, and how long it took."""

    count: int
    refused: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialled:
    """How a connection came about: seconds of the TCP connect and of the TLS handshake; the version of TLS, such as `1.3`, and the SHA-256
    of the certificate that was verified. Without TLS the latter are None.
    """

    connect_s: float
    tls_s: float | None = None
    tls: str | None = None
    cert_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedAddress:
    """One address of a name, to be judged before anything connects to it. `host` is a literal IP address without brackets.

    `own_listener`: connecting to it would reach a listener of this process. `own_host`: the kernel would connect to it from itself.
    `dns_s` is how long its name took to resolve; `resolution` is there where a plane's judge puts it.
    """

    host: str
    port: int
    own_listener: bool = False
    own_host: bool = False
    dns_s: float = 0.0
    resolution: Resolution | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def literal(host: str) -> IPv4Address | IPv6Address:
    """The address that is meant, without its zone. Raises ValueError for a name, and for an address in an uncommon form."""
    address = ip_address(host.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def is_loopback(host: str) -> bool:
    """Whether it is an address that only this machine has. No name is, not even `localhost`: its resolver decides where it leads."""
    try:
        return literal(host).is_loopback
    except ValueError:
        return False


def reached(host: str) -> IPv4Address | IPv6Address:
    """The address that dialling this one reaches: the unspecified address (`0.0.0.0`, `::`) leads to loopback. Raises ValueError."""
    address = literal(host)
    if address.is_unspecified:
        return IPv4Address("127.0.0.1") if address.version == 4 else IPv6Address("::1")
    return address
