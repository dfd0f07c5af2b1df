"""Invariant: any reply of a name server or of getaddrinfo is a fault, or at most 16 addresses, of which only permitted ones are dialled."""

# ruff: noqa: PT017 - a check asserts on what was raised, outside of pytest too

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, Final

import dns.message
import dns.name
import dns.nameserver
import dns.query
import dns.rdatatype
import dns.rrset
from tests.permits import permit_to

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.origin import Origin
from robin.model.route import Endpoint
from robin.policy.address_guard import AddressClass, AddressGuard
from robin.transport.dns import DnsResolver
from robin.transport.resolve import Resolver

_NAME = "a.example"
_ORIGIN = Origin(scheme="https", host=_NAME, port=443, authority=_NAME.encode())
_PRIVATE = ("10.0.0.0/8",)
_GUARD = AddressGuard(deny=("8.8.4.0/24",), nat64_prefixes=("64:ff9b::/96",))
_FAULTS = {"dns_failed", "dns_timeout", "address_refused"}
_ANSWERS_MAX = 16


def _reply(*records: str, rcode: int = 0) -> bytes:
    """The octets of a reply to the query for the A records of the name."""
    message = dns.message.make_response(dns.message.make_query(f"{_NAME}.", "A", id=0))
    message.answer = [dns.rrset.from_text(*line.split(" ", 4)) for line in records]
    message.set_rcode(rcode)  # type: ignore[arg-type]
    return bytes(message.to_wire())


_A = f"{_NAME}. 5 IN A "
_CHAIN = [f"{at or _NAME}. 0 IN CNAME {at + 1}." for at in range(9)]
SEEDS = (
    b"wire\n" + _reply(_A + "8.8.8.8"),
    b"wire\n" + _reply(_A + "127.0.0.1", f"{_NAME}. 5 IN AAAA ::1"),
    b"wire\n" + _reply(rcode=2),
    b"wire\n" + _reply(rcode=3),
    b"wire\n" + _reply(*_CHAIN, "9. 0 IN A 8.8.8.8"),
    b"wire\n" + _reply(f"{_NAME}. 0 IN CNAME {_NAME}."),
    b"records\n" + "\n".join([_A + f"8.8.8.{at}" for at in range(40)]).encode(),
    b"records\n" + "\n".join([f"{_NAME}. 4294967295 IN AAAA 2606::{at}" for at in range(4)]).encode(),
    b"records\n" + "\n".join([*_CHAIN, "9. 0 IN AAAA fd00:ec2::254"]).encode(),
    b"records\nother.example. 5 IN A 8.8.8.8",
    b"addresses\n8.8.8.8 8.8.4.4 10.0.0.1 192.168.0.1 127.0.0.1 169.254.169.254 0.0.0.0",
    b"addresses\n::ffff:8.8.8.8 64:ff9b::808:808 64:ff9b::7f00:1 2002:7f00:1:: fe80::1%eth0 2606::5efe:7f00:1 ::",
    b"getaddrinfo\n2 8.8.8.8\n10 ::1\n10 fe80::1%1\n1 /x\n2 300.1.1.1\n16 x",
)
WORDS = (
    *b"127.0.0.1 ::1 ::ffff: 64:ff9b:: % . IN A AAAA CNAME \\ @ 4294967295".split(b" "),
    *(b"\xc0\x0c", b"\xc0\xff", b"\x00\x01\x00\x01", b"\x00\x1c", b"\x00\x05", b"\x3f", b"\x00", b"\xff"),
)


