"""Names to addresses, asked anew for each connection, on threads that hold up neither the loop nor the exit when a resolver hangs.

The loop's own `getaddrinfo` runs on a few threads that the process joins as it ends: with a dead name server four requests block all
others, and the exit waits for the resolver's patience (10 s and more). Here a thread that hangs costs its place and nothing else.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

_PLACES: Final = 64
_ADDRESSES_MAX: Final = 16

SocketAddress = tuple[int, tuple[str, int]]  # family, (host, port)


class Resolver:
    """At most `places` questions at a time; who comes later stands in line, within the deadline of its own connection attempt."""

    __slots__ = ("_getaddrinfo", "_loop", "_places")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, getaddrinfo: Callable[..., Iterable[Any]] = socket.getaddrinfo, places: int = _PLACES
    ) -> None:
        """`getaddrinfo` is called on a thread and may block."""
        self._loop = loop
        self._getaddrinfo = getaddrinfo
        self._places = asyncio.Semaphore(places)

    async def resolve(self, host: str, port: int) -> list[SocketAddress]:
        """Every address of the name, families interleaved, in the resolver's order; a literal is itself. Raises OSError, UnicodeError."""
        for family in (socket.AF_INET6, socket.AF_INET):
            with contextlib.suppress(OSError):
                socket.inet_pton(family, host)
                return [(family, (host, port))]
        await self._places.acquire()
        answer: asyncio.Future[list[SocketAddress]] = self._loop.create_future()
        try:
            threading.Thread(target=self._ask, args=(host, port, answer), name="robin-resolve", daemon=True).start()
        except RuntimeError as error:  # no thread to be had
            self._places.release()
            raise OSError(str(error)) from None
        return _interleave(await answer)

    def _ask(self, host: str, port: int, answer: "asyncio.Future[list[SocketAddress]]") -> None:
        """On its thread: the question, and the answer handed to the loop."""
        found: list[SocketAddress] = []
        failure: Exception | None = None
        try:
            for family, _, _, _, place in self._getaddrinfo(host, port, type=socket.SOCK_STREAM):
                if family in {socket.AF_INET, socket.AF_INET6}:
                    found.append((family, (str(place[0]), port)))
        except (OSError, UnicodeError) as error:
            failure = _exhaustion() or error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(self._hand_over, answer, found, failure)

    def _hand_over(self, answer: "asyncio.Future[list[SocketAddress]]", found: list[SocketAddress], failure: Exception | None) -> None:
        self._places.release()
        if answer.done():  # whoever asked has left
            return
        if failure is not None:
            answer.set_exception(failure)
        else:
            answer.set_result(list(dict.fromkeys(found))[:_ADDRESSES_MAX])


def _exhaustion() -> OSError | None:
    """Whether there are no descriptors to ask with: a resolver that cannot open its files says of any name that it is unknown."""
    try:
        ends = os.pipe()
    except OSError as error:
        return error
    for end in ends:
        os.close(end)
    return None


def _interleave(found: list[SocketAddress]) -> list[SocketAddress]:
    """RFC 8305 section 4: the families take turns, the resolver's first choice first."""
    first = [entry for entry in found if entry[0] == found[0][0]]
    second = [entry for entry in found if entry[0] != found[0][0]]
    mixed = [entry for pair in zip(first, second, strict=False) for entry in pair]
    return mixed + first[len(second) :] + second[len(first) :]
