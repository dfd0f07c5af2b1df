"""Identities of a development authority in this process: there is no socket and no file at which another program could ask for one."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from robin.identity.identity import Identity, describe
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.transport.clock import Clock
from robin.wire.jwt_inspection import TokenRules, inspect_token


class EmbeddedIdentity:
    """JWT-SVIDs for one audience. An `identity.identity.Identity`; `minted` counts them. `mint` may raise Fault."""

    def __init__(self, mint: Callable[[str], bytes], audience: str, clock: Clock) -> None:
        self.minted = 0
        self._mint = mint
        self._audience = audience
        self._clock = clock
        self._token: IdentityToken | None = None

    def ready(self) -> IdentityToken | None:
        """The token in use."""
        token = self._token
        return token if token is not None and self._clock.wall() < token.usable_until else None

    async def obtain(self) -> IdentityToken:
        """The token in use, or a new one."""
        return self.ready() or self._renew()

    def rejected(self, token: IdentityToken) -> None:
        """The next one is new."""
        if token is self._token:
            self._token = None

    async def renew(self, token: IdentityToken) -> IdentityToken:
        """A new one."""
        self.rejected(token)
        return await self.obtain()

    async def fresh(self) -> IdentityToken:
        """A new one."""
        return self._renew()

    def status(self) -> IdentityStatus:
        """Always usable."""
        return describe("embedded", self._token, self._clock.wall(), usable=True, stale=False, code="")

    async def start(self) -> None:
        """Nothing runs."""

    async def close(self) -> None:
        """Nothing runs."""

    def wake(self) -> None:
        """The next one is new."""
        self._token = None

    def _renew(self) -> IdentityToken:
        self.minted += 1
        self._token = inspect_token(Secret(self._mint(self._audience)), TokenRules(audience=self._audience), now=self._clock.wall())
        return self._token


class EmbeddedIdentities:
    """One identity for each source and audience. An `app.grants.IdentitySources`; the source `default` has `path`, and `others` theirs."""

    def __init__(
        self, authority: IdentityAuthority, clock: Clock, *, path: str = "/demo/agent", others: Mapping[str, str] | None = None
    ) -> None:
        self.by_audience: dict[str, EmbeddedIdentity] = {}  # of `default`
        self.claims: dict[str, Any] = {}  # of tokens that are minted from now on, in place of theirs
        self.missing = False  # none is minted
        self._authority = authority
        self._clock = clock
        self._paths = {"default": path, **(others or {})}
        self._built: dict[tuple[str, str], EmbeddedIdentity] = {}

    @property
    def audiences(self) -> dict[str, str | None]:
        """The sources, none of which has one audience alone."""
        return dict.fromkeys(self._paths)

    def get(self, source: str, audience: str | None = None) -> Identity:
        """The identity for this audience."""
        assert audience is not None
        found = self._built.get((source, audience))
        if found is None:
            found = self._built[source, audience] = EmbeddedIdentity(partial(self._mint, self._paths[source]), audience, self._clock)
        if source == "default":
            self.by_audience[audience] = found
        return found

    def subject_of(self, token: str) -> str | None:
        """The `sub` of a token, unverified."""
        return inspect_token(Secret(token.encode()), TokenRules(), now=self._clock.wall()).subject

    def _mint(self, path: str, audience: str) -> bytes:
        if self.missing:
            raise Fault("identity_unavailable", "missing: the embedded identity was taken away")
        return self._authority.jwt_svid(audience=audience, path=path, **self.claims)
