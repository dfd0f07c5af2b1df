"""The route of a rule, with the credentials of a selection: what is stripped, what is injected, and what a 401 leads to. Pure.

A route is built once for each pair of rule and selection and then shared, as every route is; there are not more of them than pairs.
"""

from dataclasses import replace

from robin.model.route import STREAMED, HeaderRules, Held, Route
from robin.policy.select import Selection
from robin.policy.signing import Payload, Signing, signing_route


class BoundRoutes:
    """Those of one generation. `refresh_on_401`: any, invalid_token, never.

    `replay_body_bytes`: a body of known length up to this is held, so that it can be sent again after a 401.
    """

    __slots__ = ("_refresh_on_401", "_replay_body_bytes", "_routes", "_rules")

    def __init__(self, *, refresh_on_401: str, replay_body_bytes: int) -> None:
        self._refresh_on_401 = refresh_on_401
        self._replay_body_bytes = replay_body_bytes
        self._routes: dict[tuple[Route, str, frozenset[str], Signing | None, Payload | None], Route] = {}
        self._rules: dict[tuple[HeaderRules, frozenset[str]], HeaderRules] = {}

    def get(self, route: Route, selection: Selection, fields: frozenset[str]) -> Route:
        """Return the route of a rule for this selection. `fields`: the names that providers of the caller can write."""
        names = selection.grants
        if not names and not fields:
            return route
        signing, payload = (selection.signing, selection.payload) if names else (None, None)
        key = route, names, fields, signing, payload
        found = self._routes.get(key)
        if found is None:
            found = self._build(route, names, fields)
            if signing is not None and payload is not None:
                found = signing_route(found, signing, payload)
            self._routes[key] = found
        return found

    def _build(self, route: Route, names: str, fields: frozenset[str]) -> Route:
        rules = self._header_rules(route.header_rules, fields)
        if not names:
            return replace(route, header_rules=rules, grant="", repeat_on_401=False)
        repeats = self._refresh_on_401 != "never"
        body = Held(limit_bytes=self._replay_body_bytes, or_stream=True) if repeats and route.body is STREAMED else route.body
        return replace(
            route,
            header_rules=rules,
            grant=names,
            body=body,
            repeat_on_401=repeats,
            invalid_token_only=self._refresh_on_401 == "invalid_token",
        )

    def _header_rules(self, rules: HeaderRules, fields: frozenset[str]) -> HeaderRules:
        """One value for each set of names, since rules are compared by identity."""
        found = self._rules.get((rules, fields))
        if found is None:
            found = self._rules[rules, fields] = replace(rules, strip=rules.strip | {name.encode("ascii") for name in fields})
        return found
