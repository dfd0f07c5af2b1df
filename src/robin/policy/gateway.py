"""The gateway's policy: a default-deny decision by caller, host, port, scheme, method and path; pure, whatever the order of rules.

One enforced deny beats every allow; allows are a union; of those that match, the most specific one says how (TLS, private networks, roots).
A CONNECT is judged by what its target alone decides; where a rule must see the requests inside, it is bridged, and each is judged again.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route, RouteDeadlines, TlsProfile
from robin.model.verdict import Denial, Permit, Verdict
from robin.policy.patterns import (
    ANY_METHOD,
    HostKind,
    HostPattern,
    Methods,
    NotCanonical,
    PathPattern,
    Rank,
    canonical_host,
    canonical_path,
    rank,
)

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_AUTHORITY = re.compile(rb"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


class Tls(StrEnum):
    """What becomes of a connection through CONNECT."""

    BRIDGE = "bridge"  # its TLS is opened here
    PASSTHROUGH = "passthrough"  # its TLS stays closed
    TCP = "tcp"  # opaque
    PLAIN = "plain"  # HTTP without TLS


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPattern:
    """`*`, an exact id, or an id with `*` for one segment and a final `/**`; a trust domain is never a wildcard."""

    text: str

    def matches(self, caller: str) -> bool:
        """Whether the id matches; `open` is matched by its own name only."""
        if self.text == "*":
            return caller != "open"
        if "*" not in self.text:
            return caller == self.text
        want, have = self.text.split("/"), caller.split("/")
        if want[-1] == "**":
            want.pop()
            if len(have) <= len(want):
                return False
            have = have[: len(want)]
        return len(want) == len(have) and all(
            (part in {"*", other} and other != "") or part == other for part, other in zip(want, have, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `ports` by scheme, of the schemes that the rule has. `paths` empty is any path. `report`: a deny that only reports."""

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

    @property
    def inspects(self) -> bool:
        """Whether it needs to see requests."""
        return self.methods.names is not None or bool(self.paths) or bool(self.upgrades) or self.tls == "bridge"

    def host_rank(self, host: str) -> Rank | None:
        """The rank of the most specific of its hosts that matches; None: none does."""
        return max((pattern.rank for pattern in self.hosts if pattern.matches(host)), default=None)

    def why_not(self, ask: "Ask") -> str:
        """The first of caller, host, scheme, port, method, path by which it does not match; empty: it matches."""
        if not any(pattern.matches(ask.caller) for pattern in self.callers):
            return "caller"
        if self.host_rank(ask.host) is None:
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
    """`code` empty: permitted. `rule` is the one that decided, None: none did. `would_deny`: only because denials are reported alone."""

    code: str
    rule: Rule | None
    would_deny: str = ""
    denied_by: str = ""


