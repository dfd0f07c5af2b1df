"""Identities of a development authority in this process: there is no socket and no file at which another program could ask for one."""

from collections.abc import Callable

from robin.identity.identity import Identity, describe
from robin.model.identity import IdentityStatus, IdentityToken
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.transport.clock import Clock
from robin.wire.jwt_inspection import TokenRules, inspect_token


class EmbeddedIdentity:
    """JWT-SVIDs for one audience. An `identity.identity.Identity`; `minted` counts them."""

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
    """One identity for each audience, all with the same subject. An `app.grants.IdentitySources`, with one source, `default`."""

    def __init__(self, authority: IdentityAuthority, clock: Clock, *, path: str = "/demo/agent") -> None:
        self.by_audience: dict[str, EmbeddedIdentity] = {}
        self._authority = authority
        self._clock = clock
        self._path = path

    @property
    def names(self) -> tuple[str, ...]:
        """The configured sources."""
        return ("default",)

    def get(self, _source: str, audience: str | None = None) -> Identity:
        """The identity for this audience."""
        assert audience is not None
        found = self.by_audience.get(audience)
        if found is None:
            found = self.by_audience[audience] = EmbeddedIdentity(self._mint, audience, self._clock)
        return found

    def _mint(self, audience: str) -> bytes:
        return self._authority.jwt_svid(audience=audience, path=self._path)
