"""Which credentials one request gets: for each header name, the most specific binding of a provider that matches; pure.

A binding is one credential at one endpoint and port of a provider, or at one of its overrides. It is matched with what is dialled and
verified, never with what a caller wrote. Rules of the endpoint (access, allow and deny rules) are judged after the selection: they refuse a
request, and never move it to another binding.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from robin.policy.patterns import ANY_METHOD, HostKind, HostPattern, Methods, PathPattern, Rank, rank

EVERY_CALLER: Final = "*"
"""A name that every authenticated caller has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRequest:
    """What a binding is matched with. `callers` are all names that the caller has, EVERY_CALLER among them if it is authenticated.

    `scheme`, `host` and `port` are those of the Permit's origin; `path` is canonical, without the query.
    """

    callers: frozenset[str]
    scheme: str
    host: str
    port: int
    method: str
    path: str
    upgrade: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowRule:
    """One rule of an endpoint that allows; methods and path as everywhere."""

    methods: Methods
    path: PathPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyRule:
    """One rule of an endpoint that denies. In its path `*` also crosses `/`, so that it covers more than an allow rule would."""

    methods: Methods
    path: str

    def matches(self, method: str, path: str) -> bool:
        """Whether it denies this."""
        if not self.methods.matches(method):
            return False
        return not self.path or re.fullmatch(".*".join(map(re.escape, re.split(r"\*+", self.path))), path, re.DOTALL) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRules:
    """What an endpoint allows of the requests that select it. `closed`: why it allows none, "" where it does.

    `allow` None: whatever `access` allows. `upgrade_only`: nothing but a WebSocket handshake.
    """

    closed: str = ""
    access: Methods = ANY_METHOD
    allow: tuple[AllowRule, ...] | None = None
    deny: tuple[DenyRule, ...] = ()
    upgrade_only: bool = False
    allow_encoded_slash: bool = False

    def refusal(self, request: BoundRequest) -> str:
        """Why the request is refused, as a reason word and a sentence; "" if it is allowed."""
        method, path = request.method, request.path
        if self.closed:
            return f"closed: {self.closed}"
        if not self.access.matches(method):
            return f"access: the endpoint allows {self.access}"
        if any(rule.matches(method, path) for rule in self.deny):
            return "deny_rule: a rule of the endpoint denies this"
        if self.allow is not None and not any(rule.methods.matches(method) and rule.path.matches(path) for rule in self.allow):
            return "rules: no rule of the endpoint allows this"
        if self.upgrade_only and not (request.upgrade and method == "GET"):
            return "websocket: the endpoint allows WebSocket handshakes only"
        return ""

    @property
    def reads_paths(self) -> bool:
        """Whether a path can change the judgement."""
        return bool(self.allow or self.deny)


OPEN: Final = EndpointRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One credential at one place. `index` numbers the bindings of a credential as its profile lists them, overrides behind endpoints.

    `header` is the field as it is written, `prefix` stands before the token in it. `grant` names the grant that obtains the token: equal
    names obtain the same one. `allowed_ips`: networks that the dialled address must be in; () for any that the address guard permits.
    """

    provider: str
    credential: str
    index: int
    callers: frozenset[str]
    scheme: str
    host: HostPattern
    port: int
    path: PathPattern
    methods: Methods
    override: bool
    header: str
    prefix: str
    grant: str
    rules: EndpointRules = OPEN
    allowed_ips: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages and records name it."""
        return f"{self.provider}/{self.credential}#{self.index}"

    @property
    def rank(self) -> Rank:
        """How specific it is; the greater one wins."""
        return rank(self.host, self.path, self.methods, override=self.override)

    @property
    def field(self) -> str:
        """The name of the header as names are compared: lower case, `_` as `-`."""
        return self.header.lower().replace("_", "-")

    @property
    def same(self) -> tuple[str, str, str]:
        """What two bindings that would do the same have in common: they write the same field with the same token."""
        return self.field, self.prefix, self.grant

    def mismatch(self, request: BoundRequest) -> str:
        """The first part that does not match, in one word; "" if all do."""
        if not self.callers & request.callers:
            return "caller"
        if self.scheme != request.scheme:
            return "scheme"
        if not self.host.matches(request.host):
            return "host"
        if self.port != request.port:
            return "port"
        if not self.path.matches(request.path):
            return "path"
        return "" if self.methods.matches(request.method) else "method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The bindings of one request, one for each header name, in the order of the names. `refusal`: the request must not travel, and why."""

    bindings: tuple[Binding, ...] = ()
    refusal: str = ""


