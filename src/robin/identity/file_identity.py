"""An identity read from a file: one `stat` per request, a new read whenever the cached bytes might not be the file's, a poll for readiness.

Rules to keep. Cached bytes serve only if the file's key is unchanged, was more than 1 s old when read (a younger one can hide a second
write within one clock tick) and the last read is under 60 s ago. The last good token outlives an unreadable, empty, torn or malformed file
by at most the grace. A wrong, future or expired token in the file ends the last good one at once. A lack of file descriptors is a failure
of this process and changes nothing. `stat` and `read` block the event loop: the file belongs on tmpfs.
"""

import asyncio
import os
from typing import Final

from robin.identity.identity import Dependencies, describe
from robin.identity.reporter import IdentityReporter
from robin.identity.schedule import FirstSeen, RefreshRateLimit
from robin.identity.source import FailureClass, SourceFailure
from robin.identity.sources.file import FileKey, FileReading, FileSource
from robin.model.faults import Fault
from robin.model.identity import IdentityStatus, IdentityToken
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jwt_inspection import TokenRefused, TokenRules, fingerprint, inspect_token, same_token

_OPEN_TO_OTHERS: Final = "{token_file} may be read by every user; remove the permission of others"
_POLL_S: Final = 0.5  # readiness is promised within 1 s
_SETTLED_S: Final = 1.0
_REREAD_S: Final = 60.0
_GRACED: Final = frozenset({"identity_unavailable", "identity_malformed"})


class FileIdentity:
    """Keeps the token of one file current. An `identity.Identity`."""

    __slots__ = (
        "_accepts",
        "_clock",
        "_detail",
        "_failed_at",
        "_fault",
        "_first_seen",
        "_grace_s",
        "_key",
        "_log",
        "_looked_at",
        "_metrics",
        "_path",
        "_poll_task",
        "_refresh_limit",
        "_reporter",
        "_reread_at",
        "_rules",
        "_source",
        "_tasks",
        "_token",
        "_turn",
        "_wall",
        "_warned_open",
    )

    def __init__(
        self, source: FileSource, rules: TokenRules, *, grace_s: float, dependencies: Dependencies, metrics: IdentityMetrics
    ) -> None:
        self._source = source
        self._path = source.path
        self._rules = rules
        self._grace_s = grace_s
        self._clock = dependencies.clock
        self._wall = dependencies.clock.wall
        self._tasks = dependencies.tasks
        self._log = dependencies.log
        self._metrics = metrics
        self._reporter = IdentityReporter(dependencies, metrics, path=source.path)
        self._token: IdentityToken | None = None
        self._first_seen = FirstSeen()
        self._key: FileKey | None = None  # of the bytes that may serve from the cache; None: read the file again
        self._turn = dependencies.turn
        self._looked_at: float | None = None  # the turn in which `_key` was last found to be the file's
        self._reread_at = 0.0
        self._failed_at: float | None = None  # the first failed read in a row, monotonic
        self._fault = "identity_unavailable"
        self._detail = "starting: the token file was not read yet"
        self._refresh_limit = RefreshRateLimit()
        self._accepts = 0
        self._warned_open = False
        self._poll_task: asyncio.Task[None] | None = None

    def ready(self) -> IdentityToken | None:
        """Return the token after one `stat` of the file (requests of one loop turn share it); None when the file must be read."""
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
        """Record that the upstream responded 401 to this token: the next request reads the file, at most once per 30 s."""
        if token is self._token and self._refresh_limit.permits(self._clock.monotonic()):
            self._key = None

    async def fresh(self) -> IdentityToken:
        """Return what stands in the file."""
        return await self.obtain()

    async def renew(self, token: IdentityToken) -> IdentityToken:
        """Read the file now, unless it was since. Raises Fault."""
        if token is self._token:
            self._key = None
        return self.ready() or await self.obtain()

    def wake(self) -> None:
        """Make the next poll or request read the file (SIGHUP)."""
        self._key = None

    def status(self) -> IdentityStatus:
        """Return the state as of the last poll or request."""
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
        self._poll_task = self._tasks.start(self._poll_for_ever(), "token file poll")

    async def close(self) -> None:
        """Stop polling."""
        if self._poll_task is not None:
            self._poll_task.cancel()
            await asyncio.gather(self._poll_task, return_exceptions=True)
            self._poll_task = None

    async def poll(self) -> None:
        """Check the file once, so that readiness is true without traffic."""
        if self._token is None or not self._is_current() or self._clock.wall() >= self._token.usable_until:
            await self._read()
        self._reporter.report_state(usable=self._serving() is not None, fault=self._code_now())

    async def _poll_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                await self.poll()
            except Exception as error:  # noqa: BLE001 - the poll must go on
                self._reporter.crashed("the poll of the token file", error)

    def _is_current(self) -> bool:
        """Return True if the cached bytes are the file's, by its `stat` alone."""
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)  # file_key, without a call
        return key == self._key and self._clock.monotonic() < self._reread_at

    def _serving(self) -> IdentityToken | None:
        """Return the token that may be used now: a good one, or the last good one within the grace."""
        token = self._token
        if token is None or self._clock.wall() >= token.usable_until:
            return None
        if self._failed_at is not None and self._clock.monotonic() - self._failed_at >= self._grace_s:
            return None
        return token

    def _code_now(self) -> str:
        """Return why nothing can be served."""
        if self._token is not None and self._failed_at is None:
            return "identity_expired"  # it was good when it was read and expired since
        return self._fault

    async def _read(self) -> None:
        """Read and judge the file, and record the outcome."""
        accepts = self._accepts
        began_at, wall = self._clock.monotonic(), self._clock.wall()
        try:
            reading = await self._source.read()
        except SourceFailure as failure:
            if accepts == self._accepts:  # otherwise another read that began later found the file whole
                self._fail(failure, began_at)
            return
        try:
            self._accept(reading, began_at=began_at, began_wall=wall)
        except TokenRefused as refused:
            self._metrics.count_rejected(refused.reason)
            self._fail(SourceFailure(refused.reason, refused.detail, fault=refused.code), began_at, about=fingerprint(reading.raw.text))

    def _accept(self, reading: FileReading, *, began_at: float, began_wall: float) -> None:
        """Judge what was read; raises TokenRefused."""
        text, wall, token = reading.raw.text, self._clock.wall(), self._token
        if token is None or wall >= token.usable_until or not same_token(token, text):  # otherwise it was judged before and is still good
            token = inspect_token(text, self._rules, now=wall, seen_at=self._first_seen.when(text, wall))
        self._accepts += 1
        self._failed_at = None
        self._reread_at = began_at + _REREAD_S
        self._key = reading.key if began_wall - reading.written_at > _SETTLED_S else None
        duration_s = self._clock.monotonic() - began_at
        if token is self._token:
            self._reporter.unchanged("ok", duration_s)
        else:
            self._token = token
            self._reporter.renewed(token, "ok", duration_s)
        if reading.open_to_others and not self._warned_open:
            self._warned_open = True
            self._log.warning("token_file_open", detail=_OPEN_TO_OTHERS)

    def _fail(self, failure: SourceFailure, began_at: float, *, about: bytes = b"") -> None:
        now = self._clock.monotonic()
        self._key = None
        self._fault, self._detail = failure.fault, failure.detail
        if failure.failure_class is FailureClass.LOCAL:
            pass  # the file may be as good as ever: a grace neither begins nor ends
        elif failure.fault in _GRACED:
            if self._failed_at is None:
                self._failed_at = now
        else:
            self._token = None
            self._failed_at = None
        self._reporter.failed(failure, now - began_at, about=about)