class RuleSet:
    """Decides; knows nothing of requests and connections."""

    __slots__ = ("report", "rules")

    def __init__(self, rules: Sequence[Rule], *, report: bool = False) -> None:
        self.rules = tuple(rules)
        self.report = report

    def decide(self, ask: Ask) -> Decision:
        """The decision about a request, or about a CONNECT: of the latter only rules without method and path can deny."""
        matching = [rule for rule in self.rules if not rule.why_not(ask)]
        denies = [
            rule for rule in matching if not rule.allow and (ask.method is not None or (rule.methods.names is None and not rule.paths))
        ]
        enforced = [rule for rule in denies if not rule.report]
        allows = [rule for rule in matching if rule.allow]
        upgrading = [rule for rule in allows if not ask.upgrade or ask.upgrade in rule.upgrades]
        allow = self._first(upgrading, ask) or self._first(allows, ask)
        if enforced:
            denied = self._first(enforced, ask)
            assert denied is not None
            if self.report:
                return Decision(code="", rule=allow, would_deny="rule_denied", denied_by=denied.name)
            return Decision(code="rule_denied", rule=denied, denied_by=denied.name)
        if allow is None:
            return Decision(code="", rule=None, would_deny="rule_default") if self.report else Decision(code="rule_default", rule=None)
        if not upgrading:
            return Decision(code="upgrade_denied", rule=allow)
        if denies:
            denied = self._first(denies, ask)
            assert denied is not None
            return Decision(code="", rule=allow, would_deny="rule_denied", denied_by=denied.name)
        return Decision(code="", rule=allow)

    @staticmethod
    def _first(rules: Iterable[Rule], ask: Ask) -> Rule | None:
        """The most specific rule; of those with one rank the first by name, so that the order in the file does not matter."""
        return min(rules, key=lambda rule: (tuple(-part for part in rule.rank_for(ask)), rule.name), default=None)

    def bridges(self, ask: Ask) -> bool:
        """Whether TLS to this target must be opened: a deny with methods or paths forces it, else the most specific allow decides."""
        reaching = [rule for rule in self.rules if not rule.why_not(ask)]
        if any(not rule.allow and (rule.methods.names is not None or rule.paths) for rule in reaching):
            return True
        allows = [rule for rule in reaching if rule.allow]
        best = max((rule.host_rank(ask.host) or () for rule in allows), default=())
        return any(rule.inspects for rule in allows if rule.host_rank(ask.host) == best)

    def needs_canonical_path(self, host: str, port: int) -> bool:
        """Whether a rule with paths can match this host and port, for any caller."""
        return any(
            rule.paths and rule.host_rank(host) is not None and any(port in ports for ports in rule.ports.values()) for rule in self.rules
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectPlan:
    """What a permitted CONNECT leads to. `tls`: what becomes of TLS inside it, None: only http is allowed; `http`: http is."""

    permit: Permit
    tls: Tls | None
    http: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNotes:
    """What the record has about a route beside its name."""

    would_deny: str = ""
    denied_by: str = ""


NO_NOTES: Final = RouteNotes()


@dataclass(slots=True, kw_only=True)
class _Routes:
    """The routes in use, by rule and outcome: built once, shared by all Permits."""

    built: dict[tuple[str, str, str], Route] = field(default_factory=dict)
    notes: dict[Route, RouteNotes] = field(default_factory=dict)


class GatewayPolicy:
    """A `proxy.engine.Policy`. `name` is that of this gateway in Via; `tls` are the roots where a rule has none of its own."""

    __slots__ = ("_deadlines", "_header_rules", "_name", "_routes", "_tls", "generation", "rules")

    def __init__(
        self, rules: RuleSet, *, name: str, header_rules: HeaderRules, deadlines: RouteDeadlines, tls: TlsProfile, generation: int = 1
    ) -> None:
        self.rules = rules
        self.generation = generation
        self._name = name.encode("ascii")
        self._header_rules = header_rules
        self._deadlines = deadlines
        self._tls = tls
        self._routes = _Routes()

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """A Permit or a Denial for one request head."""
        try:
            if head.via is not None and self._is_loop(head.via):
                return Denial(code="loop", detail="own_via: the request went through this gateway already")
            if head.method == "CONNECT":
                plan = self.plan(head, caller)
                return plan if isinstance(plan, Denial) else plan.permit
            return self._decide_request(head, caller)
        except NotCanonical as error:
            return Denial(code="authority_invalid", detail=f"{error}: the target has no canonical host and port")

    def _is_loop(self, via: bytes) -> bool:
        return any(entry.split()[1:2] == [self._name] for entry in via.split(b","))

    def plan(self, head: RequestHead, caller: Caller) -> ConnectPlan | Denial:
        """What a CONNECT leads to. Raises NotCanonical."""
        host, port = parse_authority(head.target, None)
        host_field = parse_authority(head.host, port)
        if host_field != (host, port):
            return Denial(code="authority_mismatch", detail="host: the Host of a CONNECT is its target")
        asks = {scheme: Ask(caller=caller.id, scheme=scheme, host=host, port=port) for scheme in ("tcp", "https", "http")}
        decisions = {scheme: self.rules.decide(ask) for scheme, ask in asks.items()}
        open_to = [scheme for scheme, decision in decisions.items() if not decision.code]
        if not open_to:
            scheme = next((scheme for scheme, decision in decisions.items() if decision.code == "rule_denied"), "https")
            return self._deny(asks[scheme], decisions[scheme], "CONNECT", caller)
        real = [scheme for scheme in open_to if decisions[scheme].would_deny != "rule_default"]
        scheme = (real or ["tcp"])[0]  # where nothing but the report mode lets it pass, it is an opaque tunnel
        decision, ask = decisions[scheme], asks[scheme]
        if scheme == "tcp":
            return ConnectPlan(permit=self._permit(ask, decision, caller, dial="tcp"), tls=Tls.TCP, http=False)
        http = "http" in real
        if scheme == "http":
            return ConnectPlan(permit=self._permit(ask, decision, caller, dial="http"), tls=None, http=True)
        tls = Tls.BRIDGE if self.rules.bridges(ask) else Tls.PASSTHROUGH
        return ConnectPlan(permit=self._permit(ask, decision, caller, dial="https" if tls is Tls.BRIDGE else "tcp"), tls=tls, http=http)

    def _decide_request(self, head: RequestHead, caller: Caller) -> Verdict:
        connect = caller.connect
        if head.target_scheme is None and connect is None:
            return Denial(code="misdirected", detail="origin_form: this is a forward proxy; send CONNECT or a target in absolute-form")
        scheme = connect.scheme if connect is not None else (head.target_scheme or b"").decode("ascii")
        if connect is not None:
            host, port = connect.host, connect.port
            if head.target_scheme is not None and head.target_scheme.decode("ascii") != scheme:
                return Denial(code="authority_mismatch", detail="scheme: the target has another scheme than its CONNECT")
            if head.target_authority is not None and parse_authority(head.target_authority, DEFAULT_PORTS[scheme]) != (host, port):
                return Denial(code="authority_mismatch", detail="target: the target is not the authority of its CONNECT")
        else:
            host, port = parse_authority(head.target_authority or b"", DEFAULT_PORTS[scheme])
            if scheme == "https" and caller.exposed:
                return Denial(
                    code="scheme_unsupported", detail="https: an https target needs a listener on loopback or with TLS; use CONNECT"
                )
        if parse_authority(head.host, DEFAULT_PORTS[scheme]) != (host, port):
            return Denial(code="authority_mismatch", detail="host: the Host is not the target")
        try:
            path = "*" if head.target == b"*" else canonical_path(head.path)
        except NotCanonical as error:
            if self.rules.needs_canonical_path(host, port):
                return Denial(
                    code="path_not_canonical",
                    detail=f"{error}: rules for this host have paths, and servers read this path in more than one way",
                    origin=Ask(caller=caller.id, scheme=scheme, host=host, port=port).origin,
                )
            path = head.path.decode("latin-1")
        upgrade = "websocket" if head.upgrade == b"websocket" else ""
        ask = Ask(caller=caller.id, scheme=scheme, host=host, port=port, method=head.method, path=path, upgrade=upgrade)
        decision = self.rules.decide(ask)
        if decision.code:
            return self._deny(ask, decision, head.method, caller)
        return self._permit(ask, decision, caller, dial=scheme)

    def _deny(self, ask: Ask, decision: Decision, method: str, caller: Caller) -> Denial:
        what = f"{caller.id} to {method} {ask.host}:{ask.port}"
        detail = {
            "rule_default": f"rule_default: no rule allows {what}",
            "rule_denied": f"rule_denied: a rule denies {what}",
            "upgrade_denied": f"upgrade_denied: no rule allows {what} with an upgrade",
        }[decision.code]
        return Denial(code=decision.code, detail=detail, rule=decision.rule.name if decision.rule else "", origin=ask.origin)

    def _permit(self, ask: Ask, decision: Decision, caller: Caller, *, dial: str) -> Permit:
        """`dial`: the scheme that is spoken to the origin, `tcp` where the connection stays closed to us."""
        rule = decision.rule
        origin = ask.origin
        profile = None
        if dial == "https":
            profile = self._tls if rule is None or rule.ca_file is None else TlsProfile(ca_file=rule.ca_file, minimum=self._tls.minimum)
        elif origin.scheme != dial:
            origin = Origin(scheme=dial, host=origin.host, port=origin.port, authority=origin.authority)
        endpoint = Endpoint(origin=origin, tls=profile, generation=self.generation, private=() if rule is None else rule.private)
        return Permit(route=self._route(rule, decision), endpoint=endpoint, target=None, caller=caller)

    def _route(self, rule: Rule | None, decision: Decision) -> Route:
        key = ("" if rule is None else rule.name, decision.would_deny, decision.denied_by)
        route = self._routes.built.get(key)
        if route is None:
            upgrades = frozenset() if rule is None else frozenset(("GET", name.encode("ascii")) for name in rule.upgrades)
            route = Route(name=key[0], header_rules=self._header_rules, upgrades=upgrades, deadlines=self._deadlines)
            self._routes.built[key] = route
            self._routes.notes[route] = RouteNotes(would_deny=decision.would_deny, denied_by=decision.denied_by)
        return route

    def notes(self, route: Route) -> RouteNotes:
        """What the record has about the route beside its name."""
        return self._routes.notes.get(route, NO_NOTES)


def parse_authority(text: bytes, default_port: int | None) -> tuple[str, int]:
    """Canonical host and port of `host[:port]`. Raises NotCanonical."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise NotCanonical("authority")
    try:
        host = canonical_host(match[1].decode("ascii"))
    except UnicodeDecodeError:
        raise NotCanonical("not_ascii") from None
    port = default_port if match[2] is None else int(match[2])
    if port is None or not 0 < port < 65536:
        raise NotCanonical("port")
    return host, port


def find_ties(rules: Sequence[Rule]) -> Iterable[tuple[Rule, Rule, HostPattern]]:
    """Allows of equal rank that may match one request and differ in tls, private, upgrade or roots; with a host pattern of both."""
    allows = [rule for rule in rules if rule.allow]
    for index, one in enumerate(allows):
        for other in allows[index + 1 :]:
            if (one.tls, one.private, one.upgrades, one.ca_file) == (other.tls, other.private, other.upgrades, other.ca_file):
                continue
            shared = set(one.hosts) & set(other.hosts)
            ports = any(one.ports[scheme] & other.ports[scheme] for scheme in one.ports if scheme in other.ports)
            callers = one.callers == other.callers or bool(set(one.callers) & set(other.callers))
            if shared and ports and callers and one.paths == other.paths and one.methods == other.methods:
                yield one, other, min(shared, key=lambda pattern: pattern.text)


def is_exact(rule: Rule) -> bool:
    """Whether every host of the rule is exact."""
    return all(pattern.kind is HostKind.EXACT for pattern in rule.hosts)


__all__ = [
    "Ask",
    "CallerPattern",
    "ConnectPlan",
    "Decision",
    "GatewayPolicy",
    "Rule",
    "RuleSet",
    "Tls",
    "find_ties",
    "is_exact",
    "parse_authority",
    "rank",
]
