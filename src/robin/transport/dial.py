"""The one way out: a connected stream for a Permit, in steps: resolve the name, judge its addresses, connect to one, secure with TLS.

Rules a reader must keep: nothing is connected without a Permit, nor to an address that was not judged; proxy variables of the environment
are not read; the name is resolved anew for each connection.
"""

import asyncio
import errno
import hashlib
import math
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from robin.model.address import Dialled, ResolvedAddress
from robin.model.exhaustion import EXHAUSTED
from robin.model.faults import Fault
from robin.model.limits import StepDeadlines
from robin.model.verdict import Permit
from robin.transport.deadlines import Sweeper, TaskDeadline
from robin.transport.stream import Stream
from robin.transport.tls import UpstreamTls, tls_fault
from robin.transport.tls_stream import connect_tls, open_socket

_STAGGER_S: Final = 0.25  # "Connection Attempt Delay" (RFC 8305 section 5)
_NOTHING_LEFT: Final = EXHAUSTED | {errno.EAGAIN}  # no free local port (connect(2))
_UNROUTABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM, errno.ENETDOWN})

AnyStream = TypeVar("AnyStream", bound=Stream)
Judge = Callable[[Permit, Sequence[ResolvedAddress]], Sequence[ResolvedAddress]]
"""Pure: the addresses that may be connected to, at least one. Raises Fault where there is none, or where one forbids all."""


class Resolver(Protocol):
    """Gives the addresses of the permitted origin, at least one, without judging them. Raises Fault."""

    async def resolve(self, permit: Permit) -> Sequence[ResolvedAddress]:
        """Resolve once."""
        ...


class Dialer:
    """Connects streams. `tls` holds the TLS contexts, None where no origin is https. `connect_s` bounds all steps together, 0: no bound;
    `steps` bounds each of them instead. `sweeper` ends what takes longer, and so it must have been started. `refuse_self`: a connection
    that turns out to be with this host itself is reset and refused by this, unless its address was judged as this host's (`own_host`).

    A plane may replace how names are resolved and judged while the process runs (`use`): the next dial meets it.
    """

    __slots__ = ("_connect_s", "_judge", "_loop", "_refuse_self", "_resolver", "_steps", "_sweeper", "tls")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        *,
        resolver: Resolver,
        judge: Judge,
        tls: UpstreamTls | None,
        connect_s: float,
        steps: StepDeadlines | None = None,
        refuse_self: Callable[[], Fault] | None = None,
    ) -> None:
        self._loop = loop
        self._refuse_self = refuse_self
        self._sweeper = sweeper
        self.use(resolver=resolver, judge=judge, tls=tls, connect_s=connect_s, steps=steps)

    def use(
        self, *, resolver: Resolver, judge: Judge, tls: UpstreamTls | None, connect_s: float, steps: StepDeadlines | None = None
    ) -> None:
        """Dial with these from now on."""
        self._resolver, self._judge, self._connect_s, self._steps, self.tls = resolver, judge, connect_s, steps, tls

    async def dial(self, permit: Permit, build: Callable[[ResolvedAddress], AnyStream]) -> AnyStream:
        """A connected stream to `permit.endpoint`, made by `build(address)`. Raises Fault."""
        step, steps = "resolve", self._steps
        try:
            bound_s = (self._connect_s or math.inf) if steps is None else steps.dns_s
            with TaskDeadline(self._sweeper, self._loop.time() + bound_s) as deadline:
                found = await self._resolver.resolve(permit)
                permitted = self._judge(permit, found)
                context = self._context(permit)
                step = "connect"
                began = self._loop.time()
                if steps is not None:
                    deadline.deadline_at = began + steps.connect_s
                where: ResolvedAddress | socket.socket
                where = address = permitted[0]
                if len(permitted) > 1 or "%" in address.host:  # the loop knows no zones
                    where, address = await connect(self._loop, permitted)
                if context is None:
                    stream = build(address)
                    await open_socket(self._loop, stream, where)
                    connected = self._loop.time()
                else:
                    handshake = await connect_tls(self._loop, where, lambda: build(address), context, permit.endpoint.origin.host)
                    step = "secure"
                    connected = self._loop.time()
                    if steps is not None:
                        deadline.deadline_at = connected + steps.tls_s
                    stream = await handshake
                if self._refuse_self is not None and not address.own_host and _is_with_self(stream):
                    stream.reset()
                    raise self._refuse_self()
                stream.dialled = _describe(stream, connected - began, self._loop.time() - connected)
                return stream
        except TimeoutError:
            raise _timeout_fault(step, together=steps is None) from None
        except ssl.SSLError as error:
            raise tls_fault(error) from None
        except OSError as error:
            raise _connect_fault(error, handshake=step == "secure") from None

    def _context(self, permit: Permit) -> ssl.SSLContext | None:
        """By which the connection is secured; None for cleartext."""
        endpoint = permit.endpoint
        if not endpoint.origin.tls:
            return None
        if self.tls is None:
            raise RuntimeError("an https origin needs TLS contexts")
        return self.tls.client(endpoint.tls).context


