"""The gateway's policy: a default-deny decision by caller, host, port, scheme, method and path; pure, whatever the order of rules.

One enforced deny beats every allow; allows are a union; of those that match, the most specific one says how (TLS, private networks, roots).
A CONNECT is judged by what its target alone decides; where a rule must see the requests inside, it is bridged, and each is judged again.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route, RouteDeadlines, TlsProfile
from robin.model.secret import Secret
from robin.model.verdict import Denial, LocalResponse, Permit, Verdict
from robin.policy.callers import CallerPattern
from robin.policy.kept_permits import Kept, KeptPermits, Key
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
from robin.policy.providers import NOWHERE, Place, ProviderPermit, Providers
from robin.policy.select import NOTHING, BoundRequest, Selection

if TYPE_CHECKING:
    from robin.policy.reverse import ReversePolicy

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PLACES_KEPT: Final = 1024  # callers choose the hosts that they ask for
PROVIDER_RULE: Final = "provider:"
"""How the names of the rules begin that providers add."""
REWRITES: Final = frozenset(b"x-http-method x-http-method-override x-method-override x-original-url x-rewrite-url".split())
"""Fields in which a client gives another method or path than that of its request line, and some frameworks take it."""
_AUTHORITY = re.compile(rb"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConnectPermit(Permit):
    """Leave for a CONNECT. `tls`: what becomes of TLS inside it, None: only http is allowed; `http`: http is."""

    tls: Tls | None
    http: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectJudgement:
    """`ask` has the scheme by which a CONNECT is judged; `tls` and `http` are as in its permit, and mean nothing where it is denied."""

    ask: Ask
    decision: Decision
    place: Place = NOWHERE
    tls: Tls | None = None
    http: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteNotes:
    """What the record has about a route beside its name."""

    would_deny: str = ""
    denied_by: str = ""
    upgrading: bool = False
    route: str = ""


NO_NOTES: Final = RouteNotes()


@dataclass(slots=True, kw_only=True)
class _Routes:
    """The routes in use, by rule and outcome: built once, shared by all Permits."""

    built: dict[tuple[str, frozenset[str], str, str, bool, bool], Route] = field(default_factory=dict)
    notes: dict[Route, RouteNotes] = field(default_factory=dict)


class GatewayPolicy:
    """A `proxy.engine.Policy`. `name` is that of this gateway in Via; `tls` are the roots where a rule has none of its own.

    `reverse` is the policy of the reverse listeners of the same generation, which `planes/gateway/policy.py` puts there.
    """

    __slots__ = (
        "_deadlines",
        "_header_rules",
        "_kept",
        "_local",
        "_mark",
        "_name",
        "_paths",
        "_plain_rules",
        "_routes",
        "_tls",
        "generation",
        "providers",
        "reverse",
        "rules",
    )

    def __init__(
        self,
        rules: RuleSet,
        *,
        name: str,
        header_rules: HeaderRules,
        deadlines: RouteDeadlines,
        tls: TlsProfile,
        generation: int = 1,
        providers: Providers | None = None,
        local: Callable[[RequestHead], LocalResponse | None] = lambda _: None,
    ) -> None:
        """`local`: what the gateway itself answers among the requests in origin-form. Pure."""
        self.rules = rules
        self.reverse: ReversePolicy | None = None
        self.generation = generation
        self.providers = providers or Providers()
        self._name = name.encode("ascii")
        self._header_rules = header_rules
        self._plain_rules = replace(header_rules, strip=header_rules.strip | REWRITES)
        self._deadlines = deadlines
        self._tls = tls
        self._routes = _Routes()
        self._local = local
        self._kept = KeptPermits()
        self._mark = object()  # stands for this policy on heads that it has judged, which may outlive it
        self._paths: dict[tuple[str, int], tuple[bool, bool]] = {}  # by host and port: whether paths are looked at, and may hold %2F

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """A Permit or a Denial for one request head. A head that repeats on its connection is permitted as it was."""
        judged = head.judged
        if judged is not None and judged[0] is self._mark and judged[1] is caller and isinstance(judged[2], Permit):
            return judged[2]
        try:
            if head.via is not None and is_loop(head.via, self._name):
                return Denial(code="loop", detail="own_via: the request went through this gateway already")
            if head.method == "CONNECT":
                return self._decide_connect(head, caller)
            verdict = self._decide_request(head, caller)
            if isinstance(verdict, Permit):
                head.judged = self._mark, caller, verdict
            return verdict
        except NotCanonical as error:
            return Denial(code="authority_invalid", detail=f"{error}: the target has no canonical host and port")

    def _decide_connect(self, head: RequestHead, caller: Caller) -> ConnectPermit | Denial:
        """Raises NotCanonical."""
        host, port = parse_authority(head.target, None)
        host_field = parse_authority(head.host, port)
        if host_field != (host, port):
            return Denial(code="authority_mismatch", detail="host: the Host of a CONNECT is its target")
        judged = self.judge_connect(caller.id, host, port)
        ask, decision, tls = judged.ask, judged.decision, judged.tls
        if decision.code:
            return self._deny(ask, decision, "CONNECT", caller)
        dial = "http" if tls is None else "https" if tls is Tls.BRIDGE else "tcp"
        permit = self._permit(ask, decision, caller, judged.place, dial=dial)
        return ConnectPermit(route=permit.route, endpoint=permit.endpoint, target=None, caller=caller, tls=tls, http=judged.http)

    def judge_connect(self, caller: str, host: str, port: int) -> "ConnectJudgement":
        """What a CONNECT is taken for, by which of the schemes that may be spoken inside it, and what is decided about it."""
        asks = {scheme: Ask(caller=caller, scheme=scheme, host=host, port=port) for scheme in ("tcp", "https", "http")}
        decisions = {scheme: self.rules.decide(ask) for scheme, ask in asks.items()}
        open_to = [scheme for scheme, decision in decisions.items() if not decision.code]
        if not open_to:
            scheme = next((scheme for scheme, decision in decisions.items() if decision.code == "rule_denied"), "https")
            return ConnectJudgement(ask=asks[scheme], decision=decisions[scheme])
        real = [scheme for scheme in open_to if decisions[scheme].would_deny != "rule_default"]
        scheme = (real or ["tcp"])[0]  # where nothing but the report mode lets it pass, it is an opaque tunnel
        ask, decision = asks[scheme], decisions[scheme]
        if scheme == "tcp":
            return ConnectJudgement(ask=ask, decision=decision, tls=Tls.TCP)
        place = self.providers.place(caller, scheme, host, port)
        if scheme == "http":
            return ConnectJudgement(ask=ask, decision=decision, place=place, http=True)
        tls = Tls.BRIDGE if self.bridges(ask, place) else Tls.PASSTHROUGH
        return ConnectJudgement(ask=ask, decision=decision, place=place, tls=tls, http="http" in real)

    def bridges(self, ask: Ask, place: Place) -> bool:
        """Whether TLS to this target must be opened: for a rule, or since a credential may be written there."""
        return place.bound or self.rules.bridges(ask)

    def canonical_path(self, path: bytes, host: str, port: int) -> str:
        """The path as it is compared. Raises NotCanonical where rules or bindings for this host look at paths; else it stays as it is."""
        reads, slash = self._paths.get((host, port)) or self._look_at_paths(host, port)
        try:
            return canonical_path(path, allow_encoded_slash=slash)
        except NotCanonical:
            if reads:
                raise
            return path.decode("latin-1")

    def _look_at_paths(self, host: str, port: int) -> tuple[bool, bool]:
        """Whether paths are looked at there, and whether they may hold %2F."""
        selector, readers = self.providers.selector, self.rules.path_readers(host, port)
        slash = all(rule.encoded_slash for rule in readers) and selector.allows_encoded_slash(host, port)
        if len(self._paths) >= _PLACES_KEPT:
            self._paths.clear()
        self._paths[host, port] = known = bool(readers) or selector.reads_path(host, port), slash
        return known

    def _decide_request(self, head: RequestHead, caller: Caller) -> Verdict:
        connect = caller.connect
        if head.target_scheme is None and connect is None:
            if (own := self._local(head)) is not None:
                return own
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
            path = "*" if head.target == b"*" else self._compared_path(head.path, host, port)
        except NotCanonical as error:
            return Denial(
                code="path_not_canonical",
                detail=f"{error}: rules for this host have paths, and servers read this path in more than one way",
                origin=Ask(caller=caller.id, scheme=scheme, host=host, port=port).origin,
            )
        upgrade = "websocket" if head.upgrade == b"websocket" else ""
        key = caller.id, scheme, host, port, head.method, path, upgrade, not REWRITES.isdisjoint(head.names)
        kept = self._kept.get(key)
        if kept is None:
            return self._permit_or_deny(head, caller, key)
        if misuse := self.providers.misuse(head, kept.place, kept.selection):
            return Denial(code="placeholder_misused", detail=misuse, origin=kept.endpoint.origin)
        subjects = sent_subjects(head, kept.selection) if kept.subjects else ()
        return Permit(route=kept.route, endpoint=kept.endpoint, target=None, caller=caller, subjects=subjects)

    def _compared_path(self, path: bytes, host: str, port: int) -> str:
        """The path as it is compared, "" where nothing compares it. Raises NotCanonical."""
        reads, _ = self._paths.get((host, port)) or self._look_at_paths(host, port)
        return self.canonical_path(path, host, port) if reads else ""

    def _permit_or_deny(self, head: RequestHead, caller: Caller, key: Key) -> Verdict:
        """The decision, and if it is a permit that the next request with this key shares, its parts are kept."""
        _, scheme, host, port, _, path, upgrade, rewrites = key
        ask = Ask(caller=caller.id, scheme=scheme, host=host, port=port, method=head.method, path=path, upgrade=upgrade)
        decision = self.rules.decide(ask)
        if decision.code:
            return self._deny(ask, decision, head.method, caller)
        place = self.providers.place(caller.id, scheme, host, port)
        selection = self.providers.plan(self.select(ask, decision, place), head, scheme)
        if selection.refusal:
            rule = "" if decision.rule is None else decision.rule.name
            return Denial(code=selection.code, detail=selection.refusal, rule=rule, origin=ask.origin)
        if misuse := self.providers.misuse(head, place, selection):
            return Denial(code="placeholder_misused", detail=misuse, origin=ask.origin)
        plain, subjects = rewrites and self._looks_at_requests(host, port), sent_subjects(head, selection)
        permit = self._permit(ask, decision, caller, place, selection, dial=scheme, plain=plain, subjects=subjects)
        if selection.signing is None:  # what is signed depends on more of the head
            exchanges = any(binding.subject_fields for binding in selection.bindings)
            kept = Kept(route=permit.route, endpoint=permit.endpoint, place=place, selection=selection, subjects=exchanges)
            self._kept.keep(key, kept)
        return permit

    def _looks_at_requests(self, host: str, port: int) -> bool:
        """Whether methods or paths decide here: then those of the request line must be the ones that the origin acts on."""
        return self.rules.looks_at_requests(host, port) or self.providers.selector.looks_at_requests(host, port)

    def select(self, ask: Ask, decision: Decision, place: Place) -> Selection:
        """The credentials of a permitted request; none for what is permitted only because denials are reported."""
        if decision.would_deny or not place.bound:
            return NOTHING
        return self.providers.select(place, bound_request(ask, place))

    def _deny(self, ask: Ask, decision: Decision, method: str, caller: Caller) -> Denial:
        what = f"{caller.id} to {method} {ask.host}:{ask.port}"
        detail = {
            "rule_default": f"rule_default: no rule allows {what}",
            "rule_denied": f"rule_denied: a rule denies {what}",
            "upgrade_denied": f"upgrade_denied: no rule allows {what} with an upgrade",
        }[decision.code]
        return Denial(code=decision.code, detail=detail, rule=decision.rule.name if decision.rule else "", origin=ask.origin)

    def _permit(
        self,
        ask: Ask,
        decision: Decision,
        caller: Caller,
        place: Place,
        selection: Selection = NOTHING,
        *,
        dial: str,
        plain: bool = False,
        subjects: tuple[tuple[str, Secret], ...] = (),
    ) -> Permit:
        """`dial`: the scheme that is spoken to the origin, `tcp` where the connection stays closed to us. `plain`: without REWRITES."""
        route = self._route(decision.rule, decision, place, selection, upgrading=bool(ask.upgrade), plain=plain)
        return Permit(route=route, endpoint=self.endpoint(ask, decision, place, dial), target=None, caller=caller, subjects=subjects)

    def endpoint(self, ask: Ask, decision: Decision, place: Place, dial: str) -> Endpoint:
        """Where something permitted goes, and which addresses it may have there; `dial` as in a permit."""
        rule, origin, profile = decision.treated_as, ask.origin, None
        if dial == "https":
            profile = self._tls if rule is None or rule.ca_file is None else TlsProfile(ca_file=rule.ca_file, minimum=self._tls.minimum)
        elif origin.scheme != dial:
            origin = Origin(scheme=dial, host=origin.host, port=origin.port, authority=origin.authority)
        within = () if rule is None else place.within
        private = (*(() if rule is None else rule.private), *(net for nets in within for net in nets))
        return Endpoint(origin=origin, tls=profile, generation=self.generation, private=private, within=within)

    def _route(self, rule: Rule | None, decision: Decision, place: Place, selection: Selection, *, upgrading: bool, plain: bool) -> Route:
        name, upgrades = ("", frozenset({"websocket"})) if rule is None else (rule.name, rule.upgrades)  # without a rule: only reported
        key = (name, upgrades, decision.would_deny, decision.denied_by, upgrading, plain)
        route = self._routes.built.get(key)
        if route is None:
            switches = frozenset(("GET", protocol.encode("ascii")) for protocol in upgrades)
            header_rules = self._plain_rules if plain else self._header_rules
            route = Route(name=name, header_rules=header_rules, upgrades=switches, deadlines=self._deadlines)
            self._routes.built[key] = route
            self._routes.notes[route] = RouteNotes(would_deny=decision.would_deny, denied_by=decision.denied_by, upgrading=upgrading)
        bound = self.providers.route(route, place, selection)
        if bound is not route:
            self._routes.notes.setdefault(bound, self._routes.notes[route])
        return bound

    def notes(self, route: Route) -> RouteNotes:
        """What the record has about the route beside its name."""
        return self._routes.notes.get(route) or (self.reverse and self.reverse.notes(route)) or NO_NOTES


def sent_subjects(head: RequestHead, selection: Selection) -> tuple[tuple[str, Secret], ...]:
    """The tokens that the caller sends for the credentials of this selection, by the names of their fields."""
    names = {name for binding in selection.bindings for name in binding.subject_fields}
    return tuple((name, Secret(value)) for name in sorted(names) for value in head.values(name.encode("ascii")))


def bound_request(ask: Ask, place: Place) -> BoundRequest:
    """What bindings are matched with."""
    assert ask.method is not None
    return BoundRequest(
        callers=place.callers,
        scheme=ask.scheme,
        host=ask.host,
        port=ask.port,
        method=ask.method,
        path=ask.path,
        upgrade=ask.upgrade == "websocket",
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


def is_loop(via: bytes, name: bytes) -> bool:
    """Whether Via has the name of this gateway."""
    return any(entry.split()[1:2] == [name] for entry in via.split(b","))


@lru_cache(1024)  # every request names the host twice
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


def is_exact(rule: Rule) -> bool:
    """Whether every host of the rule is exact."""
    return all(pattern.kind is HostKind.EXACT for pattern in rule.hosts)


__all__ = [
    "Ask",
    "CallerPattern",
    "ConnectPermit",
    "Decision",
    "GatewayPolicy",
    "Rule",
    "RuleSet",
    "Tls",
    "is_exact",
    "parse_authority",
    "rank",
]
