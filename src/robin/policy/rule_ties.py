"""Rules that tie: which of two allows of one rank says how a request is treated would be chance. Pure."""

import itertools
from collections.abc import Iterable, Sequence

from robin.policy.callers import callers_meet
from robin.policy.overlap import witness_host, witness_path
from robin.policy.patterns import ANY_PATH, HostKind
from robin.policy.rules import PROVIDER_RULE, Rule


def find_ties(rules: Sequence[Rule]) -> Iterable[tuple[Rule, Rule, str]]:
    """Allows of equal rank that may match one request and differ in tls, private, upgrade or roots; with a host that both match.

    The rules of providers differ in upgrades alone, and what one of them allows is allowed.
    """
    found: dict[tuple[int, int], str] = {}
    for groups in _alike(rules):
        for group, others in itertools.combinations(groups, 2):
            for pair in itertools.product(group, others):
                at, after = sorted(pair)
                if (at, after) not in found and (host := tied_host(rules[at], rules[after])):
                    found[at, after] = host
    for (at, after), host in sorted(found.items()):
        yield rules[at], rules[after], host


def _alike(rules: Sequence[Rule]) -> Iterable[list[list[int]]]:
    """The allows that could tie, by what they say about how a request is treated: those that say the same never tie.

    Patterns of equal rank match one host only if they have one suffix, or are the same; one path only if they have one text before their
    first `*`, or are the same.
    """
    found: dict[tuple[object, ...], dict[tuple[object, ...], list[int]]] = {}
    for at, rule in enumerate(rules):
        if not rule.allow:
            continue
        treatment = rule.tls, rule.private, rule.upgrades, rule.ca_file
        hosts = {(one.text,) if one.kind is HostKind.EXACT else (one.suffix, *one.rank) for one in rule.hosts}
        paths = {(one.text.partition("*")[0], *one.rank) for one in rule.paths or (ANY_PATH,)}
        for host, path in itertools.product(hosts, paths):
            found.setdefault((host, path, rule.methods.rank), {}).setdefault(treatment, []).append(at)
    return (list(groups.values()) for groups in found.values() if len(groups) > 1)


def tied_host(one: Rule, other: Rule) -> str:
    """A host that both match with equal rank, also by callers, ports, paths and methods that meet; "" if there is none."""
    if one.name.startswith(PROVIDER_RULE) and other.name.startswith(PROVIDER_RULE):
        return ""
    ports = any(one.ports[scheme] & other.ports[scheme] for scheme in one.ports if scheme in other.ports)
    callers = any(callers_meet(a.text, b.text) for a in one.callers for b in other.callers)
    names = one.methods.names, other.methods.names
    if not (ports and callers):
        return ""
    if None not in names and not (names[0] or frozenset()) & (names[1] or frozenset()):
        return ""
    paths = [(a, b) for a in one.paths or (ANY_PATH,) for b in other.paths or (ANY_PATH,) if a.rank == b.rank]
    if not any(witness_path(a, b) is not None for a, b in paths):
        return ""
    hosts = ((a, b) for a in one.hosts for b in other.hosts if a.rank == b.rank)
    return next((host for a, b in hosts if (host := witness_host(a, b))), "")
