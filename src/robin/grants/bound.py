"""The credentials of bindings: for each request those that were selected, each written into its own header field.

A token is cached by what it depends on, and not by where it is used; the field is built here, of the binding. All grants of a request must
succeed before a byte is sent. A new generation replaces all bindings at once: a request that waited for one that is gone is refused.
"""

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from robin.grants.cache import CredentialCache
from robin.grants.grant import Grant, GrantFailure
from robin.grants.run import GrantDriver
from robin.model.credential import NO_CREDENTIAL, Credential
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.verdict import Permit
from robin.wire.oauth import render_field


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundGrant:
    """How one field is filled: `header: prefix token`, with the token of `grant`. `provider` and `credential` name it in faults."""

    provider: str
    credential: str
    header: str
    prefix: str
    grant: Grant


class BoundCredentials:
    """A `grants.grant.Credentials`. A route names the grants of its bindings, with spaces between them; without one nothing is injected."""

    __slots__ = ("_bound", "_cache", "_driver", "_joined", "_written")

    def __init__(self, *, cache: CredentialCache, driver: GrantDriver) -> None:
        self._cache = cache
        self._driver = driver
        self._bound: dict[str, BoundGrant] = {}
        self._written: dict[str, tuple[Credential | IdentityToken, Credential]] = {}  # by name: of what, and the field
        self._joined: dict[str, Credential] = {}  # by the names of a route

    def use(self, bound: Mapping[str, BoundGrant]) -> None:
        """Begin a generation: these are all the bindings from now on. A name stands for the same header and grant for ever."""
        self._bound = dict(bound)
        self._cache.retain(frozenset(one.grant.key for one in bound.values()))
        self._written = {name: written for name, written in self._written.items() if name in bound}
        self._joined.clear()

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
            grant = bound.grant
            source = self._cache.ready(grant.key) if grant.calls_issuer else grant.identity.ready()
            if source is None:
                return None
            parts.append(self._write(name, bound, source))
        return self._join(names, parts)

    async def obtain(self, permit: Permit) -> Credential:
        """Return the credential after a bounded wait. Raises Fault with a code of the identity or of the issuer, or `binding_withdrawn`."""
        names = permit.route.grant
        if not names:
            return NO_CREDENTIAL
        parts = []
        for name in names.split(" "):
            bound = self._bound.get(name)
            if bound is None:
                raise _withdrawn()
            source = await self._obtain_one(bound)
            if name not in self._bound:
                raise _withdrawn()
            parts.append(self._write(name, bound, source))
        return self._join(names, parts)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """Record that the origin responded 401: each part is fetched anew for later requests, at most once per interval."""
        for bound, source in self._sources(permit, credential):
            if isinstance(source, IdentityToken):
                bound.grant.identity.rejected(source)
            else:
                self._cache.rejected(bound.grant.key, source)

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """Record the same, and return another credential after a bounded wait; None if no part of it was replaced."""
        try:
            for bound, source in self._sources(permit, credential):
                if isinstance(source, IdentityToken):
                    await bound.grant.identity.renew(source)
                else:
                    await self._cache.renew(bound.grant.key, source)
        except Fault:
            return None  # no identity now: the 401 stands
        fresh = self.ready(permit)
        return None if fresh is credential else fresh

    async def _obtain_one(self, bound: BoundGrant) -> Credential | IdentityToken:
        grant = bound.grant
        if not grant.calls_issuer:
            return await grant.identity.obtain()

        def fetch() -> Coroutine[Any, Any, tuple[Credential, float]]:
            return self._driver.run(grant)

        try:
            return await self._cache.obtain(grant.key, fetch)
        except GrantFailure as failure:
            members = {"class": failure.failure_class.value, "provider": bound.provider, "credential": bound.credential}
            if failure.issuer_error:
                members["issuer_error"] = failure.issuer_error
            raise Fault(failure.code, failure.detail, retry_after_s=failure.retry_after_s, members=members) from None

    def _sources(self, permit: Permit, credential: Credential) -> list[tuple[BoundGrant, Credential | IdentityToken]]:
        """What each part of a credential was built of, where it is still in use."""
        names = permit.route.grant.split(" ") if permit.route.grant else []
        found = []
        for name, part in zip(names, credential.parts or (credential,), strict=False):
            bound, written = self._bound.get(name), self._written.get(name)
            if bound is not None and written is not None and written[1] is part:
                found.append((bound, written[0]))
        return found

    def _write(self, name: str, bound: BoundGrant, source: Credential | IdentityToken) -> Credential:
        """The field with the token of `source`; it is built once for each token."""
        written = self._written.get(name)
        if written is not None and written[0] is source:
            return written[1]
        identity = source if isinstance(source, IdentityToken) else source.identity
        token = source.value if isinstance(source, IdentityToken) else source.token
        assert token is not None
        field = render_field(bound.header, bound.prefix, token)
        credential = Credential(fields=(field,), note=f"{bound.provider}/{bound.credential}", identity=identity)
        if name in self._bound:
            self._written[name] = (source, credential)
        return credential

    def _join(self, names: str, parts: list[Credential]) -> Credential:
        if len(parts) == 1:
            return parts[0]
        joined = self._joined.get(names)
        if joined is not None and all(one is other for one, other in zip(joined.parts, parts, strict=True)):
            return joined
        fields = tuple(field for part in parts for field in part.fields)
        joined = Credential(fields=fields, note=" ".join(part.note for part in parts), identity=parts[0].identity, parts=tuple(parts))
        self._joined[names] = joined
        return joined


def _withdrawn() -> Fault:
    return Fault("binding_withdrawn", "reload: a new configuration took this credential away from this caller and place")
