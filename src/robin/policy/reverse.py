"""The policy of reverse listeners: which route a request has, who may use it, and where it goes; pure.

The walk is: route, caller, `allow`, then the credentials of the caller at the upstream. A path that a route lets bypass has the caller
`anonymous` and no credential. What the caller wrote as Host and path selects the route and nothing else: bindings are matched with the
upstream that is dialled, and with the path that is sent there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from robin.model.caller import Caller, Evidence
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route, RouteDeadlines, TlsProfile
from robin.model.verdict import Denial, Permit, Verdict
from robin.policy.callers import ANONYMOUS_CALLER, LOCAL_CALLER, CallerPattern
from robin.policy.gateway import RouteNotes, is_loop, parse_authority, sent_subjects
from robin.policy.guards import foreign_page
from robin.policy.overlap import witness_host
from robin.policy.patterns import HostKind, HostPattern, Methods, NotCanonical, PathPattern, canonical_path, is_loopback
from robin.policy.providers import NOWHERE, Place, Providers
from robin.policy.rules import DEFAULT_PORTS
from robin.policy.select import NOTHING, BoundRequest, Selection
from robin.wire.fields import REWRITES
from robin.wire.forwarding import has_dot_segment

ROUTE_RULE: Final = "route:"
"""How the names of routes begin where records and refusals have the name of a rule."""

_UNKNOWN: Final = Denial(code="route_unknown", detail="route: no route of this gateway has this host and path")
_ANY_HOST: Final = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """One entry of `allow`: these callers, these methods, these paths (those that the caller asks for; empty: any)."""

    callers: tuple[CallerPattern, ...]
    methods: Methods
    paths: tuple[PathPattern, ...] = ()

    def why_not(self, caller: str, method: str, path: str) -> str:
        """The first of caller, method, path by which it does not match; empty: it matches."""
        if not any(pattern.matches(caller) for pattern in self.callers):
            return "caller"
        if not self.methods.matches(method):
            return "method"
        return "" if not self.paths or any(pattern.matches(path) for pattern in self.paths) else "path"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReverseRoute:
    """One route. `hosts` empty: any. `prefix` is canonical and without a final `/`, empty for all paths. `base` stands before the path.

    `bypass` are paths of which no caller is asked for.
    """

    name: str
    origin: Origin
    hosts: tuple[HostPattern, ...] = ()
    prefix: str = ""
    strip: bool = True
    base: bytes = b""
    bypass: tuple[PathPattern, ...] = ()
    allow: tuple[Allow, ...] = ()
    upgrades: frozenset[str] = frozenset()
    private: tuple[str, ...] = ()

    def host_rank(self, host: str) -> tuple[int, int, int] | None:
        """How specific the host is for which it matches; None: it does not."""
        if not self.hosts:
            return _ANY_HOST
        return max((pattern.rank for pattern in self.hosts if pattern.matches(host)), default=None)

    def has_path(self, path: str) -> bool:
        """Whether a path is below its prefix."""
        return not self.prefix or path == self.prefix or path.startswith(f"{self.prefix}/")

    def bypasses(self, path: str) -> bool:
        """Whether a path needs no caller.

        One that a server may decode twice does need one, and so does `/a/` with `/a/*`: servers take it for another resource than `/a/x`.
        """
        return "%25" not in path and any(
            pattern.matches(path) and not (path[-1:] == "/" and pattern.text[-1:] == "*") for pattern in self.bypass
        )

    def lists(self, host: str) -> bool:
        """Whether its hosts name this one. `**`, as an empty list, names none."""
        return any(pattern.suffix != "" or pattern.kind is HostKind.EXACT for pattern in self.hosts if pattern.matches(host))

    @property
    def reads_paths(self) -> bool:
        """Whether a path can change what becomes of a request."""
        return bool(self.prefix or self.base or self.bypass or any(entry.paths for entry in self.allow))

    @property
    def looks_at_requests(self) -> bool:
        """Whether the method or the path can."""
        return self.reads_paths or any(entry.methods.names is not None for entry in self.allow)

    def upstream_path(self, path: str) -> str:
        """The path that is sent, as it is compared. Segments are counted, since the caller may have escaped the prefix in its own way."""
        if self.strip and self.prefix:
            path = _without(path, self.prefix.count("/"))
        return self.base.decode("ascii") + path

    def upstream_target(self, head: RequestHead) -> bytes | None:
        """The target that is sent: the caller's own bytes behind the base path; None: all of them as they are."""
        target = head.target
        if self.strip and self.prefix:
            rest = _without(head.path.decode("latin-1"), self.prefix.count("/")).encode("latin-1")
            target = rest + target[len(head.path) :]
        elif not self.base:
            return None
        return self.base + target