NOTHING: Final = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One binding and what became of it: `reason` is "wins", or why it does not: the part that does not match, or the binding that wins."""

    binding: Binding
    reason: str


class Selector:
    """All bindings of one generation of the configuration, found by host."""

    __slots__ = ("_exact", "_fields", "_names", "_wildcards", "bindings")

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self.bindings = tuple(bindings)
        self._exact: dict[str, list[Binding]] = {}
        self._wildcards: list[Binding] = []
        self._fields: dict[frozenset[str], frozenset[str]] = {}
        self._names = frozenset(name for binding in self.bindings for name in binding.callers)
        for binding in sorted(self.bindings, key=lambda one: one.rank, reverse=True):
            if binding.host.kind is HostKind.EXACT:
                self._exact.setdefault(binding.host.text, []).append(binding)
            else:
                self._wildcards.append(binding)

    def select(self, request: BoundRequest) -> Selection:
        """Return the best binding for each header name, and whether their endpoints allow the request."""
        best: dict[str, Binding] = {}
        for binding in (*self._exact.get(request.host, ()), *self._wildcards):  # each best first, and an exact host before any wildcard
            if binding.field not in best and not binding.mismatch(request):
                best[binding.field] = binding
        if not best:
            return NOTHING
        chosen = tuple(best[name] for name in sorted(best))
        refusal = next((text for binding in chosen if (text := binding.rules.refusal(request))), "")
        return Selection(bindings=chosen, refusal=refusal)

    def explain(self, request: BoundRequest) -> tuple[Explained, ...]:
        """Return every binding with the reason for which it wins or loses, in the order of the configuration."""
        winners = {binding.field: binding for binding in self.select(request).bindings}
        explained = []
        for binding in self.bindings:
            reason = binding.mismatch(request)
            winner = winners.get(binding.field)
            if not reason:
                assert winner is not None
                reason = "wins" if winner is binding else f"{winner.label} is more specific"
                if winner is not binding and winner.rank == binding.rank:
                    reason = f"{winner.label} is the same"
            explained.append(Explained(binding=binding, reason=reason))
        return tuple(explained)

    def reads_path(self, host: str, port: int) -> bool:
        """Whether a binding at this place looks at paths: then a path without a canonical form must be refused there."""
        return any(
            binding.port == port and binding.host.matches(host) and (not binding.path.is_any or binding.rules.reads_paths)
            for binding in (*self._exact.get(host, ()), *self._wildcards)
        )

    def allows_encoded_slash(self, host: str, port: int) -> bool:
        """Whether every binding at this place that looks at paths takes `%2F` for a character of a segment."""
        found = [one for one in (*self._exact.get(host, ()), *self._wildcards) if one.port == port and one.host.matches(host)]
        return all(one.rules.allow_encoded_slash for one in found if not one.path.is_any or one.rules.reads_paths)

    def bound(self, callers: frozenset[str], scheme: str, host: str, port: int) -> bool:
        """Whether a request of this caller to this place could get a credential: then the gateway must see it."""
        return any(
            binding.callers & callers and binding.scheme == scheme and binding.port == port and binding.host.matches(host)
            for binding in (*self._exact.get(host, ()), *self._wildcards)
        )

    def fields_of(self, callers: frozenset[str]) -> frozenset[str]:
        """The names of all fields that a provider of this caller can write: they are stripped from what it sends, wherever it goes."""
        known = callers & self._names
        found = self._fields.get(known)
        if found is None:
            found = self._fields[known] = frozenset(binding.field for binding in self.bindings if binding.callers & known)
        return found


def grants_of(bindings: Sequence[Binding]) -> Mapping[str, str]:
    """The header names of a selection and the grants that fill them."""
    return {binding.field: binding.grant for binding in bindings}
