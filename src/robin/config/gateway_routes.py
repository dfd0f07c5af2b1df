"""The reverse routes of the gateway's section: their keys, and the routes that are built of them, or what is wrong."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from robin.config.addresses import parse_upstream, reaches
from robin.config.diagnostic import Position
from robin.config.gateway_listeners import Add, At
from robin.config.parse import BOOLEAN, TEXT, InvalidValue, Kind, choice
from robin.config.schema import Field, Mapping, Scalar, Schema
from robin.config.schema import Sequence as Listed
from robin.config.yaml_reader import Located
from robin.model.address import Address
from robin.model.origin import UpstreamUrl
from robin.policy.address_guard import is_private_network
from robin.policy.callers import CallerPattern
from robin.policy.patterns import (
    HostPattern,
    NotCanonical,
    PathPattern,
    PatternError,
    canonical_path,
    parse_host_pattern,
    parse_methods,
    parse_path_pattern,
)
from robin.policy.reverse import Allow, ReverseRoute, find_route_ties

_PREFIX_FIX: Final = "write the first segments of a path, such as /api"
_BYPASS_FIX: Final = "write a whole path such as /healthz, or one that ends with /* behind a segment"

Callers = Callable[[Located, Located], tuple[CallerPattern, ...]]
"""The patterns of a list of callers, which stands in an entry."""


def route_schema(name: Kind) -> Mapping:
    """The keys of one route."""

    def key(name: str, kind: Kind, default: str | None = None, text: str = "") -> Field:
        return Field(name=name, schema=Scalar(kind=kind, default=default), help=text)

    def listed(name: str, text: str, item: Schema | None = None) -> Field:
        return Field(name=name, schema=Listed(item=Scalar(kind=TEXT) if item is None else item), help=text)

    allow = Mapping(
        fields=(
            listed("callers", "required: ids, patterns, names of callers; * is every authenticated caller"),
            listed("methods", "upper case; empty: any"),
            listed("paths", "of those that are asked for, with the prefix: /a, /a/*, /a/**; empty: any"),
        )
    )
    return Mapping(
        fields=(
            Field(name="name", schema=Scalar(kind=name), help="unique; in records and refusals", required=True),
            listed("hosts", "of the requests: names, *.S, **.S, p*q.S, addresses; empty: any"),
            key("path_prefix", TEXT, "/", "whole segments; the longest one wins, then the most specific host"),
            key("strip_prefix", BOOLEAN, "true", "the prefix is not sent"),
            Field(name="upstream", schema=Scalar(kind=TEXT), help="https://host[:port][/base]", required=True),
            key("unsafe_plaintext", BOOLEAN, "false", "the upstream may be http"),
            listed("bypass_paths", "paths, or `/a/*`, for which no caller is asked: without any credential"),
            listed("allow", "who may use it; empty: no caller", allow),
            listed("upgrade", "websocket", Scalar(kind=choice("websocket"))),
            listed("private", "private networks in which the upstream may be"),
        )
    )


def build_routes(
    listed: Located, add: Add, at: At, *, callers: Callers, own: Sequence[Address], self_names: Iterable[str]
) -> tuple[ReverseRoute, ...]:
    """The routes. `own` are the addresses of this gateway's listeners, `self_names` the names of its Services."""
    builder = _Routes(add, at, callers, own, frozenset(self_names))
    routes: list[ReverseRoute] = []
    places: dict[str, Position] = {}
    for entry in listed.value:
        route = builder.build(entry)
        if route is None:
            continue
        if route.name in places:
            add(at(entry), "value_invalid", f"two routes have the name {route.name}", "give each its own name")
        places[route.name] = at(entry)
        routes.append(route)
    for one, other, host in find_route_ties(routes):
        what = f"{one.name} and {other.name} both have {one.prefix or '/'} of {host or 'any host'}, with equal rank"
        add(places[other.name], "route_tie", what, "give one of them a longer prefix or other hosts")
    return tuple(routes)


