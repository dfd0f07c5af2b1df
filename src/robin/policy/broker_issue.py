"""Whether the broker issues a passport, for whom, for which route and as what: the checks of one request in one order. Pure.

A peer is identified by what the kernel reports. Without a rule, a route and an audience there is no passport.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from robin.model.passport import TRANSCRIPT, Axes, PassportRoute, find_route
from robin.model.passport_reasons import Refused
from robin.policy.passport_proof import covered_names
from robin.policy.passport_token import check_context
from robin.policy.x509_svid import Svid, is_below
from robin.wire import transcript as tr
from robin.wire.broker_ipc import HTTPSIG_FIELDS, PUBLIC, IssueRequest
from robin.wire.http_signature import WIT_FIELD

UNKNOWN = "unknown"
IDENTITY_OF_MODE: Final = {"pod-binding": "pod_svid", "caller-presented": "caller_svid"}
_ATTESTED: Final = "attested_workload"
_AS_SOFTWARE: Final = {"software": Axes(identity="peercred")}
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
    cgroup: str = ""  # the text of its cgroup file, where the process is proven


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRule:
    """All members that are set must hold. With SVIDs `subject` is empty: the SPIFFE ID is the subject."""

    name: str
    subject: str
    routes: tuple[str, ...]
    uid: int | None = None
    gid: int | None = None
    exe: str | None = None
    spiffe_id: str | None = None
    spiffe_prefix: str | None = None

    def matches(self, peer: Peer) -> bool:
        """Whether what the kernel reports fits the rule. An exe that is not proven matches no rule."""
        return (
            (self.uid is None or self.uid == peer.uid)
            and (self.gid is None or self.gid == peer.gid)
            and (self.exe is None or (peer.exe == self.exe and peer.exe != UNKNOWN))
            and (peer.uid != _OVERFLOW_ID or self.uid == _OVERFLOW_ID)
            and (peer.gid != _OVERFLOW_ID or self.gid == _OVERFLOW_ID)
        )

    def admits(self, spiffe_id: str) -> bool:
        """Whether a verified SPIFFE ID fits the rule."""
        return (self.spiffe_id is None or self.spiffe_id == spiffe_id) and (
            self.spiffe_prefix is None or is_below(spiffe_id, self.spiffe_prefix)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A verified SVID, and how it is bound to the caller: `mode` and `evidence` are words of passports.md 7."""

    svid: Svid
    mode: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whom a passport is for, and the routes that its rules allow."""

    rule: str
    subject: str
    routes: frozenset[str]
    axes: Axes
    attestation: Attestation | None = None


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


def find_rules(peer: Peer, rules: Sequence[PeerRule]) -> list[PeerRule]:
    """The rules that the kernel's report of a peer fits. Raises Refused: peer_unverified, peer_not_allowed."""
    if peer.uid is None or peer.gid is None:
        raise Refused("peer_unverified")
    found = [rule for rule in rules if rule.matches(peer)]
    if not found:
        raise Refused("peer_not_allowed")
    return found


def find_principal(rules: Sequence[PeerRule], attestation: Attestation | None = None) -> Principal:
    """Whom the rules that fit name, or the verified SPIFFE ID that they admit. Raises Refused: peer_not_allowed, peer_ambiguous."""
    if attestation is not None:
        spiffe_id = attestation.svid.spiffe_id
        rules = [rule for rule in rules if rule.admits(spiffe_id)]
        if not rules:
            raise Refused("peer_not_allowed", "spiffe_id")
    elif len({rule.subject for rule in rules}) > 1:
        raise Refused("peer_ambiguous")
    return Principal(
        rule=rules[0].name,
        subject=rules[0].subject if attestation is None else attestation.svid.spiffe_id,
        routes=frozenset(route for rule in rules for route in rule.routes),
        axes=Axes(identity="peercred" if attestation is None else IDENTITY_OF_MODE[attestation.mode]),
        attestation=attestation,
    )


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
        _guard("query_not_canonical" if request.target.endswith("?") else None)
    if request.inconsistent:
        raise Refused("ipc_inconsistent", request.inconsistent)
    _check_covered(request, route)
    check_context(request.ctx, route)
    signer_class, axes = _choose_class(request, principal, route)
    return Issue(request=request, principal=principal, route=route, audience=audience, signer_class=signer_class, axes=axes)


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
    required = set(route.extra_components) - {"content-digest", WIT_FIELD}  # those two are ours to make
    if "content-digest" in route.extra_components and request.body_sha256 in (None, tr.EMPTY_SHA256):
        raise Refused("covered_headers_mismatch", "content-digest")
    allowed = {*HTTPSIG_FIELDS, *required}
    if not required <= names <= allowed:
        raise Refused("covered_headers_mismatch", sorted((required - names) | (names - allowed))[0])


def _choose_class(request: IssueRequest, principal: Principal, route: PassportRoute) -> tuple[str, Axes]:
    """The highest class that can be proven and is asked for, with its axes: the keys are software, an SVID makes it `attested_workload`."""
    provable = _AS_SOFTWARE if principal.attestation is None else {_ATTESTED: principal.axes, **_AS_SOFTWARE}
    asked = request.classes
    for signer_class, axes in provable.items():
        wanted = not asked or signer_class in asked or (signer_class == "software" and request.software_fallback)
        if wanted and axes.satisfies(route.minimum) and axes.satisfies(request.minimum):
            return signer_class, axes
    requested, available = asked[0] if asked else route.required_key_binding, next(iter(provable))
    raise Refused("insufficient_key_binding", extra={"requested_key_binding": requested, "available_key_binding": available})


def _guard(detail: str | None) -> None:
    if detail is not None:
        raise Refused("transcript_ambiguous", detail)
