"""The file identity: one `stat` per request, a re-read whenever the cached bytes might not be the file's, a poll for readiness.

Rules to keep. Cached bytes serve only if the key is unchanged, was more than 1 s old when read (a younger one can hide a second write
within one clock tick) and the last read is under 60 s ago. The last good token outlives an unreadable, empty, torn or malformed file by
at most ROBIN_TOKEN_FILE_GRACE; a wrong, future or expired token in the file is the file's word, and ends it at once; that no descriptor is
left to read it with is our trouble, and no failure of the file. `stat` and `read` block the loop: the file belongs on tmpfs.
"""

import asyncio
import os
from typing import Final

from robin.identity.bulletin import Bulletin
from robin.identity.first_seen import FirstSeen
from robin.identity.identity import describe
from robin.identity.schedule import Forced
from robin.identity.source import Outlook, SourceFailure
from robin.identity.sources.file import FileKey, FileReading, FileSource
from robin.identity.surroundings import Surroundings
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.wire.jose import TokenRefused, TokenRules, fingerprint, inspect_token, same_token

_POLL_S: Final = 0.5  # readiness is promised within 1 s
_SETTLED_S: Final = 1.0
_REREAD_S: Final = 60.0
_GRACED: Final = frozenset({"identity_unavailable", "identity_malformed"})


