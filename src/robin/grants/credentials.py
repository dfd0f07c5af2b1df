"""The credentials of a plane: by the grant that a Permit's route names, from the cache, or straight from the identity.

A grant that calls no issuer bypasses the cache: the identity keeps its token fresh, and only the line built of the last token is kept.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from robin.grants.cache import CredentialCache
from robin.grants.grant import Grant, GrantFailure
from robin.grants.run import GrantDriver, run_without_issuer
from robin.model.credential import NO_CREDENTIAL, Credential
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.verdict import Permit


class GrantedCredentials:
    """A `grants.grant.Credentials`. `grants` maps the names that routes use; the empty name injects nothing.

    `cache` and `driver` may be None where no grant calls an issuer.
    """

    __slots__ = ("_cache", "_driver", "_grants", "_lines", "_wall")

    def __init__(
        self,
        grants: Mapping[str, Grant],
        *,
        wall: Callable[[], float],
        cache: CredentialCache | None = None,
        driver: GrantDriver | None = None,
    ) -> None:
        if (cache is None or driver is None) and any(grant.calls_issuer for grant in grants.values()):
            raise ValueError("a grant that calls an issuer needs a cache and a driver")
        self._grants = dict(grants)
        self._wall = wall
        self._cache = cache
        self._driver = driver
        self._lines: dict[str, Credential] = {}  # by grant, of the token in use

    def ready(self, permit: Permit) -> Credential | None:
        """Return the credential if one is usable now; None when it must be obtained."""
        name = permit.route.grant
        built = self._lines.get(name)
        if built is None:
            return self._ready_otherwise(name)
        token = self._grants[name].identity.ready()
        if token is built.identity:
            return built
        return None if token is None else self._build(name, self._grants[name], token)

    def _ready_otherwise(self, name: str) -> Credential | None:
        """As `ready`, for the empty name, a grant that calls an issuer, and one whose line was not built yet."""
        if not name:
            return NO_CREDENTIAL
        grant = self._grants[name]
        if grant.calls_issuer:
            assert self._cache is not None
            return self._cache.ready(grant.key)
        token = grant.identity.ready()
        return None if token is None else self._build(name, grant, token)

    async def obtain(self, permit: Permit) -> Credential:
        """Return the credential after a bounded wait. Raises Fault with a code of the identity or of the issuer."""
        name = permit.route.grant
        if not name:
            return NO_CREDENTIAL
        grant = self._grants[name]
        if not grant.calls_issuer:
            token = await grant.identity.obtain()
            built = self._lines.get(name)
            return built if built is not None and built.identity is token else self._build(name, grant, token)
        assert self._cache is not None
        assert self._driver is not None
        driver = self._driver

        def fetch() -> Coroutine[Any, Any, tuple[Credential, float]]:
            return driver.run(grant)

        try:
            return await self._cache.obtain(grant.key, fetch)
        except GrantFailure as failure:
            raise Fault(failure.code, failure.detail, retry_after_s=failure.retry_after_s) from None

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """Record that the origin responded 401 to this credential."""
        grant = self._grants.get(permit.route.grant)
        if grant is None:
            return
        if grant.calls_issuer:
            assert self._cache is not None
            self._cache.rejected(grant.key, credential)
        elif credential.identity is not None:
            grant.identity.rejected(credential.identity)

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """Record the same, and return the credential in use now; None if it is the one that was refused, or none is."""
        self.rejected(permit, credential)
        fresh = self.ready(permit)
        return None if fresh is credential else fresh

    def _build(self, name: str, grant: Grant, token: IdentityToken) -> Credential:
        issued = run_without_issuer(grant.flow(token, self._wall()))
        credential = Credential(fields=issued.fields, note=grant.name, identity=token)
        self._lines[name] = credential
        return credential
