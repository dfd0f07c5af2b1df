"""Rules that tie: which of two allows of one rank says how a request is treated would be chance. Pure."""

from collections.abc import Iterable, Sequence

from robin.policy.callers import callers_meet
from robin.policy.gateway import PROVIDER_RULE, Rule
from robin.policy.overlap import witness_host, witness_path
from robin.policy.patterns import ANY_PATH, HostKind


def find_ties(rules: Sequence[Rule]) -> Iterable[tuple[Rule, Rule, str]]:
    """Allows of equal rank that may match one request and differ in tls, private, upgrade or roots; with a host that both match.

    The rules of providers differ in upgrades alone, and what one of them allows is allowed.
    """
    found: dict[tuple[int, int], str] = {}
    for alike in _alike(rules):
        for at, one in alike:
            for after, other in alike:
                if after <= at or (at, after) in found:
                    continue
                if (one.tls, one.private, one.upgrades, one.ca_file) == (other.tls, other.private, other.upgrades, other.ca_file):
                    continue
                if one.name.startswith(PROVIDER_RULE) and other.name.startswith(PROVIDER_RULE):
                    continue
                ports = any(one.ports[scheme] & other.ports[scheme] for scheme in one.ports if scheme in other.ports)
                callers = any(callers_meet(a.text, b.text) for a in one.callers for b in other.callers)
                if ports and callers and one.methods.rank == other.methods.rank and (host := _tied_host(one, other)):
                    found[at, after] = host
    for (at, after), host in sorted(found.items()):
        yield rules[at], rules[after], host


def _alike(rules: Sequence[Rule]) -> list[list[tuple[int, Rule]]]:
    """The allows by a host pattern that could tie: patterns of equal rank match one host only if they have one suffix, or are the same."""
    found: dict[tuple[object, ...], list[tuple[int, Rule]]] = {}
    for at, rule in enumerate(rules):
        if rule.allow:
            keys = {(one.text,) if one.kind is HostKind.EXACT else (one.suffix, *one.rank) for one in rule.hosts}
            for key in keys:
                found.setdefault(key, []).append((at, rule))
    return list(found.values())


def _tied_host(one: Rule, other: Rule) -> str:
    """A host that both match with equal rank, also by paths and methods that meet with equal rank; "" if there is none."""
    names = one.methods.names, other.methods.names
    if None not in names and not (names[0] or frozenset()) & (names[1] or frozenset()):
        return ""
    paths = [(a, b) for a in one.paths or (ANY_PATH,) for b in other.paths or (ANY_PATH,) if a.rank == b.rank]
    if not any(witness_path(a, b) is not None for a, b in paths):
        return ""
    hosts = ((a, b) for a in one.hosts for b in other.hosts if a.rank == b.rank)
    return next((host for a, b in hosts if (host := witness_host(a, b))), "")
