"""The gateway's policy: a default-deny decision by caller, host, port, scheme, method and path; pure, whatever the order of rules.

A CONNECT is judged by what its target alone decides; where a rule must see the requests inside, it is bridged, and each is judged again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route, RouteDeadlines, TlsProfile
from robin.model.secret import Secret
from robin.model.verdict import Denial, LocalResponse, Permit, Verdict
from robin.policy.kept_permits import Kept, KeptPermits, Key
from robin.policy.patterns import (
    NotCanonical,
    canonical_host,
    canonical_path,
)
from robin.policy.providers import NOWHERE, Place, Providers
from robin.policy.rules import DEFAULT_PORTS, Ask, Decision, Rule, RuleSet, Tls
from robin.policy.select import NOTHING, BoundRequest, Selection
from robin.wire.fields import REWRITES

if TYPE_CHECKING:
    from robin.policy.reverse import ReversePolicy

_PLACES_KEPT: Final = 1024  # callers choose the hosts that they ask for
_AUTHORITY = re.compile(rb"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


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
class _KeptConnect:
    """The parts of a `ConnectPermit` that the CONNECTs of one caller to one target share."""

    route: Route
    endpoint: Endpoint
    tls: Tls | None
    http: bool


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
        "_kept_connects",
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
        self._kept = KeptPermits[Kept]()
        self._kept_connects = KeptPermits[_KeptConnect]()
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
        key: Key = caller.id, "", host, port, "CONNECT", "", "", False
        kept = self._kept_connects.get(key)
        if kept is None:
            judged = self.judge_connect(caller.id, host, port)
            ask, decision, tls = judged.ask, judged.decision, judged.tls
            if decision.code:
                return self._deny(ask, decision, "CONNECT", caller)
            dial = "http" if tls is None else "https" if tls is Tls.BRIDGE else "tcp"
            permit = self._permit(ask, decision, caller, judged.place, dial=dial)
            kept = _KeptConnect(route=permit.route, endpoint=permit.endpoint, tls=tls, http=judged.http)
            self._kept_connects.keep(key, kept)
        return ConnectPermit(route=kept.route, endpoint=kept.endpoint, target=None, caller=caller, tls=kept.tls, http=kept.http)

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
