"""The gateway's resolver: absolute names only, a short cache, bounded chains, and one family where the other fails."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import dns.message
import dns.nameserver
import dns.rcode
import dns.rrset
import pytest
from tests.fuzz.fuzz_dns import Canned

from robin.model.faults import Fault
from robin.testing.manual_clock import ManualClock
from robin.transport.dns import DnsResolver

Query = dns.message.QueryMessage


class Asked:
    """A resolver whose one name server gives `answer(name, type)`: lines of records, or None for SERVFAIL. `seen` are the questions."""

    def __init__(self, answer: Callable[[str, str], list[str] | None], *, resolv_conf: Path | None = None) -> None:
        self.clock = ManualClock()
        self.seen: list[tuple[str, str]] = []
        self.results: list[str] = []
        self._answer = answer
        self.resolver = DnsResolver(
            servers=[] if resolv_conf else [("192.0.2.1", 53)],
            hosts={},
            timeout_s=2.0,
            now=self.clock.monotonic,
            is_own_listener=lambda *_: False,
            on_query=lambda result, _: self.results.append(result),
            resolv_conf=str(resolv_conf or ""),
        )
        self.resolver._build().nameservers = [Canned(self._reply)]

    def _reply(self, request: Query) -> bytes:
        question = request.question[0]
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.seen.append((name, kind))
        message, lines = dns.message.make_response(request), self._answer(name, kind)
        if lines is None:
            message.set_rcode(dns.rcode.SERVFAIL)
        message.answer = [dns.rrset.from_text(*line.split(" ", 4)) for line in lines or []]
        return bytes(message.to_wire())

    async def code(self, name: str) -> str:
        """Of the fault."""
        with pytest.raises(Fault) as refused:
            await self.resolver.lookup(name)
        return refused.value.code


async def test_a_search_list_of_resolv_conf_is_not_used(tmp_path: Path) -> None:  # E24
    file = tmp_path / "resolv.conf"
    file.write_text("search evil.test\ndomain evil.test\noptions ndots:5\nnameserver 192.0.2.1\n")
    asked = Asked(lambda name, kind: [f"{name} 5 IN A 8.8.8.8"] if "evil" in name and kind == "A" else [], resolv_conf=file)
    for name in ("single", "a.test", "a.b.c.test"):
        assert await asked.code(name) == "dns_failed"
    assert {name for name, _ in asked.seen} == {"single.", "a.test.", "a.b.c.test."}


@pytest.mark.parametrize("text", [None, "", "search evil.test\n"])
async def test_without_a_name_server_every_name_fails(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "resolv.conf"
    if text is not None:
        file.write_text(text)
    resolver = DnsResolver(
        servers=[], hosts={}, timeout_s=2.0, now=ManualClock().monotonic, is_own_listener=lambda *_: False, resolv_conf=str(file)
    )
    with pytest.raises(Fault, match="dns_failed: there is no usable name server"):
        await resolver.lookup("a.test")


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(0, 0), (5, 5), (300, 30), (2147483647, 30), (4294967295, 0)])
async def test_an_answer_is_kept_for_its_ttl_and_at_most_for_30_s(ttl_s: int, kept_s: int) -> None:  # 2^31 and more is 0: RFC 2181, 8
    asked = Asked(lambda name, kind: [f"{name} {ttl_s} IN A 8.8.8.8"] if kind == "A" else [])
    assert await asked.resolver.lookup("a.test") == ["8.8.8.8"]
    for later_s, queries in ((0, 2 if kept_s else 4), (kept_s, 4 if kept_s else 6)):
        asked.clock.advance(later_s)
        await asked.resolver.lookup("a.test")
        assert len(asked.seen) == queries
    assert set(asked.results) == {"ok"}


@pytest.mark.parametrize(("links", "found"), [(1, True), (8, True), (9, False)])
async def test_a_chain_of_aliases_has_at_most_eight_links(links: int, found: bool) -> None:
    def chain(name: str, kind: str) -> list[str]:
        names = [name, *(f"n{at}.test." for at in range(links))]
        lines = [f"{one} 5 IN CNAME {other}" for one, other in pairwise(names)]
        return [*lines, f"{names[-1]} 5 IN A 8.8.8.8"] if kind == "A" else []

    asked = Asked(chain)
    if found:
        assert await asked.resolver.lookup("a.test") == ["8.8.8.8"]
    else:
        assert await asked.code("a.test") == "dns_failed"


async def test_an_address_of_another_name_is_none() -> None:
    asked = Asked(lambda _, kind: ["other.test. 5 IN A 8.8.8.8"] if kind == "A" else [])
    assert await asked.code("a.test") == "dns_failed"


async def test_one_family_is_enough_where_the_other_fails() -> None:
    asked = Asked(lambda name, kind: [f"{name} 5 IN AAAA 2606::1"] if kind == "AAAA" else None)
    assert await asked.resolver.lookup("a.test") == ["2606::1"]
