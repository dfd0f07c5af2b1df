"""What attached providers allow by themselves: their endpoints, for their callers, with credentials; silence denies. Pure.

It judges requests in absolute form (RFC 9112 section 3.2.2). A plane with rules of its own asks the Selector and the BoundRoutes itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route, TlsProfile
from robin.model.verdict import Denial, Permit, Verdict
from robin.policy.bound_routes import BoundRoutes
from robin.policy.patterns import HostPattern, Methods, NotCanonical, PathPattern, canonical_host, canonical_path
from robin.policy.select import BoundRequest, Selector

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPermit:
    """What attaching a provider allows: requests of `callers` to one endpoint. `tunnel`: connections that Robin does not open."""

    provider: str
    callers: frozenset[str]
    scheme: str
    host: HostPattern
    port: int
    path: PathPattern
    methods: Methods
    tunnel: bool

    def matches(self, request: BoundRequest) -> bool:
        """Whether it allows this request."""
        return (
            bool(self.callers & request.callers)
            and self.scheme == request.scheme
            and self.port == request.port
            and self.host.matches(request.host)
            and self.path.matches(request.path)
            and self.methods.matches(request.method)
        )


class ProviderPolicy:
    """One generation. `names_of` returns all names of a caller; `route` is that of every request, before credentials are added to it."""

    __slots__ = ("_names_of", "_permits", "_route", "_routes", "_selector")

    def __init__(
        self,
        selector: Selector,
        permits: Sequence[ProviderPermit],
        routes: BoundRoutes,
        route: Route,
        *,
        names_of: Callable[[Caller], frozenset[str]],
    ) -> None:
        self._selector = selector
        self._permits = tuple(permits)
        self._routes = routes
        self._route = route
        self._names_of = names_of

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """A Permit where a provider of the caller has the endpoint, and the endpoint allows the request."""
        origin = _origin_of(head)
        if isinstance(origin, Denial):
            return origin
        path = ""
        if self._selector.reads_path(origin.host, origin.port):
            try:
                path = canonical_path(head.path, allow_encoded_slash=self._selector.allows_encoded_slash(origin.host, origin.port))
            except NotCanonical as error:
                return Denial(code="path_not_canonical", detail=f"{error}: a rule looks at the path, and it can be read in two ways")
        request = BoundRequest(
            callers=self._names_of(caller),
            scheme=origin.scheme,
            host=origin.host,
            port=origin.port,
            method=head.method,
            path=path,
            upgrade=head.upgrade == b"websocket",
        )
        if not any(permit.matches(request) for permit in self._permits if not permit.tunnel):
            return Denial(code="endpoint_closed", detail="no_endpoint: no provider of this caller has this endpoint")
        selection = self._selector.select(request)
        if selection.refusal:
            return Denial(code="endpoint_closed", detail=selection.refusal)
        route = self._routes.get(self._route, selection, self._selector.fields_of(request.callers))
        endpoint = Endpoint(origin=origin, tls=TlsProfile() if origin.tls else None)
        return Permit(route=route, endpoint=endpoint, target=None, caller=caller)


def _origin_of(head: RequestHead) -> Origin | Denial:
    """The origin that the target names; Host must name the same one."""
    if head.target_scheme is None or head.target_authority is None:
        return Denial(code="host_not_allowed", detail="absolute_form: a proxy takes requests in absolute form")
    scheme = head.target_scheme.decode("ascii", "replace").lower()
    if scheme not in _DEFAULT_PORTS:
        return Denial(code="host_not_allowed", detail="scheme: the scheme is neither http nor https")
    target, host = _place(head.target_authority, scheme), _place(head.host, scheme)
    if target is None or target != host:
        return Denial(code="host_not_allowed", detail="host: Host and target name different origins, or none")
    name, port = target
    written = f"[{name}]" if ":" in name else name
    authority = written if port == _DEFAULT_PORTS[scheme] else f"{written}:{port}"
    return Origin(scheme=scheme, host=name, port=port, authority=authority.encode("ascii"))


def _place(authority: bytes, scheme: str) -> tuple[str, int] | None:
    text = authority.decode("ascii", "replace")
    name, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, digits = text, ""
    try:
        port = int(digits) if digits else _DEFAULT_PORTS[scheme]
        return canonical_host(name), port
    except ValueError:
        return None
