"""Resolves the name of a permitted endpoint to addresses, anew for each connection, on threads that delay neither the loop nor the exit.

The loop's own `getaddrinfo` runs on a few threads that the process joins when it exits: with a dead name server four requests block all
others, and the exit waits for the resolver's timeout (10 s and more). Here a thread that hangs costs its slot and nothing else.
"""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from robin.model.address import ResolvedAddress, is_loopback
from robin.model.faults import Fault
from robin.model.verdict import Permit

_SLOTS: Final = 64
_ADDRESSES_MAX: Final = 16


class Resolver:
    """At most `slots` queries at a time; later ones wait in order, within the deadline of their own connection attempt."""

    __slots__ = ("_getaddrinfo", "_is_own_listener", "_loop", "_slots")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_own_listener: Callable[[str, int], bool],
        getaddrinfo: Callable[..., Iterable[Any]] = socket.getaddrinfo,
        slots: int = _SLOTS,
    ) -> None:
        """`is_own_listener(host, port)` must not block for longer than a system call. `getaddrinfo` is called on a thread and may block."""
        self._loop = loop
        self._is_own_listener = is_own_listener
        self._getaddrinfo = getaddrinfo
        self._slots = asyncio.Semaphore(slots)

    async def resolve(self, permit: Permit) -> list[ResolvedAddress]:
        """Every address of the permitted origin, in the resolver's order with families interleaved; a literal is itself. At least one.

        Raises Fault `dns_failed`, and OSError if this process has no descriptor or thread left to ask with.
        """
        origin = permit.endpoint.origin
        try:
            hosts = [origin.host] if _is_literal(origin.host) else await self._query(origin.host, origin.port)
        except (socket.gaierror, UnicodeError):
            raise Fault("dns_failed", "dns_failed: the name in {upstream_url} does not resolve") from None
        if origin.host == "localhost":  # cleartext may go there, so it is always this machine (RFC 6761 section 6.3)
            hosts = [host for host in hosts if is_loopback(host)]
        if not hosts:
            raise Fault("dns_failed", "dns_failed: the name in {upstream_url} has no address")
        is_own = self._is_own_listener
        return [ResolvedAddress(host=host, port=origin.port, own_listener=is_own(host, origin.port)) for host in hosts]

    async def _query(self, host: str, port: int) -> list[str]:
        await self._slots.acquire()
        found: asyncio.Future[list[str]] = self._loop.create_future()
        try:
            threading.Thread(target=self._run_query, args=(host, port, found), name="robin-resolve", daemon=True).start()
        except RuntimeError as error:  # the system gives us no thread
            self._slots.release()
            raise OSError(errno.EAGAIN, str(error)) from None
        return interleave(await found)

    def _run_query(self, host: str, port: int, found: "asyncio.Future[list[str]]") -> None:
        """On its thread: run the query and pass the outcome to the loop."""
        hosts: list[str] = []
        failure: Exception | None = None
        try:
            for family, _, _, _, place in self._getaddrinfo(host, port, type=socket.SOCK_STREAM):
                if family in {socket.AF_INET, socket.AF_INET6}:
                    hosts.append(str(place[0]))
        except (OSError, UnicodeError) as error:
            failure = _find_exhaustion() or error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connection attempt is over
            self._loop.call_soon_threadsafe(self._complete, found, hosts, failure)

    def _complete(self, found: "asyncio.Future[list[str]]", hosts: list[str], failure: Exception | None) -> None:
        self._slots.release()
        if found.done():  # the connection attempt was cancelled
            return
        if failure is not None:
            found.set_exception(failure)
        else:
            found.set_result(list(dict.fromkeys(hosts))[:_ADDRESSES_MAX])


def _is_literal(host: str) -> bool:
    for family in (socket.AF_INET6, socket.AF_INET):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


def _find_exhaustion() -> OSError | None:
    """The error of opening a descriptor, None if one can be opened: a resolver that cannot open its files reports any name as unknown."""
    try:
        ends = os.pipe()
    except OSError as error:
        return error
    for end in ends:
        os.close(end)
    return None


def interleave(hosts: list[str]) -> list[str]:
    """Alternate the address families, the resolver's first choice first (RFC 8305 section 4)."""
    first = [host for host in hosts if (":" in host) == (":" in hosts[0])]
    second = [host for host in hosts if (":" in host) != (":" in hosts[0])]
    mixed = [host for pair in zip(first, second, strict=False) for host in pair]
    return mixed + first[len(second) :] + second[len(first) :]
