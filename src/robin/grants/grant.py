"""Where the engine asks for a credential: ready now, or obtained with a wait; and where it says that an origin refused one."""

from typing import Protocol

from robin.model.credential import Credential
from robin.model.verdict import Permit


class Credentials(Protocol):
    """What the engine knows of identity and grants. Every method raises `Fault` with an identity code when nothing usable can be had."""

    def ready(self, permit: Permit) -> Credential | None:
        """The credential for this Permit if one is usable now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self, permit: Permit) -> Credential:
        """Wait (as long as the identity may) for a usable credential; joins the one flight. Leaving never cancels the flight."""
        ...

    def rejected(self, permit: Permit, credential: Credential) -> None:
        """The origin answered 401 to this credential: refresh it for LATER requests, at most once per 30 s."""
        ...