def _is_with_self(stream: Stream) -> bool:
    """Whether both ends have the same address."""
    ask = stream.transport.get_extra_info
    return bool(ask("sockname")[0] == ask("peername")[0])


def _describe(stream: Stream, connect_s: float, tls_s: float) -> Dialled:
    tls: ssl.SSLObject | None = stream.transport.get_extra_info("ssl_object")
    if tls is None:
        return Dialled(connect_s=connect_s)
    shown = tls.getpeercert(binary_form=True)
    return Dialled(
        connect_s=connect_s,
        tls_s=tls_s,
        tls=(tls.version() or "").removeprefix("TLSv"),
        cert_sha256=None if shown is None else hashlib.sha256(shown).hexdigest(),
    )


async def connect(loop: asyncio.AbstractEventLoop, addresses: Sequence[ResolvedAddress]) -> tuple[socket.socket, ResolvedAddress]:
    """The first address that accepts, and its socket (RFC 8305 section 5). Raises the OSError of the last attempt if none does.

    An attempt starts 250 ms after the one before it, or at once when that failed. Attempts that lose are closed.
    """
    if len(addresses) == 1:
        return await _connect_one(loop, addresses[0]), addresses[0]
    waiting = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], ResolvedAddress] = {}
    pending: set[asyncio.Task[socket.socket]] = set()
    error: BaseException = OSError(errno.EADDRNOTAVAIL, "no address")
    try:
        while waiting or pending:
            if waiting:
                address = waiting.pop(0)
                attempt = loop.create_task(_connect_one(loop, address))
                attempts[attempt] = address
                pending.add(attempt)
            done, pending = await asyncio.wait(pending, timeout=_STAGGER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (failure := attempt.exception()) is None:
                    return attempt.result(), attempts.pop(attempt)
                error = failure
        raise error
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_loser)


def _close_loser(attempt: "asyncio.Task[socket.socket]") -> None:
    """The attempt ended; it may have connected before its cancellation arrived."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect_one(loop: asyncio.AbstractEventLoop, address: ResolvedAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _timeout_fault(step: str, *, together: bool) -> Fault:
    code = "dns_timeout" if step == "resolve" else "connect_timeout"
    what, bound = {
        "resolve": ("no answer of a name server", "dns"),
        "connect": ("no connection", "connect"),
        "secure": ("no TLS handshake", "tls"),
    }[step]
    if together:
        what, bound = "no connection", "connect"
    return Fault(code, f"{code}: {what} within {{upstream_{bound}_timeout}}")


def _connect_fault(error: OSError, *, handshake: bool) -> Fault:
    if error.errno in _NOTHING_LEFT:
        return Fault("limit_connections", "descriptors: this Robin can open no more; raise `ulimit -n` or lower {max_connections}")
    if handshake:
        return Fault("upstream_tls", "alert: the upstream closed the connection during the TLS handshake")
    if error.errno in _UNROUTABLE:
        return Fault("unroutable", "unroutable: no route to the address of {upstream_url}")
    return Fault("connect_refused", "connect_refused: nothing listens at {upstream_url}")
