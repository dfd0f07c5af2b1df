"""The credentials of a plane that calls no issuer: by the grant that a Permit's route names, the identity token as one header line.

The identity keeps its token fresh; only the line built of the last token is kept.
"""

from collections.abc import Callable, Mapping

from robin.grants.grant import Inputs
from robin.grants.kinds import forward
from robin.grants.run import run_without_issuer
from robin.identity.identity import Identity
from robin.model.credential import NO_CREDENTIAL, Credential
from robin.model.identity import IdentityToken
from robin.model.verdict import Permit


class ForwardedCredentials:
    """A `grants.grant.Credentials`. `identities` by the names of grants that routes use; the empty name injects nothing."""

    __slots__ = ("_identities", "_lines", "_wall")

    def __init__(self, identities: Mapping[str, Identity], *, wall: Callable[[], float]) -> None:
        self._identities = dict(identities)
        self._wall = wall
        self._lines: dict[str, Credential] = {}  # by grant, of the token in use

    def ready(self, permit: Permit) -> Credential | None:
        """Return the credential if one is usable now; None when it must be obtained."""
        name = permit.route.grant
        built = self._lines.get(name)
        if built is None:
            return self._first(name)
        token = self._identities[name].ready()
        if token is built.identity:
            return built
        return None if token is None else self._build(name, token)

    def _first(self, name: str) -> Credential | None:
        """As `ready`, for the empty name, and a grant whose line was not built yet."""
        token = self._identities[name].ready() if name else None
        return NO_CREDENTIAL if not name else None if token is None else self._build(name, token)

    async def obtain(self, permit: Permit, notes: dict[str, object]) -> Credential:
        """Return the credential after a bounded wait. Raises Fault with a code of the identity."""
        name = permit.route.grant
        if not name:
            return NO_CREDENTIAL
        token = await self._identities[name].obtain()
        built = self._lines.get(name)
        return built if built is not None and built.identity is token else self._build(name, token)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """Record that the origin responded 401 to this credential."""
        identity = self._identities.get(permit.route.grant)
        if identity is not None and credential.identity is not None:
            identity.rejected(credential.identity)

    async def renew(self, permit: Permit, credential: Credential) -> Credential | None:
        """Record the same, and return the credential in use now; None if it is the one that was refused, or none is."""
        self.rejected(permit, credential)
        fresh = self.ready(permit)
        return None if fresh is credential else fresh

    def _build(self, name: str, token: IdentityToken) -> Credential:
        issued = run_without_issuer(forward.flow(Inputs(identity=token), self._wall()))
        credential = Credential(fields=issued.fields, note="forward", identity=token)
        self._lines[name] = credential
        return credential
