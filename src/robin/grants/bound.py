"""The credentials of bindings: for each request those that were selected, each written into its own header field.

A token is cached by what it depends on, and not by where it is used; the field is built here, of the binding. All grants of a request must
succeed before a byte is sent. A new generation replaces all bindings at once: a request that waited for one that is gone is refused.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from robin.grants.cache import CredentialCache
from robin.grants.files import FileToken
from robin.grants.grant import GivenToken, Grant, GrantFailure, GrantFailureClass
from robin.grants.metrics import GrantMetrics
from robin.grants.resolve import CacheKey, Resolved, check_left, own_key, resolve
from robin.grants.run import GrantDriver, hash_of
from robin.model.credential import NO_CREDENTIAL, Credential
from robin.model.faults import FAULTS, Fault
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.wire.oauth import ACCESS_TOKEN, basic_pair, render_field, token_expires_at

Source = Credential | IdentityToken | FileToken
"""What a field is built of."""

_UNAUTHORIZED: Final = 401
_SESSION_TOKEN: Final = "X-Amz-Security-Token"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundGrant:
    """How one field is filled: `header: prefix token`, with the token of `grant`. `provider` and `credential` name it in faults.

    `more` are further lines, the same for each request. With the style `basic` the token is the password of `username`.
    """

    provider: str
    credential: str
    header: str
    prefix: str
    grant: Grant
    style: str = "bearer"
    more: tuple[Secret, ...] = ()
    username: str = ""


_Look = tuple[BoundGrant | None, Mapping[str, object], str]
"""A binding, None if it was withdrawn, the facts of its credential, and how a request finds it."""


class BoundCredentials:
    """A `grants.grant.Credentials`. A route names the grants of its bindings, with spaces between them; without one nothing is injected."""

    __slots__ = ("_bound", "_cache", "_current", "_described", "_driver", "_joined", "_keys", "_owners", "_wall", "_written", "metrics")

    def __init__(
        self, *, cache: CredentialCache, driver: GrantDriver, wall: Callable[[], float], metrics: GrantMetrics | None = None
    ) -> None:
        self._cache = cache
        self._driver = driver
        self._wall = wall
        self._bound: dict[str, BoundGrant] = {}
        self._owners: dict[Hashable, BoundGrant] = {}  # by the key of a grant: the first binding that has it
        self._keys: dict[str, CacheKey] = {}  # by name: of each that an issuer is asked for, and that is the same for every request
        self._current: dict[Hashable, Grant] = {}  # the grants of this generation, and the stages before them
        self._written: dict[str, Credential] = {}  # by name: the field of the token in use
        self._joined: dict[str, Credential] = {}  # by the names of a route
        self._described: dict[str, tuple[list[_Look], list[dict[str, object]]]] = {}  # the same: what a record had last about them
        self.metrics = metrics or GrantMetrics()
        self.metrics.entries = cache.__len__
        self.metrics.flights = lambda: Counter(self.owner(key) for key in cache.flights())
        self.metrics.negative = lambda: Counter(one.value for one in cache.waiting())
        self.metrics.usable_s = self._usable_s

    def owner(self, key: Hashable) -> str:
        """The name of the first provider that has a grant of this key of the cache, for metrics."""
        bound = self._owners.get(_own(key))
        return "" if bound is None else bound.provider

    def _usable_s(self) -> dict[tuple[str, str], float]:
        """The lowest of each credential."""
        lowest: dict[Hashable, float] = {}
        for key, left_s in self._cache.usable_s():
            lowest[_own(key)] = min(left_s, lowest.get(_own(key), left_s))
        found: dict[tuple[str, str], float] = {}
        for bound in self._bound.values():
            own_s = lowest.get(bound.grant.key)
            if own_s is not None:
                name = bound.provider, bound.credential
                found[name] = min(own_s, found.get(name, own_s))
        return found

    def use(self, bound: Mapping[str, BoundGrant]) -> None:
        """Begin a generation: these are all the bindings from now on. A name stands for the same header and grant for ever."""
        self._bound = dict(bound)
        stages = [(grant, one) for one in bound.values() for grant in _stages(one.grant)]
        self._owners = {grant.key: one for grant, one in reversed(stages)}
        self._current = {grant.key: grant for grant, _ in stages}
        self._keys = {name: own_key(one.grant) for name, one in bound.items() if one.grant.calls_issuer and not one.grant.is_given_tokens}
        self._cache.retain(lambda key: _own(key) in self._current)
        self._written = {name: written for name, written in self._written.items() if name in bound}
        self._joined.clear()
        self._described.clear()

    def describe(self, permit: Permit, notes: Mapping[str, object]) -> list[dict[str, object]]:
        """What the record of an exchange has about each of its credentials, whether there is one by now or not.

        The list is the same as long as it says the same, and must not be changed.
        """
        names = permit.route.grant
        if not names:
            return []
        states = cast("Mapping[str, str]", notes.get("cache") or {})
        used = cast("Mapping[str, Credential]", notes.get("single_use") or {})
        looks: list[_Look] = []
        for name in names.split(" "):
            bound = self._bound.get(name)
            if bound is None:
                looks.append((None, {}, states.get(name, "miss")))
                continue
            facts, state = self._look(name, bound, permit)
            looks.append((bound, used[name].facts if name in used else facts, states.get(name) or state))
        known = self._described.get(names)
        if known is not None and known[0] == looks:  # by identity first, as tuples compare
            return known[1]
        found = [_describe(name, *look) for name, look in zip(names.split(" "), looks, strict=True)]
        if not used:
            self._described[names] = looks, found
        return found

    def _look(self, name: str, bound: BoundGrant, permit: Permit) -> tuple[Mapping[str, object], str]:
        """The facts of a credential, and how a request finds it now."""
        key = self._keys.get(name)
        if key is None and bound.grant.calls_issuer:
            try:
                key = self._resolve(bound.grant, permit).key
            except Fault:
                return bound.grant.facts, "miss"
        held, state = (None, "bypass") if key is None else self._cache.look(key)
        found = held or self._written.get(name)
        return (bound.grant.facts if found is None else found.facts), state

    def ready(self, permit: Permit) -> Credential | None:
        """Return the credential if all of it is usable now; None when it must be obtained."""
        names = permit.route.grant
        if not names:
            return NO_CREDENTIAL
        parts = []
        for name in names.split(" "):
            bound = self._bound.get(name)
            if bound is None:
                return None  # `obtain` says why
            try:
                source, key = self._ready_one(name, bound.grant, permit)
            except Fault:
                return None  # as above
            if source is None:
                return None
            written = self._written.get(name)
            parts.append(written if written is not None and written.source is source else self._write(name, bound, source, key))
        return parts[0] if len(parts) == 1 else self._join(names, parts)

    def _ready_one(self, name: str, grant: Grant, permit: Permit) -> tuple[Source | None, Hashable]:
        """What is usable now, and its key in the cache. Raises Fault."""
        if grant.calls_issuer:
            key = self._keys.get(name) or self._resolve(grant, permit).key
            return self._cache.ready(key), key
        if grant.token_file is not None:
            return grant.token_file.ready(), None
        assert grant.identity is not None
        return grant.identity.ready(), None

    def _resolve(self, grant: Grant, permit: Permit) -> Resolved:
        """Raises Fault."""
        return resolve(grant, permit.subjects, self._wall())

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """Return the credential after a bounded wait. Raises Fault with a code of the identity or of the issuer, or `binding_withdrawn`."""
        names = permit.route.grant
        if not names:
            return NO_CREDENTIAL
        parts = []
        states = cast("dict[str, str]", notes.setdefault("cache", {}))
        used = cast("dict[str, Credential]", notes.setdefault("single_use", {}))
        for name in names.split(" "):
            bound = self._bound.get(name)
            if bound is None:
                raise _withdrawn()
            if name in used:  # obtained for this request alone, which has waited for something else since
                parts.append(used[name])
                continue
            try:
                source, key = await self._obtain_one(name, bound, permit, states)
            except Fault as fault:
                raise _named(fault, bound) from None
            if name not in self._bound:
                raise _named(_withdrawn(), bound)
            parts.append(self._write(name, bound, source, key))
            if parts[-1].single_use:
                used[name] = parts[-1]
        return self._join(names, parts)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """Record that the origin responded 401: each part is fetched anew for later requests, at most once per interval."""
        for part, bound in self._sources(permit, credential):
            if isinstance(part.source, IdentityToken):
                assert bound.grant.identity is not None
                bound.grant.identity.rejected(part.source)
            elif isinstance(part.source, Credential):
                self._cache.rejected(part.key, part.source)

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """Record the same, and return another credential after a bounded wait; None if no part of it was replaced."""
        try:
            for part, bound in self._sources(permit, credential):
                if isinstance(part.source, IdentityToken):
                    assert bound.grant.identity is not None
                    await bound.grant.identity.renew(part.source)
                elif isinstance(part.source, Credential):
                    await self._cache.renew(part.key, part.source)
                elif bound.grant.token_file is not None:
                    bound.grant.token_file.ready(at_once=True)
        except Fault:
            return None  # no identity now: the 401 stands
        fresh = self.ready(permit)
        return None if fresh is None or _made_of(fresh) == _made_of(credential) else fresh

    async def _obtain_one(self, name: str, bound: BoundGrant, permit: Permit, states: dict[str, str]) -> tuple[Source, Hashable]:
        """Raises Fault."""
        grant = bound.grant
        if grant.token_file is not None:
            states[name] = "bypass"
            return grant.token_file.ready(), None
        if not grant.calls_issuer:
            states[name] = "bypass"
            assert grant.identity is not None
            return await grant.identity.obtain(), None
        asked = self._resolve(grant, permit)
        _, states[name] = self._cache.look(asked.key)
        self.metrics.waiters[bound.provider] += 1
        try:
            found = await self._issued(asked)
        except GrantFailure as failure:
            if failure.code == "issuer_overloaded":
                self.metrics.throttled[bound.provider] += 1
            raise _fault(failure, of_caller=_is_of_caller(grant)) from None
        finally:
            self.metrics.waiters[bound.provider] -= 1
        self._resolve(grant, permit)  # its subject may have expired meanwhile
        return found, asked.key

    async def _issued(self, asked: Resolved) -> Credential:
        """From the cache, or after a fetch. Raises GrantFailure, Fault."""

        def fetch() -> Coroutine[Any, Any, tuple[Credential, float]]:
            return self._fetch(asked)

        return await self._cache.obtain(asked.key, fetch, waits=min(2, asked.grant.stages))

    async def _fetch(self, asked: Resolved) -> tuple[Credential, float]:
        """One fetch, of the stage before first. The cache keeps it, and a later generation may have another grant of this key."""
        grant = self._current.get(asked.grant.key, asked.grant)
        before = asked.previous
        if before is None:
            return await self._driver.run(grant, subject=asked.subject, actor=asked.actor)
        first = await self._issued(before)

        async def renew() -> GivenToken | None:
            fresh = await self._cache.renew(before.key, first)
            return None if fresh is None else self._subject_of(fresh)

        return await self._driver.run(grant, subject=self._subject_of(first), actor=asked.actor, renew=renew)

    def _subject_of(self, issued: Credential) -> GivenToken:
        """The token of a stage as the subject of the next one. Raises GrantFailure, so that its issuer is not asked without a pause."""
        assert issued.token is not None
        given = GivenToken(value=issued.token, expires_at=token_expires_at(issued.token), type=issued.issued_type or ACCESS_TOKEN)
        try:
            check_left(given, self._wall())
        except Fault as fault:
            raise GrantFailure(GrantFailureClass.INVESTIGATE, fault.code, fault.detail) from None
        return given

    def _sources(self, permit: Permit, credential: Credential) -> list[tuple[Credential, BoundGrant]]:
        """Each part of a credential whose binding is still in use."""
        names = permit.route.grant.split(" ") if permit.route.grant else []
        pairs = zip(names, credential.parts or (credential,), strict=False)
        return [(part, self._bound[name]) for name, part in pairs if name in self._bound]

    def _write(self, name: str, bound: BoundGrant, source: Source, key: Hashable) -> Credential:
        """The field with the token of `source`; it is built once for each token, but for those of a request alone."""
        written = self._written.get(name)
        if written is not None and written.source is source:
            return written
        single_use = isinstance(source, Credential) and source.single_use
        token = source.token if isinstance(source, Credential) else source.value
        assert token is not None
        written_as = basic_pair(bound.username, token) if bound.style == "basic" else token
        signing = source.signing if isinstance(source, Credential) else None
        credential = Credential(
            fields=(render_field(_SESSION_TOKEN if signing else bound.header, bound.prefix, written_as), *bound.more),
            note=f"{bound.provider}/{bound.credential}",
            identity=source.identity if isinstance(source, Credential) else source if isinstance(source, IdentityToken) else None,
            tokens=(token,) if written_as is token else (token, written_as),
            single_use=single_use,
            facts=source.facts if isinstance(source, Credential) else _facts_of(bound.grant, source),
            source=source,
            key=key,
            signing=signing,
        )
        if name in self._bound and not single_use and not bound.grant.is_given_tokens:
            self._written[name] = credential
        return credential

    def _join(self, names: str, parts: list[Credential]) -> Credential:
        if len(parts) == 1:
            return parts[0]
        joined = self._joined.get(names)
        if joined is not None and all(one is other for one, other in zip(joined.parts, parts, strict=True)):
            return joined
        fields = tuple(field for part in parts for field in part.fields)
        joined = Credential(
            fields=fields,
            note=" ".join(part.note for part in parts),
            identity=parts[0].identity,
            parts=tuple(parts),
            tokens=tuple(token for part in parts for token in part.tokens),
            single_use=any(part.single_use for part in parts),
            signing=next((part.signing for part in parts if part.signing is not None), None),
        )
        self._joined[names] = joined
        return joined


def _describe(name: str, bound: BoundGrant | None, facts: Mapping[str, object], state: str) -> dict[str, object]:
    if bound is None:
        return {"binding": name, "cache": state}
    return {
        **facts,
        "provider": bound.provider,
        "credential": bound.credential,
        "binding": name,
        "kind": bound.grant.name,
        "style": bound.style,
        "cache": state,
    }


def _own(key: Hashable) -> Hashable:
    """The part of a key of the cache that is the grant's."""
    return key[0] if isinstance(key, tuple) else key


