"""Resolves names with a stub resolver of our own: absolute names, A and AAAA, no search list and no hosts file; a small cache.

It asks the name servers of the settings, or those of /etc/resolv.conf, through dnspython, which is loaded with the first query. A chain of
more than eight CNAME records, and an answer for another name, is a failure. Nothing is judged here.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.verdict import Permit
from robin.transport.resolve import interleave

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as Stub

_NO_HOSTS: Final = "hosts files are not read: `addresses.hosts` gives a name fixed addresses"
_CACHE_S: Final = 30.0
_CACHE_NAMES: Final = 4096
_CHAIN_MAX: Final = 8
_ANSWERS_MAX: Final = 16


class DnsResolver:
    """A `transport.dial.Resolver`. `hosts` are names with fixed addresses; `servers` are `(host, port)`, empty: those of resolv.conf."""

    __slots__ = ("_cache", "_hosts", "_is_own_listener", "_now", "_on_query", "_resolv_conf", "_servers", "_stub", "_timeout_s")

    def __init__(
        self,
        *,
        servers: Sequence[tuple[str, int]],
        hosts: Mapping[str, Sequence[str]],
        timeout_s: float,
        now: Callable[[], float],
        is_own_listener: Callable[[str, int], bool],
        on_query: Callable[[str, float], None] = lambda _result, _seconds: None,
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        """`on_query(result, seconds)` is called after each resolution that asked a name server."""
        self._on_query = on_query
        self._servers = tuple(servers)
        self._resolv_conf = resolv_conf
        self._hosts = dict(hosts)
        self._timeout_s = timeout_s
        self._now = now
        self._is_own_listener = is_own_listener
        self._stub: Stub | None = None
        self._cache: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    async def resolve(self, permit: Permit) -> list[ResolvedAddress]:
        """Every address of the permitted origin, families interleaved; an address is itself. Raises Fault `dns_failed`, `dns_timeout`."""
        host, port = permit.endpoint.origin.host, permit.endpoint.origin.port
        began = self._now()
        hosts = [host] if _is_literal(host) else await self.lookup(host)
        took_s, is_own = self._now() - began, self._is_own_listener
        return [
            ResolvedAddress(host=found, port=port, own_listener=is_own(found, port), own_host=is_own_host(found, port), dns_s=took_s)
            for found in hosts
        ]

    async def lookup(self, name: str) -> list[str]:
        """The addresses of a name, at least one. Raises Fault."""
        if name in self._hosts:
            return list(self._hosts[name])
        now = self._now()
        cached = self._cache.get(name)
        if cached is not None and now < cached[0]:
            self._cache.move_to_end(name)
            return cached[1]
        result = "cancelled"
        try:
            ttl_s, hosts = await self._query(name)
            if not hosts:
                raise Fault("dns_failed", f"dns_failed: the name has no address; {_NO_HOSTS}")
            result = "ok"
        except Fault as fault:
            result = fault.code
            raise
        finally:
            self._on_query(result, self._now() - now)
        hosts = interleave(hosts)[:_ANSWERS_MAX]
        if ttl_s > 0:
            self._cache[name] = (now + min(ttl_s, _CACHE_S), hosts)
            while len(self._cache) > _CACHE_NAMES:
                self._cache.popitem(last=False)
        return hosts

    async def _query(self, name: str) -> tuple[float, list[str]]:
        """Both families at once: the lower TTL, and the addresses."""
        import dns.exception  # noqa: PLC0415 - loaded with the first query
        import dns.resolver  # noqa: PLC0415

        stub = self._stub or self._build()
        tasks = [self._ask(stub, name, kind) for kind in ("AAAA", "A")]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        hosts: list[str] = []
        ttl_s = _CACHE_S
        failure: BaseException | None = None
        for outcome in found:
            if isinstance(outcome, BaseException):
                failure = outcome
            else:
                hosts += outcome[1]
                ttl_s = min(ttl_s, outcome[0])
        if hosts or failure is None:
            return ttl_s, hosts
        if isinstance(failure, Fault | asyncio.CancelledError):
            raise failure
        if isinstance(failure, dns.exception.Timeout):
            raise Fault("dns_timeout", "dns_timeout: no name server answered in time")
        raise Fault("dns_failed", f"dns_failed: the name does not resolve; {_NO_HOSTS}")

    async def _ask(self, stub: "Stub", name: str, kind: str) -> tuple[float, list[str]]:
        import dns.resolver  # noqa: PLC0415

        try:
            answer = await stub.resolve(f"{name}.", kind, search=False, lifetime=self._timeout_s)
        except dns.resolver.NoAnswer:
            return _CACHE_S, []
        if len(answer.chaining_result.cnames) > _CHAIN_MAX:
            raise Fault("dns_failed", "dns_failed: the chain of CNAME records is too long")
        return float(answer.chaining_result.minimum_ttl), [record.address for record in answer]

    def _build(self) -> "Stub":
        from dns.asyncresolver import Resolver as Stub  # noqa: PLC0415 - 60 ms, paid by the first query
        from dns.exception import DNSException  # noqa: PLC0415
        from dns.nameserver import Do53Nameserver  # noqa: PLC0415

        try:
            stub = Stub(self._resolv_conf, configure=not self._servers)
        except (DNSException, OSError):
            raise Fault("dns_failed", "dns_failed: there is no usable name server in resolv.conf") from None
        if self._servers:
            stub.nameservers = [Do53Nameserver(host, port) for host, port in self._servers]
        stub.search, stub.domain, stub.cache = [], None, None  # type: ignore[assignment]
        stub.timeout = min(2.0, self._timeout_s)
        self._stub = stub
        return stub


def is_own_host(host: str, port: int) -> bool:
    """Whether the kernel would reach this address from itself: then the source that it chooses is the destination."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((host, port))
            return str(probe.getsockname()[0]) == host
    except OSError:
        return False  # there is no route to it


def _is_literal(host: str) -> bool:
    return ":" in host or host.rpartition(".")[2].isdigit()
