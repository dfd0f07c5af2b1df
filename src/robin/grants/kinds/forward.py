"""Grant `forward`: no issuer is asked; the credential is the identity token itself, as `Authorization: Bearer` (RFC 6750 section 2.1).

Security: whoever gets this line can act as the workload at every place that accepts the token's audience, until it expires.
"""

from robin.identity.identity import Identity
from robin.model.credential import Credential
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.model.verdict import Permit


class Forward:
    """Credentials made of one identity. The built line is kept for as long as its token is the one in use."""

    __slots__ = ("_credential", "_identity")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._credential: Credential | None = None

    def ready(self, permit: Permit) -> Credential | None:
        """The credential if a usable token is ready; None when it must be obtained."""
        token = self._identity.ready()
        if token is None:
            return None
        credential = self._credential
        if credential is not None and credential.identity is token:
            return credential
        return self._build(token)

    async def obtain(self, permit: Permit) -> Credential:
        """The credential, after the bounded wait of the identity. Raises Fault with an identity code."""
        token = await self._identity.obtain()
        credential = self._credential
        if credential is not None and credential.identity is token:
            return credential
        return self._build(token)

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """The upstream answered 401 to this credential."""
        self._identity.rejected(credential.identity)

    def _build(self, token: IdentityToken) -> Credential:
        field = Secret(b"Authorization: Bearer " + token.value.reveal() + b"\r\n")
        self._credential = Credential(field=field, grant="forward", identity=token)
        return self._credential
