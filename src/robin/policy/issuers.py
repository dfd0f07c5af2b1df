"""Which addresses of an issuer may be connected to: private ones may, what only a mistake or an attack leads to may not. Pure.

The operator names each issuer, so private networks are fine. Link-local addresses (the metadata services of clouds among them), multicast
and unspecified ones never are, and loopback only where the URL itself names it.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit

_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"))
)


def judge_issuer(permit: Permit, addresses: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
    """The addresses that may be connected to. Raises Fault `unroutable` where none is left, `loop` for a listener of this process."""
    if any(address.own_listener for address in addresses):
        raise Fault("loop", "own_address: the token endpoint leads back to this Robin")
    named = names_loopback(permit.endpoint.origin.host)
    kept = [address for address in addresses if _may_be_dialled(address.host, loopback=named)]
    if not kept:
        raise Fault("unroutable", "address_refused: the token endpoint resolves to link-local, loopback or other addresses of no issuer")
    return kept


def names_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address; no other name is, whatever it resolves to."""
    if host == "localhost":
        return True
    try:
        return _plain(host).is_loopback
    except ValueError:
        return False


def _may_be_dialled(host: str, *, loopback: bool) -> bool:
    """`localhost` is dialled at loopback addresses only."""
    address = _plain(host)
    if loopback:
        return address.is_loopback
    refused = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified or address in _METADATA
    return not refused and not (address.version == 4 and int(address) >> 24 == 0)


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
