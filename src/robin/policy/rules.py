"""Rules of the gateway: what one says and matches, and what a set of them decides, whatever their order. Pure.

One enforced deny beats every allow; allows are a union; of those that match, the most specific one says how (TLS, private networks, roots).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from robin.model.origin import Origin
from robin.policy.callers import CallerPattern
from robin.policy.patterns import ANY_METHOD, HostKind, HostPattern, Methods, PathPattern, Rank
from robin.policy.providers import ProviderPermit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
PROVIDER_RULE: Final = "provider:"
"""How the names of the rules begin that providers add."""


class Tls(StrEnum):
    """What becomes of a connection through CONNECT."""

    BRIDGE = "bridge"  # its TLS is opened here
    PASSTHROUGH = "passthrough"  # its TLS stays closed
    TCP = "tcp"  # opaque


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `ports` by scheme, of the schemes that the rule has. `paths` empty is any path. `report`: a deny that only reports.

    `encoded_slash`: its paths are compared with `%2F` as a character of a segment.
    """

    name: str
    allow: bool
    hosts: tuple[HostPattern, ...]
    ports: dict[str, frozenset[int]]
    report: bool = False
    callers: tuple[CallerPattern, ...] = (CallerPattern(text="*"),)
    methods: Methods = ANY_METHOD
    paths: tuple[PathPattern, ...] = ()
    upgrades: frozenset[str] = frozenset()
    tls: str = "auto"
    private: tuple[str, ...] = ()
    ca_file: str | None = None
    encoded_slash: bool = False

    @property
    def inspects(self) -> bool:
        """Whether it needs to see requests."""
        return self.methods.names is not None or bool(self.paths) or bool(self.upgrades) or self.tls == "bridge"

    def host_rank(self, host: str) -> Rank | None:
        """The rank of the most specific of its hosts that matches; None: none does."""
        return max((pattern.rank for pattern in self.hosts if pattern.matches(host)), default=None)

    def has_host(self, host: str) -> bool:
        """Whether one of its hosts matches."""
        return any(pattern.matches(host) for pattern in self.hosts)

    def matches(self, ask: "Ask") -> bool:
        """Whether it is about this, the cheap questions first."""
        return ask.port in self.ports.get(ask.scheme, ()) and self.has_host(ask.host) and not self.why_not(ask)

    def why_not(self, ask: "Ask") -> str:
        """The first of caller, host, scheme, port, method, path by which it does not match; empty: it matches."""
        if not any(pattern.matches(ask.caller) for pattern in self.callers):
            return "caller"
        if not self.has_host(ask.host):
            return "host"
        if ask.scheme not in self.ports:
            return "scheme"
        if ask.port not in self.ports[ask.scheme]:
            return "port"
        if ask.method is not None and not self.methods.matches(ask.method):
            return "method"
        if ask.method is not None and self.paths and not any(pattern.matches(ask.path) for pattern in self.paths):
            return "path"
        return ""

    def rank_for(self, ask: "Ask") -> Rank:
        """How specific it is for something that it matches."""
        paths = [pattern for pattern in self.paths if ask.method is not None and pattern.matches(ask.path)]
        best = max((pattern.rank for pattern in paths), default=(0, 0, 0, 0))
        return (*(self.host_rank(ask.host) or ()), *best, *self.methods.rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for, in canonical form. `method` None: a CONNECT, of which method and path are not known."""

    caller: str
    scheme: str
    host: str
    port: int
    method: str | None = None
    path: str = ""
    upgrade: str = ""

    @property
    def origin(self) -> Origin:
        """The origin that would be dialled."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        authority = name if DEFAULT_PORTS.get(self.scheme) == self.port else f"{name}:{self.port}"
        return Origin(scheme=self.scheme, host=self.host, port=self.port, authority=authority.encode("ascii"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`code` empty: permitted. `rule` is the one that decided, None: none did. `would_deny`: only because denials are reported alone.

    `treated_as`: the allow whose private networks and roots are used; of what no rule allows that of its caller, host, scheme and port.
    """

    code: str
    rule: Rule | None
    would_deny: str = ""
    denied_by: str = ""
    treated_as: Rule | None = None


class RuleSet:
    """Decides; knows nothing of requests and connections."""

    __slots__ = ("_by_place", "report", "rules")

    def __init__(self, rules: Sequence[Rule], *, report: bool = False) -> None:
        self.rules = tuple(rules)
        self.report = report
        self._by_place: dict[str, list[Rule]] = {}  # by exact host, and by the `.S` of a wildcard; `**` alone under ""
        for rule in self.rules:
            for place in dict.fromkeys(pattern.text if pattern.kind is HostKind.EXACT else pattern.suffix for pattern in rule.hosts):
                self._by_place.setdefault(place, []).append(rule)

    def _near(self, host: str) -> Iterable[Rule]:
        """The rules that can have this host, each once: all that are looked at, however many there are."""
        places = self._by_place
        found = [*places.get(host, ()), *places.get("", ())]
        at = host.find(".")
        while at >= 0:
            if (more := places.get(host[at:])) is not None:
                found += more
            at = host.find(".", at + 1)
        return {id(rule): rule for rule in found}.values() if len(found) > 1 else found

    def decide(self, ask: Ask) -> Decision:
        """The decision about a request, or about a CONNECT: of the latter only rules without method and path can deny."""
        matching = [rule for rule in self._near(ask.host) if rule.matches(ask)]
        denies = [
            rule for rule in matching if not rule.allow and (ask.method is not None or (rule.methods.names is None and not rule.paths))
        ]
        enforced = [rule for rule in denies if not rule.report]
        allows = [rule for rule in matching if rule.allow]
        upgrading = [rule for rule in allows if not ask.upgrade or ask.upgrade in rule.upgrades]
        allow = self._first(upgrading, ask) or self._first(allows, ask)
        denied = self._first(enforced, ask) or self._first(denies, ask)
        if enforced and not self.report:
            return Decision(code="rule_denied", rule=denied, denied_by="" if denied is None else denied.name)
        if allow is None and not enforced:
            if not self.report:
                return Decision(code="rule_default", rule=None)
            return Decision(code="", rule=None, would_deny="rule_default", treated_as=self._near_miss(ask))
        if allow is not None and not upgrading:
            return Decision(code="upgrade_denied", rule=allow)
        if denied is not None:
            treated_as = allow or self._near_miss(ask)
            return Decision(code="", rule=allow, would_deny="rule_denied", denied_by=denied.name, treated_as=treated_as)
        return Decision(code="", rule=allow, treated_as=allow)

    def _near_miss(self, ask: Ask) -> Rule | None:
        """The allow that only the method or the path misses."""
        target = replace(ask, method=None)
        return self._first([rule for rule in self._near(ask.host) if rule.allow and rule.matches(target)], target)

    @staticmethod
    def _first(rules: Sequence[Rule], ask: Ask) -> Rule | None:
        """The most specific rule; of those with one rank the first by name, so that the order in the file does not matter."""
        if len(rules) < 2:
            return rules[0] if rules else None
        return min(rules, key=lambda rule: (tuple(-part for part in rule.rank_for(ask)), rule.name), default=None)

    def bridges(self, ask: Ask) -> bool:
        """Whether TLS to this target must be opened: a deny with methods or paths forces it, else the most specific allow decides."""
        reaching = [rule for rule in self._near(ask.host) if rule.matches(ask)]
        if any(not rule.allow and (rule.methods.names is not None or rule.paths) for rule in reaching):
            return True
        allows = [rule for rule in reaching if rule.allow]
        best = max((rule.host_rank(ask.host) or () for rule in allows), default=())
        return any(rule.inspects for rule in allows if rule.host_rank(ask.host) == best)

    def path_readers(self, host: str, port: int) -> list[Rule]:
        """The rules with paths that can match this host and port, for any caller: there a path must be canonical."""
        return [
            rule for rule in self._near(host) if rule.paths and rule.has_host(host) and any(port in ports for ports in rule.ports.values())
        ]

    def looks_at_requests(self, host: str, port: int) -> bool:
        """Whether a rule that can match this host and port has methods or paths, for any caller."""
        return any(
            (rule.paths or rule.methods.names is not None) and rule.has_host(host) and any(port in ports for ports in rule.ports.values())
            for rule in self._near(host)
        )


def provider_rule(permit: ProviderPermit) -> Rule:
    """The allow rule `provider:NAME` that attaching a provider adds. TLS of a tunnel stays closed."""
    return Rule(
        name=PROVIDER_RULE + permit.provider,
        allow=True,
        hosts=(permit.host,),
        ports={permit.scheme: frozenset({permit.port})},
        callers=tuple(CallerPattern(text=text) for text in sorted(permit.callers)),
        methods=ANY_METHOD if permit.tunnel else permit.methods,
        paths=() if permit.tunnel or permit.path.is_any else (permit.path,),
        upgrades=frozenset({"websocket"}) if permit.upgrade else frozenset(),
        tls="passthrough" if permit.tunnel else "auto",
        private=permit.allowed_ips if permit.tunnel else (),
        encoded_slash=permit.encoded_slash,
    )


def is_exact(rule: Rule) -> bool:
    """Whether every host of the rule is exact."""
    return all(pattern.kind is HostKind.EXACT for pattern in rule.hosts)