class _Routes:
    """Builds one after the other. `_wrong` is set once an error was noted."""

    def __init__(self, add: Add, at: At, callers: Callers, own: Sequence[Address], self_names: frozenset[str]) -> None:
        self._add_error = add
        self._at = at
        self._callers = callers
        self._own = own
        self._self_names = self_names
        self._wrong = False

    def _add(self, at: Position, code: str, message: str, fix: str) -> None:
        self._wrong = True
        self._add_error(at, code, message, fix)

    def build(self, entry: Located) -> ReverseRoute | None:
        """The route of an entry; None: what is wrong was noted."""
        part: dict[str, Located] = entry.value
        self._wrong = False
        upstream = self._upstream(part, entry)
        hosts = tuple(host for item in part["hosts"].value if (host := self._host(item, entry)) is not None)
        prefix = self._prefix(part["path_prefix"], entry)
        bypass = tuple(path for item in part["bypass_paths"].value if (path := self._bypass(item, entry)) is not None)
        allow = tuple(one for item in part["allow"].value if (one := self._allow(item)) is not None)
        for item in part["private"].value:
            if not is_private_network(item.value):
                fix = "use networks inside 10/8, 172.16/12, 192.168/16, fc00::/7, 100.64/10"
                self._add(self._at(item, entry), "private_cidr", "the network is not a private one", fix)
        if self._wrong or upstream is None:
            return None
        return ReverseRoute(
            name=part["name"].value,
            origin=upstream.origin,
            hosts=hosts,
            prefix=prefix,
            strip=part["strip_prefix"].value,
            base=upstream.base_path,
            bypass=bypass,
            allow=allow,
            upgrades=frozenset(part["upgrade"].plain()),
            private=tuple(part["private"].plain()),
        )

    def _upstream(self, part: dict[str, Located], entry: Located) -> UpstreamUrl | None:
        where = self._at(part["upstream"], entry)
        try:
            upstream = parse_upstream(part["upstream"].value)
        except InvalidValue as error:
            self._add(where, "value_invalid", error.what, error.fix)
            return None
        origin, base = upstream.origin, upstream.base_path
        try:
            canonical = not base or canonical_path(base).encode("ascii") == base
        except NotCanonical:
            canonical = False
        if not canonical:
            self._add(where, "value_invalid", "the base path of the upstream is not canonical", "write it without needless escapes")
        if origin.scheme == "http" and not part["unsafe_plaintext"].value:
            fix = "use https, or set unsafe_plaintext: true"
            self._add(where, "value_invalid", "an http upstream gets requests and credentials in cleartext", fix)
        if origin.host in self._self_names or any(reaches(origin, address) for address in self._own):
            self._add(where, "self_target", "the upstream is this gateway itself", "name another one")
        return upstream

    def _host(self, item: Located, entry: Located) -> HostPattern | None:
        try:
            return parse_host_pattern(item.value, rule=True)
        except PatternError as error:
            self._add(self._at(item, entry), error.code, str(error), "write a name, *.S, **.S or p*q.S, without a port")
            return None

    def _prefix(self, item: Located, entry: Located) -> str:
        text = item.value.removesuffix("/")
        try:
            if "*" in text:
                raise NotCanonical("wildcard")
            return canonical_path(text.encode("utf-8")) if text else ""
        except NotCanonical as error:
            self._add(self._at(item, entry), "pattern_invalid", f"the prefix is no canonical path ({error})", _PREFIX_FIX)
            return ""

    def _bypass(self, item: Located, entry: Located) -> PathPattern | None:
        """An exact path, or `/*` behind one: never a pattern that opens a whole route."""
        exact = item.value.removesuffix("/*")
        try:
            if exact.strip("/") == "" or "*" in exact:
                raise NotCanonical("too_broad")
            if "%25" in canonical_path(exact.encode("utf-8")):
                raise NotCanonical("double_escape")
            return parse_path_pattern(item.value)
        except (NotCanonical, PatternError) as error:
            self._add(self._at(item, entry), "bypass_pattern", f"this is no path that may go without a caller ({error})", _BYPASS_FIX)
            return None

    def _allow(self, entry: Located) -> Allow | None:
        part: dict[str, Located] = entry.value
        if not part["callers"].value:
            self._add(self._at(part["callers"], entry), "value_invalid", "an entry without callers allows no caller", "name callers, or *")
            return None
        callers = self._callers(part["callers"], entry)
        try:
            methods = parse_methods([item.value for item in part["methods"].value])
            paths = tuple(parse_path_pattern(item.value) for item in part["paths"].value)
        except PatternError as error:
            self._add(self._at(entry), error.code, str(error), "write methods in upper case, and paths such as /a/*")
            return None
        return Allow(callers=callers, methods=methods, paths=() if any(path.is_any for path in paths) else paths)
