"""Names to addresses: literals untouched, families interleaved, threads that hang delay no other query."""

import asyncio
import socket
import threading
from typing import Any

import pytest
from tests.descriptors import no_descriptor_left
from tests.permits import permit_to

from robin.model.address import ResolvedAddress
from robin.model.exhaustion import EXHAUSTED
from robin.model.faults import Fault
from robin.model.origin import Origin
from robin.model.verdict import Permit
from robin.transport.resolve import Resolver, interleave

V4, V6 = socket.AF_INET, socket.AF_INET6


def permit(host: str, port: int = 80) -> Permit:
    return permit_to(Origin(scheme="http", host=host, port=port, authority=b"as.test"))


def resolver(**rest: Any) -> Resolver:
    return Resolver(asyncio.get_running_loop(), is_own_listener=lambda host, port: (host, port) == ("127.0.0.1", 4141), **rest)


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.9", "::1", "2001:db8::7"])
async def test_a_literal_is_itself_and_starts_no_query(host: str):
    threads = threading.active_count()
    assert await resolver().resolve(permit(host, 8443)) == [ResolvedAddress(host=host, port=8443)]
    assert threading.active_count() == threads


async def test_an_address_that_reaches_a_listener_of_ours_is_marked():
    def found(*_: object, **__: object) -> list[Any]:
        return [(V4, socket.SOCK_STREAM, 6, "", (host, 4141)) for host in ("127.0.0.1", "127.0.0.2")]

    addresses = await resolver(getaddrinfo=found).resolve(permit("broker.test", 4141))
    assert [(address.host, address.own_listener) for address in addresses] == [("127.0.0.1", True), ("127.0.0.2", False)]


async def test_localhost_is_loopback():
    found = await resolver().resolve(permit("localhost"))
    assert ResolvedAddress(host="127.0.0.1", port=80) in found
    assert {address.host for address in found} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".invalid", "xn--\udcff", "a..b"])
async def test_what_does_not_resolve_is_a_fault(host: str):
    with pytest.raises(Fault, match="dns_failed"):
        await resolver().resolve(permit(host))


async def test_a_name_that_is_unknown_for_want_of_descriptors_is_our_own_trouble():
    def no_files(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # what glibc says when it cannot open /etc/hosts

    asking = resolver(getaddrinfo=no_files)
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files") as refused:
        await asking.resolve(permit("broker.test"))
    assert refused.value.errno in EXHAUSTED
    with pytest.raises(Fault, match="dns_failed"):
        await asking.resolve(permit("broker.test"))


def test_the_resolvers_first_choice_stays_first_and_families_alternate():
    found = ["::a", "::b", "::c", "192.0.2.4", "192.0.2.5"]
    assert interleave(found) == ["::a", "192.0.2.4", "::b", "192.0.2.5", "::c"]
    assert interleave(found[::-1]) == ["192.0.2.5", "::c", "192.0.2.4", "::b", "::a"]
    assert interleave(found[:2]) == found[:2]
    assert interleave([]) == []


async def test_a_query_whose_caller_gave_up_frees_its_slot():
    """A hanging name server holds a thread and a slot; its caller gives up at its own deadline, and others go on."""
    hang = threading.Event()

    def slow(host: str, *rest: Any, **named: Any) -> Any:
        if host == "slow.test":
            hang.wait(10)
            host = "localhost"
        return socket.getaddrinfo(host, *rest, **named)

    asking = resolver(getaddrinfo=slow, slots=21)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asking.resolve(permit("slow.test"))
    assert await asking.resolve(permit("localhost"))
    hang.set()
    async with asyncio.timeout(30):
        assert await asking.resolve(permit("slow.test"))


async def test_more_queries_than_slots_wait():
    running = most = 0
    lock, barrier = threading.Lock(), threading.Event()

    def count(*_: object, **__: object) -> list[object]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(0.02)
        with lock:
            running -= 1
        return [(V4, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]

    asking = resolver(getaddrinfo=count, slots=3)
    found = await asyncio.gather(*(asking.resolve(permit("name.test")) for _ in range(12)))
    assert found == [[ResolvedAddress(host="127.0.0.1", port=80)]] * 12
    assert most == 3
