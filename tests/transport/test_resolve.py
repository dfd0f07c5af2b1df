"""Names to addresses: literals untouched, families in turns, threads that hang hold up nobody."""

import asyncio
import socket
import threading
from typing import Any

import pytest
from tests.descriptors import no_descriptor_left

from robin.model.exhaustion import EXHAUSTED
from robin.transport.resolve import Resolver, _interleave

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.9", "::1", "2001:db8::7"])
async def test_a_literal_is_itself_and_asks_nobody(host: str):
    threads = threading.active_count()
    family = V6 if ":" in host else V4
    assert await Resolver(asyncio.get_running_loop()).resolve(host, 8443) == [(family, (host, 8443))]
    assert threading.active_count() == threads


async def test_localhost_is_loopback():
    found = await Resolver(asyncio.get_running_loop()).resolve("localhost", 80)
    assert (V4, ("127.0.0.1", 80)) in found
    assert {host for _, (host, _) in found} <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".invalid", "xn--\udcff", "a..b"])
async def test_what_does_not_resolve_raises(host: str):
    with pytest.raises((socket.gaierror, UnicodeError)):
        await Resolver(asyncio.get_running_loop()).resolve(host, 80)


async def test_a_name_that_is_unknown_for_want_of_descriptors_is_our_own_trouble():
    def no_files(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")  # what glibc says when it cannot open /etc/hosts

    resolver = Resolver(asyncio.get_running_loop(), getaddrinfo=no_files)
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files") as refused:
        await resolver.resolve("broker.test", 80)
    assert refused.value.errno in EXHAUSTED
    with pytest.raises(socket.gaierror):
        await resolver.resolve("broker.test", 80)


async def test_the_resolvers_first_choice_stays_first_and_families_take_turns():
    found = [(V6, ("a", 1)), (V6, ("b", 1)), (V6, ("c", 1)), (V4, ("d", 1)), (V4, ("e", 1))]
    assert [host for _, (host, _) in _interleave(found)] == ["a", "d", "b", "e", "c"]
    assert [host for _, (host, _) in _interleave(found[::-1])] == ["e", "c", "d", "b", "a"]
    assert _interleave(found[:2]) == found[:2]
    assert _interleave([]) == []


async def test_an_answer_that_nobody_waits_for_gives_its_place_back():
    """A hanging name server holds a thread and a place; who asked leaves at its own deadline, and others go on."""
    hang = threading.Event()

    def slow(host: str, *rest: Any, **named: Any) -> Any:
        if host == "slow.test":
            hang.wait(10)
            return []
        return socket.getaddrinfo(host, *rest, **named)

    resolver = Resolver(asyncio.get_running_loop(), getaddrinfo=slow, places=21)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await resolver.resolve("slow.test", 80)
    assert await resolver.resolve("localhost", 80)
    hang.set()
    async with asyncio.timeout(5):
        assert await resolver.resolve("slow.test", 80) == []


async def test_more_questions_than_places_stand_in_line():
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

    resolver = Resolver(asyncio.get_running_loop(), getaddrinfo=count, places=3)
    answers = await asyncio.gather(*(resolver.resolve("name.test", 80) for _ in range(12)))
    assert answers == [[(V4, ("127.0.0.1", 80))]] * 12
    assert most == 3