class FileWatch:
    """Keeps the token of one file. An `identity.Identity`."""

    __slots__ = (
        "_accepts",
        "_bulletin",
        "_clock",
        "_detail",
        "_failed_at",
        "_fault",
        "_first_seen",
        "_forced",
        "_grace_s",
        "_key",
        "_looked_at",
        "_metrics",
        "_path",
        "_poll",
        "_reread_at",
        "_room",
        "_rules",
        "_source",
        "_token",
        "_turn",
        "_wall",
        "_warned_open",
    )

    def __init__(self, source: FileSource, rules: TokenRules, *, grace_s: float, room: Surroundings) -> None:
        self._source = source
        self._path = source.path
        self._rules = rules
        self._grace_s = grace_s
        self._room = room
        self._clock = room.clock
        self._wall = room.clock.wall
        self._metrics = room.metrics
        self._bulletin = Bulletin(room)
        self._token: IdentityToken | None = None
        self._first_seen = FirstSeen()
        self._key: FileKey | None = None  # of the bytes that may serve from the cache; None: read anew
        self._turn = room.turn
        self._looked_at: float | None = None  # the turn in which `_key` was last found to be the file's
        self._reread_at = 0.0
        self._failed_at: float | None = None  # the first failed read in a row, monotonic
        self._fault = "identity_unavailable"
        self._detail = "starting: the token file was not read yet"
        self._forced = Forced()
        self._accepts = 0
        self._warned_open = False
        self._poll: asyncio.Task[None] | None = None

    def ready(self) -> IdentityToken | None:
        """The token, after one `stat` of the file (requests of one turn share it); None when the file must be read."""
        token = self._token
        if token is None or self._key is None:
            return None
        turn, wall = self._turn, self._wall
        now = None if turn is None else turn()
        if now is None or now != self._looked_at:
            if not self._is_current():
                return None
            self._looked_at = now
        if wall() >= token.usable_until:
            return None
        self._metrics.cache_hit += 1
        return token

    async def obtain(self) -> IdentityToken:
        """Read the file now: three tries at most, 5 ms apart. Raises Fault."""
        await self._read()
        token = self._serving()
        if token is None:
            self._metrics.cache_miss += 1
            raise Fault(self._fault, self._detail)
        self._metrics.cache_wait += 1
        if self._failed_at is not None:
            self._metrics.served_stale += 1
        return token

    def rejected(self, token: IdentityToken) -> None:
        """The upstream answered 401 to this token: the next request reads the file, at most once per 30 s."""
        if token is self._token and self._forced.permits(self._clock.monotonic()):
            self._key = None

    def wake(self) -> None:
        """SIGHUP: the next poll or request reads the file."""
        self._key = None

    def status(self) -> IdentityStatus:
        """How it stands, as of the last poll or request."""
        return describe(
            self._metrics.source,
            self._token,
            self._clock.wall(),
            usable=self._serving() is not None,
            stale=self._failed_at is not None,
            code=self._code_now(),
        )

    async def start(self) -> None:
        """Read once, then poll."""
        await self.poll()
        self._poll = self._room.tasks.start(self._poll_for_ever(), "token file poll")

    async def close(self) -> None:
        """Stop polling."""
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
            self._poll = None

    async def poll(self) -> None:
        """One look at the file, as the poll takes it: keeps readiness true without traffic."""
        if self._token is None or not self._is_current() or self._clock.wall() >= self._token.usable_until:
            await self._read()
        self._bulletin.standing(usable=self._serving() is not None, fault=self._code_now())

    async def _poll_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await self.poll()
            except Exception as error:  # noqa: BLE001 - the poll must go on
                self._bulletin.crashed("the poll of the token file", error)

    def _is_current(self) -> bool:
        """Whether the cached bytes are the file's, by its `stat` alone."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)  # file_key, without a call
        return key == self._key and self._clock.monotonic() < self._reread_at

    def _serving(self) -> IdentityToken | None:
        """The token that may be used now: good, or last good within the grace."""
        token = self._token
        if token is None or self._clock.wall() >= token.usable_until:
            return None
        if self._failed_at is not None and self._clock.monotonic() - self._failed_at >= self._grace_s:
            return None
        return token

    def _code_now(self) -> str:
        """Why nothing can be served."""
        if self._token is not None and self._failed_at is None:
            return "identity_expired"  # good when read; its time came since
        return self._fault

    async def _read(self) -> None:
        """Read and judge the file, and remember the outcome."""
        accepts = self._accepts
        began_at, wall = self._clock.monotonic(), self._clock.wall()
        try:
            reading = await self._source.read()
        except SourceFailure as failure:
            if accepts == self._accepts:  # else another read, begun later, has met the file whole
                self._fail(failure.label, failure.fault, failure.detail, began_at, outlook=failure.outlook)
            return
        try:
            self._accept(reading, began_at=began_at, began_wall=wall)
        except TokenRefused as refused:
            self._metrics.count_rejected(refused.reason)
            self._fail(refused.reason, refused.code, refused.detail, began_at, about=fingerprint(reading.raw.text))

    def _accept(self, reading: FileReading, *, began_at: float, began_wall: float) -> None:
        """Judge what was read; raises TokenRefused."""
        text, wall, token = reading.raw.text, self._clock.wall(), self._token
        if token is None or wall >= token.usable_until or not same_token(token, text):  # else it was judged, and is good still
            token = inspect_token(text, self._rules, now=wall, seen_at=self._first_seen.when(text, wall))
        self._accepts += 1
        self._failed_at = None
        self._reread_at = began_at + _REREAD_S
        self._key = reading.key if began_wall - reading.written_at > _SETTLED_S else None
        duration_s = self._clock.monotonic() - began_at
        if token is self._token:
            self._bulletin.unchanged("ok", duration_s)
        else:
            self._token = token
            self._bulletin.renewed(token, "ok", duration_s)
        if reading.open_to_others and not self._warned_open:
            self._warned_open = True
            self._room.log.warning("token_file_open", detail="ROBIN_TOKEN_FILE may be read by every user; remove the permission of others")

    def _fail(self, label: str, fault: str, detail: str, began_at: float, *, outlook: Outlook = Outlook.RETRY, about: bytes = b"") -> None:
        now = self._clock.monotonic()
        self._key = None
        self._fault, self._detail = fault, detail
        if outlook is Outlook.OURS:
            pass  # the file may be as good as ever: a grace neither begins nor ends
        elif fault in _GRACED:
            if self._failed_at is None:
                self._failed_at = now
        else:
            self._token = None
            self._failed_at = None
        self._bulletin.failed(label, fault, detail, now - began_at, about=about)