def _without(path: str, segments: int) -> str:
    """The path behind its first segments."""
    return "/" + "/".join(path.split("/")[segments + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The route of a request, its host and path as they are compared, and whether it needs no caller."""

    route: ReverseRoute
    host: str
    path: str
    bypass: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """`code` empty: permitted, with the credentials of `selection`. `would_deny`: only because denials are reported alone."""

    code: str = ""
    detail: str = ""
    would_deny: str = ""
    place: Place = NOWHERE
    selection: Selection = NOTHING
    request: BoundRequest | None = None


@dataclass(slots=True, kw_only=True)
class _Routes:
    """The routes in use, by name and outcome: built once, shared by all Permits."""

    built: dict[tuple[str, str, bool, bool], Route] = field(default_factory=dict)
    notes: dict[Route, RouteNotes] = field(default_factory=dict)


class ReversePolicy:
    """The routes of one generation. `report`: what `allow` does not have passes, without a credential, and is recorded."""

    __slots__ = (
        "_deadlines",
        "_exact",
        "_fields",
        "_header_rules",
        "_name",
        "_plain_rules",
        "_providers",
        "_report",
        "_routes",
        "_tls",
        "_wild",
        "generation",
        "routes",
    )

    def __init__(
        self,
        routes: Sequence[ReverseRoute],
        *,
        name: str,
        header_rules: HeaderRules,
        deadlines: RouteDeadlines,
        tls: TlsProfile,
        generation: int,
        providers: Providers,
        report: bool,
    ) -> None:
        self.routes = tuple(routes)
        self.generation = generation
        self._name = name.encode("ascii")
        self._header_rules = header_rules
        self._plain_rules = replace(header_rules, strip=header_rules.strip | REWRITES)
        self._deadlines = deadlines
        self._tls = tls
        self._providers = providers
        self._report = report
        self._routes = _Routes()
        self._fields: dict[str, frozenset[str]] = {}  # by route: those in which credentials of anyone are written at its upstream
        self._exact: dict[str, list[ReverseRoute]] = {}  # by host
        self._wild: list[ReverseRoute] = []
        for route in self.routes:
            if route.hosts and all(pattern.kind is HostKind.EXACT for pattern in route.hosts):
                for host in dict.fromkeys(pattern.text for pattern in route.hosts):
                    self._exact.setdefault(host, []).append(route)
            else:
                self._wild.append(route)

    def find(self, head: RequestHead) -> Found | Denial:
        """The route of a request, before its caller is known."""
        if head.method == "CONNECT" or head.target_scheme is not None:
            return Denial(code="misdirected", detail="not_a_proxy: this listener serves targets in origin-form, such as /path")
        try:
            host, _ = parse_authority(head.host, DEFAULT_PORTS["http"])
        except NotCanonical as error:
            return Denial(code="authority_invalid", detail=f"{error}: the Host has no canonical form")
        return _UNKNOWN if head.target == b"*" else self.find_path(host, head.path)

    def find_path(self, host: str, raw: bytes) -> Found | Denial:
        """The route for a canonical host and a path: of those that match, the one with the longest prefix, then the most specific host.

        Where a route of this host looks at paths, a path must be canonical, whichever of them it would have: two of them may lead to one
        origin, which reads the path in its own way.
        """
        near = self._near(host)
        path, readers = raw.decode("latin-1"), [route for route in near if self._reads_paths(route)]
        if readers:
            try:
                path = canonical_path(raw, allow_encoded_slash=all(map(self._takes_slashes, readers)))
                if has_dot_segment(raw):
                    raise NotCanonical("dot_segment")
            except NotCanonical as error:
                text = f"{error}: routes of this host look at paths, and servers read this path in more than one way"
                return Denial(code="path_not_canonical", detail=text)
        matching = [route for route in near if route.has_path(path)]
        if not matching:
            return _UNKNOWN
        route = max(matching, key=lambda one: (len(one.prefix), one.host_rank(host)))
        return Found(route=route, host=host, path=path, bypass=route.bypasses(path))

    def _near(self, host: str) -> list[ReverseRoute]:
        """The routes that this host can have."""
        return [*self._exact.get(host, ()), *(route for route in self._wild if route.host_rank(host) is not None)]

    def _reads_paths(self, route: ReverseRoute) -> bool:
        return route.reads_paths or self._providers.selector.reads_path(route.origin.host, route.origin.port)

    def _takes_slashes(self, route: ReverseRoute) -> bool:
        """Whether `%2F` is a character of a segment: the endpoint of a provider says so, and there is no path without a caller."""
        host, port, selector = route.origin.host, route.origin.port, self._providers.selector
        return not route.bypass and selector.reads_path(host, port) and selector.allows_encoded_slash(host, port)

    def judge(self, found: Found, caller: str, method: str, upgrade: str) -> Judgement:
        """The judgement about a request of a known caller. It is the same for requests and for `robin explain gateway`."""
        route = found.route
        if upgrade and upgrade not in route.upgrades:
            return Judgement(code="upgrade_denied", detail=f"upgrade_denied: the route {route.name} does not list the upgrade")
        if found.bypass:
            return Judgement()
        if caller in {"", ANONYMOUS_CALLER}:  # a reload took the bypass away while the request was on its way
            return Judgement(code="caller_unauthenticated", detail="no_credential: send Authorization with a token for this gateway")
        if caller == LOCAL_CALLER and not is_loopback(found.host) and not route.lists(found.host):
            detail = f"host: a page may give its own name to loopback; list the Host in `hosts` of the route {route.name} if it is yours"
            return Judgement(code="host_not_allowed", detail=detail)
        place = self._providers.place(caller, route.origin.scheme, route.origin.host, route.origin.port)
        if all(entry.why_not(caller, method, found.path) for entry in route.allow):
            if self._report:
                return Judgement(would_deny="rule_default", place=place)
            return Judgement(code="rule_default", detail=f"rule_default: the route {route.name} does not allow {caller} to {method} this")
        if not place.bound:
            return Judgement(place=place)
        request = BoundRequest(
            callers=place.callers,
            scheme=route.origin.scheme,
            host=route.origin.host,
            port=route.origin.port,
            method=method,
            path=route.upstream_path(found.path),
            upgrade=upgrade == "websocket",
        )
        selection = self._providers.select(place, request)
        code = selection.code if selection.refusal else ""
        return Judgement(code=code, detail=selection.refusal, place=place, selection=selection, request=request)

    def explain_bindings(self, judged: Judgement) -> list[dict[str, str]]:
        """Every binding, and why it wins or loses."""
        if judged.request is None:
            return []
        explained = self._providers.selector.explain(judged.request)
        return [{"binding": one.binding.label, "reason": one.reason} for one in explained]

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """A Permit or a Denial for one request head. A `proxy.engine.Policy`."""
        if head.via is not None and is_loop(head.via, self._name):
            return Denial(code="loop", detail="own_via: the request went through this gateway already")
        found = self.find(head)
        if isinstance(found, Denial):
            return found
        route = found.route
        upgrade = "websocket" if head.upgrade == b"websocket" else ""
        if caller.evidence is not Evidence.JWT and not found.bypass and (foreign := foreign_page(head)):
            detail = f"{foreign}: a page in a browser sent this, and callers without a token are programs"
            return Denial(code="origin_refused", detail=detail, rule=ROUTE_RULE + route.name, origin=route.origin)
        judged = self.judge(found, caller.id, head.method, upgrade)
        if judged.code:
            return Denial(code=judged.code, detail=judged.detail, rule=ROUTE_RULE + route.name, origin=route.origin)
        selection = self._providers.plan(judged.selection, head, route.origin.scheme)
        if selection.refusal:
            return Denial(code=selection.code, detail=selection.refusal, rule=ROUTE_RULE + route.name, origin=route.origin)
        if misuse := self._providers.misuse(head, judged.place, selection):
            return Denial(code="placeholder_misused", detail=misuse, rule=ROUTE_RULE + route.name, origin=route.origin)
        within = () if judged.would_deny else judged.place.within
        endpoint = Endpoint(
            origin=route.origin,
            tls=self._tls if route.origin.scheme == "https" else None,
            generation=self.generation,
            private=(*route.private, *(net for nets in within for net in nets)),
            within=within,
        )
        plain = not REWRITES.isdisjoint(head.names) and any(map(self._looks_at_requests, self._near(found.host)))
        treatment = self._treatment(route, judged, selection, upgrading=bool(upgrade), plain=plain)
        subjects = sent_subjects(head, selection)
        return Permit(route=treatment, endpoint=endpoint, target=route.upstream_target(head), caller=caller, subjects=subjects)

    def _looks_at_requests(self, route: ReverseRoute) -> bool:
        return route.looks_at_requests or self._providers.selector.looks_at_requests(route.origin.host, route.origin.port)

    def _treatment(self, route: ReverseRoute, judged: Judgement, selection: Selection, *, upgrading: bool, plain: bool) -> Route:
        key = route.name, judged.would_deny, upgrading, plain
        built = self._routes.built.get(key)
        if built is None:
            built = self._routes.built[key] = Route(
                name=ROUTE_RULE + route.name,
                header_rules=self._plain_rules if plain else self._header_rules,
                upgrades=frozenset(("GET", protocol.encode("ascii")) for protocol in route.upgrades),
                deadlines=self._deadlines,
            )
            denied_by = ROUTE_RULE + route.name if judged.would_deny else ""
            self._routes.notes[built] = RouteNotes(would_deny=judged.would_deny, denied_by=denied_by, upgrading=upgrading, route=route.name)
        fields = self._fields.get(route.name)
        if fields is None:
            fields = self._fields[route.name] = self._providers.selector.fields_at(route.origin.host, route.origin.port)
        bound = self._providers.route(built, judged.place, selection, fields=fields)
        if bound is not built:
            self._routes.notes.setdefault(bound, self._routes.notes[built])
        return bound

    def notes(self, route: Route) -> RouteNotes | None:
        """What the record has about a route of this policy beside its name."""
        return self._routes.notes.get(route)


def find_route_ties(routes: Sequence[ReverseRoute]) -> Iterator[tuple[ReverseRoute, ReverseRoute, str]]:
    """Routes of one prefix and equal rank that may match one host, with such a host ("" where both have any)."""
    for at, one in enumerate(routes):
        for other in routes[at + 1 :]:
            if one.prefix == other.prefix and (host := _tied_host(one, other)) is not None:
                yield one, other, host


def _tied_host(one: ReverseRoute, other: ReverseRoute) -> str | None:
    if not one.hosts or not other.hosts:
        return "" if not one.hosts and not other.hosts else None
    pairs = ((a, b) for a in one.hosts for b in other.hosts if a.rank == b.rank)
    return next((host for a, b in pairs if (host := witness_host(a, b))), None)
