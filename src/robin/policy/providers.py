"""What attached providers add to a policy: allow rules for their endpoints, and the credentials of a permitted request. Pure.

The order never changes: the rules permit, then the bindings are selected, then the endpoint may still refuse. What rules only would deny
gets no credential.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from robin.model.message import RequestHead
from robin.model.route import Route
from robin.policy.bound_routes import BoundRoutes
from robin.policy.patterns import HostPattern, Methods, PathPattern
from robin.policy.placeholders import Placeholders
from robin.policy.select import NOTHING, Binding, BoundRequest, Selection, Selector
from robin.policy.signing import SigningRefusal, plan_payload


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
    upgrade: bool = False
    encoded_slash: bool = False
    allowed_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A caller at a place: who may get which credentials there. `within`: networks of which the dialled address must be in one, each."""

    callers: frozenset[str]
    bound: bool = False
    within: tuple[tuple[str, ...], ...] = ()


_PLACES_KEPT: Final = 1024
NOWHERE: Final = Place(callers=frozenset())


class Providers:
    """The providers of one generation."""

    __slots__ = ("_placeholders", "_places", "_routes", "selector")

    def __init__(
        self,
        bindings: Sequence[Binding] = (),
        *,
        refresh_on_401: str = "any",
        replay_body_bytes: int = 0,
        strip: frozenset[bytes] = frozenset(),
    ) -> None:
        """`strip`: the fields that are removed from every request; Authorization always is."""
        self.selector = Selector(bindings)
        self._placeholders = Placeholders(bindings, not_forwarded=strip | {b"authorization"})
        self._routes = BoundRoutes(refresh_on_401=refresh_on_401, replay_body_bytes=replay_body_bytes)
        self._places: dict[tuple[str, str, str, int], Place] = {}

    def place(self, caller: str, scheme: str, host: str, port: int) -> Place:
        """What a caller may get at a place; whether anything, decides if its TLS must be opened."""
        key = caller, scheme, host, port
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= _PLACES_KEPT:
                self._places.clear()
            found = self._places[key] = self._find(*key)
        return found

    def _find(self, caller: str, scheme: str, host: str, port: int) -> Place:
        callers = self.selector.patterns_of(caller)
        if not callers:
            return NOWHERE
        bindings = self.selector.bound(callers, scheme, host, port)
        within = tuple(dict.fromkeys(binding.allowed_ips for binding in bindings if binding.allowed_ips))
        return Place(callers=callers, bound=bool(bindings), within=within)

    def select(self, place: Place, request: BoundRequest) -> Selection:
        """The credentials of a request there."""
        return self.selector.select(request) if place.bound else NOTHING

    def plan(self, selection: Selection, head: RequestHead, scheme: str) -> Selection:
        """The selection with what stands for the body where a credential signs; with a refusal where it cannot."""
        signing = selection.signing
        if signing is None or selection.refusal:
            return selection
        payload = plan_payload(head, signing, scheme)
        if isinstance(payload, SigningRefusal):
            return replace(selection, code=payload.code, refusal=payload.detail)
        return replace(selection, payload=payload)

    def misuse(self, head: RequestHead, place: Place, selection: Selection) -> str:
        """Why the request must not travel: it holds a placeholder that these credentials do not replace; "" if it may."""
        if self._placeholders.none:
            return ""
        return self._placeholders.misuse(head, selection, place.callers, self.selector.fields_of(place.callers))

    def route(self, route: Route, place: Place, selection: Selection, *, fields: frozenset[str] = frozenset()) -> Route:
        """The route of a rule with them; without any it strips what a provider of the caller could write, and these `fields`."""
        if place.callers:
            fields |= self.selector.fields_of(place.callers)
        return self._routes.get(route, selection, fields) if fields else route
