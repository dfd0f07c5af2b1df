"""Which addresses of an issuer, of tokens or of the keys of callers' tokens, may be connected to.

Private ones may; what only a mistake or an attack leads to may not. Pure.

The operator names each issuer, so private networks are fine. Link-local addresses (the metadata services of clouds among them), multicast
and unspecified ones never are, and loopback only where the URL itself names it.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.policy.address_guard import Address, AddressClass, classify, embedded_ipv4

Judge = Callable[[Permit, Sequence[ResolvedAddress]], Sequence[ResolvedAddress]]

_NEVER: Final = frozenset({AddressClass.LINK_LOCAL, AddressClass.METADATA, AddressClass.MULTICAST, AddressClass.UNSPECIFIED})
_NAT64: Final = (IPv6Network("64:ff9b::/96"),)  # RFC 6052 section 2.1


def issuer_judge(nat64_prefixes: Sequence[str] = ()) -> Judge:
    """What judges the addresses of issuers where these prefixes embed IPv4 addresses too. A `transport.dial.Judge`."""
    nat64 = (*_NAT64, *map(IPv6Network, nat64_prefixes))

    def judge(permit: Permit, addresses: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
        """Those that may be connected to. Raises Fault `unroutable` where none is left, `loop` for a listener of this process."""
        if any(address.own_listener for address in addresses):
            raise Fault("loop", "own_address: the URL of the issuer leads back to this Robin")
        named = names_loopback(permit.endpoint.origin.host)
        kept = [address for address in addresses if _may_be_dialled(address.host, nat64, loopback=named)]
        if not kept:
            raise Fault("unroutable", "address_refused: the issuer resolves to link-local, loopback or other addresses of no issuer")
        return kept

    return judge


def names_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address; no other name is, whatever it resolves to."""
    if host == "localhost":
        return True
    try:
        return classify(_plain(host, _NAT64)) is AddressClass.LOOPBACK
    except ValueError:
        return False


def is_no_issuer(host: str) -> bool:
    """Whether a host is an address that is never dialled, in whatever settings it stands; False for names."""
    try:
        _plain(host, _NAT64)
    except ValueError:
        return False
    return not _may_be_dialled(host, _NAT64, loopback=names_loopback(host))


def _may_be_dialled(host: str, nat64: Sequence[IPv6Network], *, loopback: bool) -> bool:
    """`localhost` is dialled at loopback addresses only."""
    kind = classify(_plain(host, nat64))
    if loopback:
        return kind is AddressClass.LOOPBACK
    return kind not in _NEVER and kind not in {AddressClass.LOOPBACK, AddressClass.EMBEDDED}


def _plain(host: str, nat64: Sequence[IPv6Network]) -> Address:
    """The address, or the IPv4 address that is mapped or translated into it. Raises ValueError."""
    address = ip_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return address
    prefix = next((one for one in nat64 if address in one), None)
    inside = address.ipv4_mapped or (embedded_ipv4(address, prefix) if prefix is not None else None)
    return inside or address