class Canned(dns.nameserver.Nameserver):
    """Gives these octets as the reply to every query, with the id of the query, and reads them as the real one does."""

    def __init__(self, octets: Callable[[dns.message.QueryMessage], bytes]) -> None:
        self._octets = octets

    def __str__(self) -> str:
        return "canned"

    def kind(self) -> str:
        return "canned"

    def is_always_max_size(self) -> bool:
        return False

    def answer_nameserver(self) -> str:
        return "127.0.0.1"

    def answer_port(self) -> int:
        return 53

    async def async_query(self, request: dns.message.QueryMessage, *_: Any, **__: Any) -> dns.message.Message:
        octets = request.id.to_bytes(2, "big") + self._octets(request)[2:]
        reply = dns.message.from_wire(octets, raise_on_truncation=True)
        if not request.is_response(reply):
            raise dns.query.BadResponse
        return reply


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`: the first line is what the rest is read as."""
    kind, _, rest = data.partition(b"\n")
    _CHECKS.get(kind, _wire)(rest)


def _wire(octets: bytes) -> None:
    _resolved(lambda _: octets)


def _records(octets: bytes) -> None:
    """Lines `name TTL IN type value`; one that is none is left out."""
    sets = []
    for line in octets.decode("utf-8", "replace").splitlines()[:64]:
        try:
            sets.append(dns.rrset.from_text(*line.split(" ", 4)))
        except Exception:
            continue

    def reply(request: dns.message.QueryMessage) -> bytes:
        message = dns.message.make_response(request)
        message.answer = list(sets)
        try:
            return bytes(message.to_wire())
        except Exception:
            return b"\x00"

    _resolved(reply)


def _resolved(octets: Callable[[dns.message.QueryMessage], bytes]) -> None:
    now = [0.0]
    resolver = DnsResolver(servers=[("127.0.0.1", 53)], hosts={}, timeout_s=1.0, now=lambda: now[0], is_own_listener=lambda *_: False)
    stub = resolver._build()
    stub.nameservers = [Canned(octets)]
    try:
        found = asyncio.run(resolver.lookup(_NAME))
    except Fault as fault:
        assert fault.code in _FAULTS
        assert resolver._cache == {}
        return
    assert 1 <= len(found) <= _ANSWERS_MAX
    assert all(ends_at <= 30.0 and hosts == found for ends_at, hosts in resolver._cache.values())
    _judged(found)


def _addresses(octets: bytes) -> None:
    texts = [text for text in octets.decode("utf-8", "replace").split(" ")[:64] if _is_address(text)]
    if texts:
        _judged(texts)


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _judged(hosts: list[str]) -> None:
    endpoint = Endpoint(origin=_ORIGIN, tls=None, generation=1, private=_PRIVATE)
    addresses = [ResolvedAddress(host=host, port=443) for host in hosts]
    try:
        permitted = _GUARD.judge_endpoint(endpoint, addresses)
    except Fault as fault:
        assert fault.code in _FAULTS
        assert fault.detail.partition(":")[0] in set(AddressClass) - {AddressClass.PUBLIC}
        return
    for one in permitted:
        number = ip_address(one.host.partition("%")[0])
        inside = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None)
        assert inside is None, "IPv4 inside IPv6 is never reached by the back door"
        assert not any((number.is_loopback, number.is_link_local, number.is_multicast, number.is_unspecified))
        assert not number.is_private or number in ip_network("10.0.0.0/8") or _GUARD.class_of(one) is AddressClass.PUBLIC
        assert number not in ip_network("8.8.4.0/24")


def _getaddrinfo(octets: bytes) -> None:
    """Lines `family address`, as the system's resolver could give them."""
    places = []
    for line in octets.decode("utf-8", "replace").splitlines()[:64]:
        family, _, text = line.partition(" ")
        if family.isascii() and family.isdigit() and len(family) < 4:
            places.append((int(family), socket.SOCK_STREAM, 6, "", (text, 443)))

    async def resolve() -> list[ResolvedAddress]:
        loop = asyncio.get_running_loop()
        resolver = Resolver(loop, is_own_listener=lambda *_: False, getaddrinfo=lambda *_, **__: places)
        return await resolver.resolve(permit_to(_ORIGIN))

    try:
        found = asyncio.run(resolve())
    except Fault as fault:
        assert fault.code in _FAULTS
        return
    assert 1 <= len(found) <= _ANSWERS_MAX
    assert len({one.host for one in found}) == len(found)
    valid = [one.host for one in found if _is_address(one.host)]
    if valid:
        _judged(valid)


_CHECKS: Final[dict[bytes, Callable[[bytes], None]]] = {
    b"wire": _wire,
    b"records": _records,
    b"addresses": _addresses,
    b"getaddrinfo": _getaddrinfo,
}
