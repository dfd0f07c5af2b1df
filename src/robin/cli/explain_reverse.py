"""`robin explain gateway --reverse`: which route a request to a reverse listener has, who may use it, and what goes upstream."""

from typing import Final
from urllib.parse import urlsplit

from robin.model.route import Endpoint
from robin.model.verdict import Denial
from robin.policy.callers import ANONYMOUS_CALLER
from robin.policy.gateway import parse_authority
from robin.policy.patterns import NotCanonical
from robin.policy.reverse import ROUTE_RULE, Found, Judgement, ReversePolicy, ReverseRoute
from robin.policy.rules import DEFAULT_PORTS
from robin.policy.select import Binding

MALFORMED: Final = frozenset({"path_not_canonical", "authority_invalid"})
"""The codes of requests that are malformed, whatever the routes are."""


def explain_reverse(
    policy: ReversePolicy, *, method: str, target: str, caller: str, upgrade: str
) -> tuple[dict[str, object], list[Binding], Endpoint | None]:
    """What would be decided, the bindings whose credentials would be written, and where it goes, None: nowhere.

    `caller` empty: without a token. Raises ValueError.
    """
    url = urlsplit(target)
    if url.scheme not in DEFAULT_PORTS or "@" in url.netloc or method == "CONNECT":
        raise ValueError("write METHOD and the http or https URL by which callers know the reverse listener")
    path = (url.path or "/").encode("utf-8")
    try:
        host, _ = parse_authority(url.netloc.encode("utf-8"), DEFAULT_PORTS["http"])
    except NotCanonical as error:
        return _refused(Denial(code="authority_invalid", detail=f"{error}: the Host has no canonical form")), [], None
    found = policy.find_path(host, path)
    if isinstance(found, Denial):
        return _refused(found) | {"routes": [_route(one, host, path.decode("latin-1")) for one in policy.routes]}, [], None
    judged = policy.judge(found, caller, method, upgrade)
    shown = _found(policy, found, judged, caller, method)
    shown["routes"] = [_route(one, host, found.path) for one in policy.routes]
    within = () if judged.would_deny else judged.place.within
    private = (*found.route.private, *(net for nets in within for net in nets))
    endpoint = Endpoint(origin=found.route.origin, tls=None, generation=0, private=private, within=within)
    return shown, list(() if judged.code else judged.selection.bindings), endpoint


def _refused(denial: Denial) -> dict[str, object]:
    return {"verdict": "deny", "code": denial.code, "detail": denial.detail, "rule": "", "route": "", "credentials": [], "bindings": []}


def _found(policy: ReversePolicy, found: Found, judged: Judgement, caller: str, method: str) -> dict[str, object]:
    route, origin = found.route, found.route.origin
    return {
        "verdict": "deny" if judged.code else "permit",
        "code": judged.code,
        "detail": judged.detail,
        "rule": ROUTE_RULE + route.name,
        "route": route.name,
        "would_deny": judged.would_deny,
        "caller": ANONYMOUS_CALLER if found.bypass else caller,
        "scheme": origin.scheme,
        "host": origin.host,
        "port": origin.port,
        "path": route.upstream_path(found.path),
        "tls": "originate" if origin.scheme == "https" else "plain",
        "allow": [entry.why_not(caller, method, found.path) for entry in route.allow],
        "bindings": policy.explain_bindings(judged),
    }


def _route(route: ReverseRoute, host: str, path: str) -> dict[str, object]:
    why = "host" if route.host_rank(host) is None else "" if route.has_path(path) else "path"
    return {"name": route.name, "path_prefix": route.prefix or "/", "why_not": why}


def print_reverse(found: dict[str, object]) -> None:
    """The same for people, without the credentials."""
    code = f" {found['code']}" if found["code"] else ""
    if not found["route"]:
        print(f"{found['verdict']}{code}: {found['detail']}")
    else:
        report = f" (would deny: {found['would_deny']})" if found["would_deny"] else ""
        place = f"{found['scheme']} {found['host']}:{found['port']}{found['path']}, tls {found['tls']}"
        print(f"{found['verdict']}{code} by the route {found['route']}{report}: {place}")
        if found["detail"]:
            print(f"  {found['detail']}")
        allow = found["allow"]
        assert isinstance(allow, list)
        if found["caller"] == ANONYMOUS_CALLER:
            print("  bypass_paths: no caller is asked for")
            allow = []
        for at, why in enumerate(allow):
            print(f"  allow {at + 1}: {_matches(why)}")
    routes = found.get("routes", [])
    assert isinstance(routes, list)
    for one in routes:
        print(f"  route {one['name']} ({one['path_prefix']}): {_matches(one['why_not'])}")


def _matches(why: object) -> str:
    return f"does not match: {why}" if why else "matches"
