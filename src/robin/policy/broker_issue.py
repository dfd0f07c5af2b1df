"""Whether the broker issues a passport, for whom, for which route and as what: the checks of one request in one order. Pure.

A peer is known by what the kernel says of it. Silence denies: no rule, no route, no audience, no passport.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from robin.model.passport import TRANSCRIPT, Axes, PassportRoute, find_route
from robin.model.passport_reasons import Refused
from robin.policy.passport_proof import covered_names
from robin.policy.passport_token import check_context
from robin.wire import transcript as tr
from robin.wire.broker_ipc import HTTPSIG_FIELDS, PUBLIC, IssueRequest

UNKNOWN = "unknown"
_OVERFLOW_ID = 65534  # what a user without a mapping in our namespace is shown as


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that connected, at its connect. `process` and `exe` are `unknown` where they are not proven."""

    uid: int | None
    gid: int | None
    pid: int | None
    pid_proven: bool = False
    process: str = UNKNOWN
    exe: str = UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRule:
    """All members that are set must hold."""

    name: str
    subject: str
    routes: tuple[str, ...]
    uid: int | None = None
    gid: int | None = None
    exe: str | None = None

    def matches(self, peer: Peer) -> bool:
        """Whether the rule is about this peer. An exe that is not proven matches no rule."""
        return (
            (self.uid is None or self.uid == peer.uid)
            and (self.gid is None or self.gid == peer.gid)
            and (self.exe is None or (peer.exe == self.exe and peer.exe != UNKNOWN))
            and (peer.uid != _OVERFLOW_ID or self.uid == _OVERFLOW_ID)
            and (peer.gid != _OVERFLOW_ID or self.gid == _OVERFLOW_ID)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whom a passport is for, and the routes that its rules allow."""

    rule: str
    subject: str
    routes: frozenset[str]
    axes: Axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Leave to issue one passport."""

    request: IssueRequest
    principal: Principal
    route: PassportRoute
    audience: str
    signer_class: str
    axes: Axes


def guard_request(request: IssueRequest) -> None:
    """What has to be unambiguous before anything is looked up. Raises Refused `transcript_ambiguous`."""
    _guard(tr.guard_target(request.target))
    words = [request.method, request.scheme, request.authority, request.audience or "", request.route_id or "", request.nonce or ""]
    _guard(tr.guard_words(words) or tr.guard_values([value for _, value in request.fields]))
    if request.profile == TRANSCRIPT:
        _guard(tr.guard_path(request.target.partition("?")[0]) or tr.guard_coding([request.content_encoding]))
    names = [name for name, _ in request.headers]
    _guard("duplicate_header" if len(set(names)) != len(names) else None)


def find_principal(peer: Peer, rules: Sequence[PeerRule]) -> Principal:
    """Raises Refused: peer_unverified, peer_not_allowed, peer_ambiguous."""
    if peer.uid is None or peer.gid is None:
        raise Refused("peer_unverified")
    found = [rule for rule in rules if rule.matches(peer)]
    if not found:
        raise Refused("peer_not_allowed")
    if len({rule.subject for rule in found}) > 1:
        raise Refused("peer_ambiguous")
    routes = frozenset(route for rule in found for route in rule.routes)
    return Principal(rule=found[0].name, subject=found[0].subject, routes=routes, axes=Axes(identity="peercred"))


def judge_issue(request: IssueRequest, principal: Principal, routes: tuple[PassportRoute, ...]) -> Issue:
    """The rest of the checks, up to the keys. Raises Refused."""
    route = _find_route(request, principal, routes)
    audience = request.audience if request.audience is not None else route.audiences[0]
    if audience not in route.audiences and not _is_target_uri(audience, request, route):
        raise Refused("audience_mismatch")
    if request.profile not in route.profiles:
        raise Refused("profile_not_allowed")
    query = request.target.partition("?")[2]
    if request.profile == TRANSCRIPT:
        _guard(tr.guard_query(query, repeated_keys=route.repeated_keys, any_order=route.query_order == "any"))
    if request.inconsistent:
        raise Refused("ipc_inconsistent", request.inconsistent)
    _check_covered(request, route)
    check_context(request.ctx, route)
    return Issue(
        request=request,
        principal=principal,
        route=route,
        audience=audience,
        signer_class=_choose_class(request, principal, route),
        axes=principal.axes,
    )


def _find_route(request: IssueRequest, principal: Principal, routes: tuple[PassportRoute, ...]) -> PassportRoute:
    path = request.target.partition("?")[0]
    if request.route_id is None:
        allowed = tuple(route for route in routes if route.route_id in principal.routes)
        route = find_route(allowed, request.method, path)
    else:
        if request.route_id not in principal.routes:
            raise Refused("peer_route_not_allowed")
        route = next((route for route in routes if route.route_id == request.route_id), None)
    if route is None or route.method != request.method or not route.fits_path(path):
        raise Refused("route_mismatch")
    if request.scheme != route.scheme or request.authority.lower() not in route.authorities:
        raise Refused("route_mismatch", "authority")
    if find_route(routes, request.method, path) is not route:
        raise Refused("route_mismatch", "another_route_fits")
    return route


def _is_target_uri(audience: str, request: IssueRequest, route: PassportRoute) -> bool:
    uri = f"{route.scheme}://{request.authority.lower()}{request.target.partition('?')[0]}"
    return route.audience_match == "target-uri" and audience == uri


def _check_covered(request: IssueRequest, route: PassportRoute) -> None:
    names = {name for name, _ in request.headers}
    if request.profile == TRANSCRIPT:
        if request.version != PUBLIC:
            names = (names | {"x-trustplane-nonce"}) - ({"content-encoding"} - set(covered_names(frozenset(names), route)))
        wanted = set(covered_names(frozenset(names), route))
        if names != wanted:
            raise Refused("covered_headers_mismatch", sorted(names ^ wanted)[0])
        return
    required, allowed = set(route.extra_components), {*HTTPSIG_FIELDS, *route.extra_components}
    if not required <= names <= allowed:
        raise Refused("covered_headers_mismatch", sorted((required - names) | (names - allowed))[0])


def _choose_class(request: IssueRequest, principal: Principal, route: PassportRoute) -> str:
    """This broker signs with software keys for peers that the kernel names: the one class that it can prove is `software`."""
    available = "software"
    asked = request.classes
    fits = not asked or available in asked or request.software_fallback
    if not fits or not principal.axes.satisfies(route.minimum) or not principal.axes.satisfies(request.minimum):
        requested = asked[0] if asked else route.required_key_binding
        raise Refused("insufficient_key_binding", extra={"requested_key_binding": requested, "available_key_binding": available})
    return available


def _guard(detail: str | None) -> None:
    if detail is not None:
        raise Refused("transcript_ambiguous", detail)
