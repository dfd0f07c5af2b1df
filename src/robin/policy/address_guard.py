"""The gateway's address guard: the class of an address, and which addresses of a name may be connected to. Pure, with tables of our own.

The tables are not those of the standard library, which changed between releases of Python. A refused address is dropped; where none is
left, the request is refused with the class. Nothing makes an address of a class that is `never` reachable, but `unsafe_loopback`, which
names one address and port for development.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from robin.model.address import Resolution, ResolvedAddress
from robin.model.faults import Fault
from robin.model.route import Endpoint
from robin.model.verdict import Permit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressClass(StrEnum):
    """What an address is for. Only `public` is reachable by a rule; `private` and `cgnat` by a rule that names their network."""

    PUBLIC = "public"
    PRIVATE = "private"
    CGNAT = "cgnat"
    LOOPBACK = "loopback"
    UNSPECIFIED = "unspecified"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    EMBEDDED = "embedded"  # an IPv4 address inside an IPv6 address
    SELF = "self"
    DENIED = "denied"  # by `deny` of the settings
    OUTSIDE = "outside"  # not in `allowed_ips` of a provider's endpoint


def _table(rows: str) -> tuple[tuple[AddressClass, Network], ...]:
    return tuple((AddressClass(name), ip_network(net)) for name, *nets in map(str.split, rows.strip().splitlines()) for net in nets)


_TABLE: Final = _table("""
metadata 169.254.169.254 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254
unspecified 0.0.0.0/8 ::/128
loopback 127.0.0.0/8 ::1/128
embedded ::ffff:0:0/96 ::/96 64:ff9b::/96 64:ff9b:1::/48 2002::/16 2001::/32
link_local 169.254.0.0/16 fe80::/10 fec0::/10
private 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7
cgnat 100.64.0.0/10
multicast 224.0.0.0/4 ff00::/8
reserved 240.0.0.0/4 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
reserved 100::/64 2001::/23 2001:db8::/32 3fff::/20 5f00::/16
""")
"""In order: the first row that has an address decides."""

_OTHERS_REFUSED: Final = "every address of the name is one that no rule can reach"
_REFUSED: Final = dict.fromkeys(
    (AddressClass.PRIVATE, AddressClass.CGNAT), "the network of the address is not in `private` of a rule that allows this host"
) | {
    AddressClass.LOOPBACK: "the address is this machine's; for development `addresses.unsafe_loopback` opens one address and port",
}
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_PRIVATE_ROOM: Final = tuple(net for kind, net in _TABLE if kind in {AddressClass.PRIVATE, AddressClass.CGNAT})
_KNOWN_HOSTS: Final = 4096
_NAT64_LENGTHS: Final = frozenset({32, 40, 48, 56, 64, 96})


def classify(address: Address) -> AddressClass:
    """The class by the tables alone."""
    for kind, net in _TABLE:
        if address.version == net.version and address in net:
            return kind
    if isinstance(address, IPv4Address):
        return AddressClass.PUBLIC
    if address not in _GLOBAL_UNICAST:
        return AddressClass.RESERVED
    identifier = int(address) & 0xFFFFFFFFFFFFFFFF
    if identifier >> 32 in {0x00005EFE, 0x02005EFE}:  # ISATAP, RFC 5214 section 6.1
        return AddressClass.EMBEDDED
    return AddressClass.PUBLIC


@lru_cache(maxsize=_KNOWN_HOSTS)
def _known(host: str) -> tuple[Address, str, AddressClass]:
    """The number of an address, its usual text and its class by the tables, which have 41 rows: a name has the same few for a long time."""
    number = ip_address(host.partition("%")[0])
    return number, number.compressed, classify(number)


_network = lru_cache(maxsize=_KNOWN_HOSTS)(ip_network)
"""The networks of rules and providers, which are judged by for each connection."""


def refuse_self() -> Fault:
    """The refusal of an address that has become one of this host after it was judged."""
    return Fault("address_refused", f"{AddressClass.SELF}: {_OTHERS_REFUSED}")


def is_private_network(text: str) -> bool:
    """Whether `text` is a network inside the private ones, which a rule may name. Raises ValueError for what is no network."""
    net = ip_network(text)
    return any(net.version == room.version and net.subnet_of(room) for room in _PRIVATE_ROOM)  # type: ignore[arg-type]


def is_nat64_prefix(text: str) -> bool:
    """Whether `text` is a prefix that can embed IPv4 addresses (RFC 6052 section 2.2). Raises ValueError for what is no network."""
    net = ip_network(text)
    return net.version == 6 and net.prefixlen in _NAT64_LENGTHS


class AddressGuard:
    """Judges the addresses of a permitted endpoint. `judge` is a `transport.dial.Judge`."""

    __slots__ = ("_deny", "_nat64", "_unsafe_loopback", "self_addresses")

    def __init__(
        self,
        *,
        deny: Sequence[str] = (),
        nat64_prefixes: Sequence[str] = (),
        unsafe_loopback: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        """`unsafe_loopback`: loopback addresses and ports that may be reached, for development."""
        self._deny = tuple(map(ip_network, deny))
        self._nat64 = tuple(map(IPv6Network, nat64_prefixes))
        self._unsafe_loopback = unsafe_loopback
        self.self_addresses: frozenset[Address] = frozenset()

    def learn_self(self, addresses: frozenset[Address]) -> None:
        """The addresses that `self_names` resolve to now."""
        self.self_addresses = addresses

    def judge(self, permit: Permit, addresses: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
        """Those that may be connected to. Raises Fault `address_refused` where there is none; its reason word is a class."""
        return self.judge_endpoint(permit.endpoint, addresses)

    def judge_endpoint(self, endpoint: Endpoint, addresses: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
        """The same. Raises Fault."""
        private = tuple(map(_network, endpoint.private))
        within = [tuple(map(_network, nets)) for nets in endpoint.within]
        permitted: list[ResolvedAddress] = []
        refused: list[AddressClass] = []
        for address in addresses:
            kind = self.class_of(address)
            if not self._reachable(address, kind, private):
                refused.append(kind)
            elif not all(any(_known(address.host)[0] in net for net in nets) for nets in within):
                refused.append(AddressClass.OUTSIDE)
            else:
                permitted.append(address)
        if not permitted:
            raise Fault("address_refused", f"{refused[-1]}: {_REFUSED.get(refused[-1], _OTHERS_REFUSED)}")
        found = Resolution(count=len(addresses), refused=tuple(refused), seconds=addresses[0].dns_s)
        return [replace(address, resolution=found) for address in permitted]

    def class_of(self, address: ResolvedAddress) -> AddressClass:
        """The class, with what the settings and this process add to the tables."""
        number, text, kind = _known(address.host)
        if (text, address.port) in self._unsafe_loopback and not address.own_listener:
            return AddressClass.LOOPBACK  # own_host holds for every loopback address
        if address.own_listener or address.own_host or number in self.self_addresses:
            return kind if kind in {AddressClass.LOOPBACK, AddressClass.UNSPECIFIED} else AddressClass.SELF
        if any(number in net for net in self._deny):
            return AddressClass.DENIED
        if isinstance(number, IPv6Address) and kind in {AddressClass.EMBEDDED, AddressClass.PUBLIC}:
            for prefix in self._nat64:
                if number in prefix:
                    return self._class_of_nat64(number, prefix)
        return kind

    def _class_of_nat64(self, number: IPv6Address, prefix: IPv6Network) -> AddressClass:
        inside = embedded_ipv4(number, prefix)
        if inside is None or classify(inside) is not AddressClass.PUBLIC or any(inside in net for net in self._deny):
            return AddressClass.EMBEDDED
        return AddressClass.PUBLIC

    def _reachable(self, address: ResolvedAddress, kind: AddressClass, private: Sequence[Network]) -> bool:
        if kind is AddressClass.PUBLIC:
            return True
        number, text, _ = _known(address.host)
        if kind is AddressClass.LOOPBACK:
            return not address.own_listener and (text, address.port) in self._unsafe_loopback
        return kind in {AddressClass.PRIVATE, AddressClass.CGNAT} and any(number in net for net in private)


def embedded_ipv4(number: IPv6Address, prefix: IPv6Network) -> IPv4Address | None:
    """The IPv4 address in an IPv6 address of this prefix (RFC 6052 section 2.2); None where the reserved octet is not zero."""
    octets = number.packed
    if prefix.prefixlen == 96:
        return IPv4Address(octets[12:])
    if octets[8]:
        return None
    start = prefix.prefixlen // 8
    rest = octets[start:8] + octets[9:]
    return IPv4Address(rest[:4])