def _stages(grant: Grant) -> Iterator[Grant]:
    """A grant, and those before it."""
    found: Grant | None = grant
    while found is not None:
        yield found
        found = found.previous


def _is_of_caller(grant: Grant) -> bool:
    return any(one.subject_header for one in _stages(grant))


def _made_of(credential: Credential) -> list[int]:
    """What tells two credentials apart: the very tokens that their parts were made of."""
    return [id(part.source) for part in credential.parts or (credential,)]


def _facts_of(grant: Grant, token: IdentityToken | FileToken) -> Mapping[str, object]:
    """Those of a grant without an issuer: its token is that of the identity, or of a file."""
    name = hash_of(token.value)
    if not isinstance(token, IdentityToken):
        return {**grant.facts, "token_hash": name}
    return {**grant.facts, "identity_sub": token.subject, "assertion_hash": name, "token_hash": name}


def _fault(failure: GrantFailure, *, of_caller: bool) -> Fault:
    """A failed grant as a request sees it."""
    members = {"class": failure.failure_class.value}
    if failure.issuer_error:
        members["issuer_error"] = failure.issuer_error
    after_s = None if FAULTS[failure.code].retry_after_s is None else failure.retry_after_s  # some do not pass by waiting
    status = _UNAUTHORIZED if of_caller and failure.code == "subject_refused" else None
    return Fault(failure.code, failure.detail, retry_after_s=after_s, members=members, status=status)


def _named(fault: Fault, bound: BoundGrant) -> Fault:
    """The same with the names of the provider and the credential."""
    members = {**fault.members, "provider": bound.provider, "credential": bound.credential}
    return Fault(fault.code, fault.detail, retry_after_s=fault.retry_after_s, members=members, status=fault.status)


def _withdrawn() -> Fault:
    return Fault("binding_withdrawn", "reload: a new configuration took this credential away from this caller and place")
