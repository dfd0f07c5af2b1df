"""What an identity tells the world when something happened: counters, log lines, and `changed`; one place, so both keepers speak alike.

A wrong audience or a refusal is an error line once per token, then each 60 s; other failures go through the log's own limit. Readiness
carries no code, so that no limit holds back a turn of it: the last line of the log is how it stands. The rounds that ask bound its lines.
"""

from typing import Final

from robin.identity.surroundings import Surroundings
from robin.model.identity import IdentityToken
from robin.telemetry.logs import stack_of

_REPEAT_S: Final = 60.0
_MISCONFIGURED: Final = frozenset({"audience_mismatch", "identity_refused"})


class Bulletin:
    """Tells of one identity. `usable` is what was told last."""

    __slots__ = ("_last_error", "_last_error_at", "_room", "usable")

    def __init__(self, room: Surroundings) -> None:
        self._room = room
        self._last_error: tuple[str, bytes] | None = None
        self._last_error_at = 0.0
        self.usable = False

    def renewed(self, token: IdentityToken, code: str, duration_s: float) -> None:
        """A new token is in use."""
        room = self._room
        room.metrics.count_refresh("renewed", code, duration_s)
        room.metrics.expires_at = token.expires_at
        expires_in_s = None if token.expires_at is None else round(token.expires_at - room.clock.wall(), 1)
        room.log.info("identity_renewed", source=room.metrics.source, expires_in_s=expires_in_s)
        self.usable = room.metrics.ready = True
        self._last_error = None
        room.changed()

    def unchanged(self, code: str, duration_s: float) -> None:
        """The platform gave what we have."""
        self._room.metrics.count_refresh("unchanged", code, duration_s)

    def failed(self, label: str, fault: str, detail: str, duration_s: float, *, about: bytes = b"") -> None:
        """A read or fetch gave nothing of use. `about` is the fingerprint of the token it is about, where there was one."""
        room = self._room
        room.metrics.count_refresh("error", label, duration_s)
        if fault in _MISCONFIGURED:
            now, error = room.clock.monotonic(), (fault, about)
            if error != self._last_error or now - self._last_error_at >= _REPEAT_S:
                self._last_error, self._last_error_at = error, now
                room.log.error("identity_misconfigured", source=room.metrics.source, fault=fault, label=label, detail=detail)
            return
        room.log.warning("identity_refresh_failed", code=label, source=room.metrics.source, fault=fault, detail=detail)

    def crashed(self, where: str, error: Exception) -> None:
        """A bug: told by type and stack, since its text may quote a token."""
        self._room.log.error("identity_crashed", code=type(error).__name__, where=where, stack=stack_of(error))

    def standing(self, *, usable: bool, fault: str) -> None:
        """How it stands now; told when it differs from what was told last."""
        if usable is self.usable:
            return
        room = self._room
        self.usable = room.metrics.ready = usable
        if usable:
            room.log.info("identity_ready", source=room.metrics.source)
        else:
            room.log.error("identity_lost", source=room.metrics.source, fault=fault)
        room.changed()
