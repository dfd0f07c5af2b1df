"""What the floors above know of an identity: the token that is ready, or obtained with a bounded wait, and how it stands."""

from typing import Final, Protocol

from robin.model.identity import IdentityState, IdentityStatus, IdentityToken

_UNUSABLE: Final = {"identity_refused": IdentityState.REFUSED, "identity_expired": IdentityState.EXPIRED}


class Identity(Protocol):
    """One workload identity for one audience, kept current. Nothing it returns is ever past its `usable_until`."""

    def ready(self) -> IdentityToken | None:
        """The token if one is usable now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self) -> IdentityToken:
        """A usable token after a short wait: ROBIN_IDENTITY_WAIT at most where it is fetched, three reads where it is a file.

        Raises Fault with an identity code. Leaving disturbs no other caller.
        """
        ...

    def rejected(self, token: IdentityToken) -> None:
        """The upstream answered 401 to this token: look again for LATER requests, at most once per 30 s."""
        ...

    def status(self) -> IdentityStatus:
        """How it stands now, from what is known: never reads, never fetches."""
        ...

    async def start(self) -> None:
        """Begin to keep it current. A platform that is not there yet is no failure."""
        ...

    async def close(self) -> None:
        """Stop, and let go of every connection."""
        ...

    def wake(self) -> None:
        """SIGHUP: look again now, whatever was decided before."""
        ...


def describe(source: str, token: IdentityToken | None, wall: float, *, usable: bool, stale: bool, code: str) -> IdentityStatus:
    """The snapshot for probes. `token`: what is held, usable or not; `stale`: usable, but a newer one is sought; `code`: why it is not."""
    if usable:
        state = IdentityState.STALE if stale else IdentityState.FRESH
    else:
        state = _UNUSABLE.get(code, IdentityState.MISSING)
    left_s = None if token is None or token.expires_at is None else token.expires_at - wall
    return IdentityStatus(source=source, state=state, expires_in_s=left_s, usable=usable, reasons=() if usable else (code,))
