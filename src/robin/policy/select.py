"""Which credentials one request gets: for each header name, the most specific binding of a provider that matches; pure.

A binding is one credential at one endpoint and port of a provider, or at one of its overrides. It is matched with what is dialled and
verified, never with what a caller wrote. Rules of the endpoint (access, allow and deny rules) are judged after the selection: they refuse a
request, and never move it to another binding.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from robin.policy.callers import CallerPattern
from robin.policy.patterns import ANY_METHOD, HostKind, HostPattern, Methods, PathPattern, Rank, rank, text_matches
from robin.policy.signing import Payload, Signing

_CALLERS_KEPT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundRequest:
    """What a binding is matched with. `callers` are all patterns of providers that the caller matches (`Selector.patterns_of`).

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
        return not self.path or text_matches(self.path.split("*"), path)


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
    def sees_all_alike(self) -> bool:
        """Whether neither method nor path can change the judgement."""
        return self.access.names is None and not self.reads_paths and not self.upgrade_only

    @property
    def reads_paths(self) -> bool:
        """Whether a path can change the judgement."""
        return bool(self.allow or self.deny)


OPEN: Final = EndpointRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """One credential at one place. `index` numbers the bindings of a credential as its profile lists them, overrides behind endpoints.

    `callers` are the texts of caller patterns. `header` is the field as it is written, `prefix` stands before the token in it. `grant`
    names the grant that obtains the token: equal names obtain the same one. `allowed_ips`: networks that the dialled address must be in;
    () for any that the address guard permits. `subject_fields`: fields of a request, by their canonical names, with tokens to be exchanged.
    `also`: other fields that it writes. `signing` None: the token is written as it is. `placeholder`: what clients may send in its
    place, "" for nothing.
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
    subject_fields: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()
    signing: Signing | None = None
    placeholder: str = ""

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
    def fields(self) -> frozenset[str]:
        """The names of all fields that it writes."""
        return frozenset({self.field, *(name.lower() for name in self.also)})

    @property
    def same(self) -> tuple[str, str, str, Signing | None]:
        """What two bindings that would do the same have in common: they write the same field with the same token."""
        return self.field, self.prefix, self.grant, self.signing

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
    """The bindings of one request, one for each header name, in the order of the names. `refusal`: the request must not travel, and why.

    `code` is that of the refusal. `payload`: what stands for the body where one of the bindings signs.
    """

    bindings: tuple[Binding, ...] = ()
    refusal: str = ""
    code: str = "endpoint_closed"
    payload: Payload | None = None

    @property
    def grants(self) -> str:
        """The names of their grants, each once, with spaces between them: what a route has."""
        return " ".join(dict.fromkeys([binding.grant for binding in self.bindings]))

    @property
    def signing(self) -> Signing | None:
        """How the request is signed; at most one binding signs, since all that do write Authorization."""
        return next((binding.signing for binding in self.bindings if binding.signing is not None), None)


NOTHING: Final = Selection()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One binding and what became of it: `reason` is "wins", or why it does not: the part that does not match, or the binding that wins."""

    binding: Binding
    reason: str


class Selector:
    """All bindings of one generation of the configuration, found by host."""

    __slots__ = ("_callers", "_exact", "_fields", "_patterns", "_wildcards", "bindings")

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self.bindings = tuple(bindings)
        self._exact: dict[str, list[Binding]] = {}
        self._wildcards: list[Binding] = []
        self._fields: dict[frozenset[str], frozenset[str]] = {}
        self._patterns = tuple(CallerPattern(text=text) for text in sorted({text for one in self.bindings for text in one.callers}))
        self._callers: dict[str, frozenset[str]] = {}
        for binding in sorted(self.bindings, key=lambda one: one.rank, reverse=True):
            if binding.host.kind is HostKind.EXACT:
                self._exact.setdefault(binding.host.text, []).append(binding)
            else:
                self._wildcards.append(binding)

    def patterns_of(self, caller: str) -> frozenset[str]:
        """The patterns of all providers that this caller id matches."""
        found = self._callers.get(caller)
        if found is None:
            if len(self._callers) >= _CALLERS_KEPT:
                self._callers.clear()
            found = self._callers[caller] = frozenset(pattern.text for pattern in self._patterns if pattern.matches(caller))
        return found

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

    def looks_at_requests(self, host: str, port: int) -> bool:
        """Whether a binding at this place looks at methods or paths."""
        return any(
            one.port == port and one.host.matches(host) and not (one.path.is_any and one.methods.names is None and one.rules.sees_all_alike)
            for one in (*self._exact.get(host, ()), *self._wildcards)
        )

    def allows_encoded_slash(self, host: str, port: int) -> bool:
        """Whether every binding at this place that looks at paths takes `%2F` for a character of a segment."""
        found = [one for one in (*self._exact.get(host, ()), *self._wildcards) if one.port == port and one.host.matches(host)]
        return all(one.rules.allow_encoded_slash for one in found if not one.path.is_any or one.rules.reads_paths)

    def bound(self, callers: frozenset[str], scheme: str, host: str, port: int) -> tuple[Binding, ...]:
        """The bindings from which a request of this caller to this place could get a credential: then the gateway must see it."""
        return tuple(
            binding
            for binding in (*self._exact.get(host, ()), *self._wildcards)
            if binding.callers & callers and binding.scheme == scheme and binding.port == port and binding.host.matches(host)
        )

    def fields_at(self, host: str, port: int) -> frozenset[str]:
        """The names of all fields that a provider of any caller can write at this place, or takes a token from."""
        found = [one for one in (*self._exact.get(host, ()), *self._wildcards) if one.port == port and one.host.matches(host)]
        return frozenset(name for binding in found for name in binding.fields | binding.subject_fields)

    def fields_of(self, callers: frozenset[str]) -> frozenset[str]:
        """The names of all fields that a provider of this caller can write or takes a token from.

        They are stripped from what it sends, wherever it goes.
        """
        found = self._fields.get(callers)
        if found is None:
            if len(self._fields) >= _CALLERS_KEPT:
                self._fields.clear()
            found = self._fields[callers] = frozenset(
                name for binding in self.bindings if binding.callers & callers for name in binding.fields | binding.subject_fields
            )
        return found
