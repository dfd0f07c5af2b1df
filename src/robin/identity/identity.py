"""An identity as the layers above use it, and what every identity is built with: clocks, entropy, tasks, the log and a callback."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from robin.model.identity import IdentityState, IdentityStatus, IdentityToken
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.transport.tasks import TaskOwner

_UNUSABLE: Final = {"identity_refused": IdentityState.REFUSED, "identity_expired": IdentityState.EXPIRED}


class Identity(Protocol):
    """One workload identity for one audience, kept current. Nothing it returns is ever past its `usable_until`."""

    def ready(self) -> IdentityToken | None:
        """Return the token if one is usable now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self) -> IdentityToken:
        """Return a usable token after a bounded wait: the settings' `wait_s` where it is fetched, three reads where it is a file.

        Raises Fault with an identity code. Cancelling one caller disturbs no other caller.
        """
        ...

    def rejected(self, token: IdentityToken) -> None:
        """Record that the upstream responded 401 to this token: refresh it for later requests, at most once per 30 s."""
        ...

    async def renew(self, token: IdentityToken) -> IdentityToken:
        """Record that an issuer refused this token, and return the one that is current after one fetch or read: the same, if it is.

        Raises Fault as `obtain` does.
        """
        ...

    async def fresh(self) -> IdentityToken:
        """Return a token that was fetched for this call, where the source has tokens to fetch; else the one that is current.

        Raises Fault as `obtain` does.
        """
        ...

    def status(self) -> IdentityStatus:
        """Return the present state from memory: never reads, never fetches."""
        ...

    async def start(self) -> None:
        """Begin to keep the token current. A platform that is not there yet is no failure."""
        ...

    async def close(self) -> None:
        """Stop, and release every connection."""
        ...

    def wake(self) -> None:
        """Refresh now, whatever was decided before (SIGHUP)."""
        ...


class Log(Protocol):
    """Where events go; `telemetry.logs.EventLog` is one. It limits repeats by event and code itself."""

    def info(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Write a line for the reader's information."""
        ...

    def warning(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Write a line about something to look at."""
        ...

    def error(self, event: str, *, code: str | None = None, **fields: object) -> None:
        """Write a line about something to fix."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What all identities share. `on_change` runs when one becomes usable or unusable and for each new token; it must not block or raise.

    `turn` numbers the turns of the event loop: equal numbers are the same moment, in which one `stat` of a file serves all requests.
    None: every call is a moment of its own.
    """

    clock: Clock
    entropy: Entropy
    tasks: TaskOwner
    log: Log
    on_change: Callable[[], None]
    turn: Callable[[], float] | None = None


def describe(source: str, token: IdentityToken | None, wall: float, *, usable: bool, stale: bool, code: str) -> IdentityStatus:
    """Return the snapshot for probes.

    `token` is the one that is held, usable or not; `stale`: usable, but a newer one is being sought; `code`: why it is not usable.
    """
    if usable:
        state = IdentityState.STALE if stale else IdentityState.FRESH
    else:
        state = _UNUSABLE.get(code, IdentityState.MISSING)
    left_s = None if token is None or token.expires_at is None else token.expires_at - wall
    return IdentityStatus(source=source, state=state, expires_in_s=left_s, usable=usable, reasons=() if usable else (code,))
