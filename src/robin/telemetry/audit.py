"""The audit log: a chained, verifiable record of decisions that a plane awaits before the first byte goes upstream.

Rules: the event loop never waits for the disk; one thread writes and syncs, and records that wait at the same time share one sync. What
waits is bounded. A record that `append` returned for is in the file, and on the disk if it asked for that; all that is written is on the
disk within `sync_within_s`. Planes keep tokens, header values, queries and bodies out of records.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeVar

from robin.telemetry.audit_chain import LINE_BYTES, MEMBERS, Draft, RecordError, check
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.logs import EventLog
from robin.telemetry.timestamp import TimestampFormatter

_ENVELOPE_BYTES: Final = 1024  # more than the members of every record take
_BATCH: Final = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One record to write: `id` joins the records of one request. `sync`: `append` returns when the record is on the disk.

    `fields` holds text, whole numbers, bool, None, lists and dicts of those, which must not change any more. Names are ASCII, and none is
    that of a member of the chain.
    """

    event: str
    id: str
    fields: Mapping[str, object] = field(default_factory=dict)
    sync: bool = False


class _Entry:
    """A record on its way; `future` belongs to the task that waits for it, if there is one."""

    __slots__ = ("draft", "future", "octets", "sync")

    def __init__(self, draft: Mapping[str, object], octets: int, *, sync: bool, future: asyncio.Future[None] | None) -> None:
        self.draft = draft
        self.octets = octets
        self.sync = sync
        self.future = future


class Target(Protocol):
    """What the thread writes to; `telemetry.audit_file.AuditFile` says what each does, `AuditStream` is another."""

    failure: str
    plane: str
    wall: Callable[[], float]

    def append(self, drafts: Sequence[Mapping[str, object]]) -> int:
        """Write records. How many of them, from the first, are written now."""
        ...

    def checkpoint(self, reason: Literal["open", "interval", "rotate", "close"]) -> bool:
        """Write a checkpoint. Returns False if it could not be written."""
        ...

    def sync(self) -> bool:
        """Force what was written to the disk. Returns False if that failed."""
        ...

    def reopen(self) -> bool:
        """After a rename: go on in a new file. Returns False where there is none. Raises AuditUnavailable."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class AuditLog:
    """Writes records of one plane to one file, or stream, from one event loop."""

    __slots__ = (
        "_closed",
        "_closing",
        "_condition",
        "_file",
        "_loop",
        "_lost",
        "_monotonic",
        "_nudged",
        "_reopened",
        "_sync_at",
        "_sync_within_s",
        "_thread",
        "_timeout_s",
        "_timestamps",
        "_waiting",
        "_waiting_bytes",
        "_waiting_limit",
    )

    def __init__(
        self,
        file: Target,
        *,
        monotonic: Callable[[], float],
        sync_within_s: float = 0.2,
        timeout_s: float = 5.0,
        waiting_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        """Take over an open file and start the thread that writes it."""
        self._file = file
        self._monotonic = monotonic
        self._sync_within_s = sync_within_s
        self._timeout_s = timeout_s
        self._waiting_limit = waiting_bytes
        self._loop = asyncio.get_running_loop()
        self._timestamps = TimestampFormatter()
        self._condition = threading.Condition()  # guards the five below
        self._waiting: list[_Entry] = []
        self._waiting_bytes = 0
        self._lost = 0
        self._nudged = False
        self._closing = False
        self._reopened: asyncio.Future[bool] | None = None
        self._closed: asyncio.Future[bool] = self._loop.create_future()
        self._sync_at = math.inf  # the thread's: when what was written must be on the disk
        self._thread = threading.Thread(target=self._run, name="robin-audit", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why the last write or sync failed; empty while all is well. For readiness."""
        return self._file.failure

    @property
    def lost(self) -> int:
        """Records of `put` that could not be written, since the last record that could: it is preceded by a note of them."""
        return self._lost

    async def append(self, record: AuditRecord) -> None:
        """Return when the record is written, and on the disk if it asks for that. Raises AuditUnavailable; RecordError for a bad record.

        A task that is cancelled, or whose time is up, does not take its record back: it may still be written.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        reason = self._enqueue(record, future)
        if reason:
            raise AuditUnavailable("closed" if reason == "closed" else "overloaded", reason)
        await self._within_time(future)

    def put(self, record: AuditRecord) -> None:
        """Write the record in a moment. One that cannot be written is counted and noted before the next that can. Raises RecordError."""
        if self._enqueue(record, None):
            with self._condition:
                self._lost += 1

    async def reopen(self) -> bool:
        """After the file was renamed: go on in a new one. Returns False if it is still at its path. Raises AuditUnavailable."""
        future: asyncio.Future[bool] = self._loop.create_future()
        with self._condition:
            if self._closing or self._reopened is not None:
                raise AuditUnavailable("closed" if self._closing else "overloaded", "the log is closing or being reopened")
            self._reopened = future
            self._condition.notify()
        return await self._within_time(future)

    async def close(self) -> bool:
        """Write what waits, seal the log with a checkpoint, and give the file back. Returns False where that took too long or failed."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(self._closed)
        except TimeoutError:
            return False

    async def _within_time(self, future: asyncio.Future[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise AuditUnavailable("timeout", f"the disk took longer than {self._timeout_s:g} s") from None

    def _enqueue(self, record: AuditRecord, future: asyncio.Future[None] | None) -> str:
        """Queue a record for the thread. Returns the reason if it cannot be queued, else an empty text. Raises RecordError."""
        fields = dict(record.fields)
        check({"event": record.event, "id": record.id, "fields": fields})
        if not fields.keys().isdisjoint(MEMBERS):
            raise RecordError("a field has the name of a member of the chain")
        ts = self._timestamps.text(self._file.wall())
        draft = Draft({"ts": ts, "plane": self._file.plane, "event": record.event, "id": record.id, **fields})
        octets = len(draft.line)
        if octets + _ENVELOPE_BYTES > LINE_BYTES:
            raise RecordError("it is too large")
        with self._condition:
            if self._closing:
                return "closed"
            if self._waiting_bytes + octets > self._waiting_limit:
                return "too many records wait for the disk"
            self._waiting.append(_Entry(draft, octets, sync=record.sync, future=future))
            self._waiting_bytes += octets
            if future is not None:
                self._condition.notify()
        if future is None and not self._nudged:
            self._nudged = True
            self._loop.call_soon(self._nudge)
        return ""

    def _nudge(self) -> None:
        """Records of one turn that nothing waits for are written together, unless they were with one that something waited for."""
        self._nudged = False
        with self._condition:
            self._condition.notify()

    # The thread: it alone touches the file.

    def _run(self) -> None:
        sealed = False
        try:
            while self._next_turn():
                pass
            sealed = self._file.checkpoint("close") and self._file.sync()
        finally:
            with self._condition:
                self._closing = True  # also where a bug ended this thread: records are refused at once then
            self._file.close()
            self._complete([self._closed], sealed)

    def _next_turn(self) -> bool:
        """Write what waits, or sync what was written. Returns False when the log is to be closed and nothing waits."""
        with self._condition:
            while not (self._waiting or self._closing or self._reopened):
                left_s = self._sync_at - self._monotonic()
                if left_s <= 0 or not self._condition.wait(None if left_s == math.inf else left_s):
                    break
            batch = self._waiting[:_BATCH]
            del self._waiting[: len(batch)]
            self._waiting_bytes -= sum(entry.octets for entry in batch)
            reopened, self._reopened = self._reopened, None
            lost = self._lost
        if batch:
            self._write(batch, lost)
        elif self._sync_at <= self._monotonic():
            self._sync()
        if reopened is not None:
            self._reopen(reopened)
        return bool(batch) or not self._closing

    def _write(self, batch: list[_Entry], lost: int) -> None:
        note: list[Mapping[str, object]] = []
        if lost:
            note = [{"ts": batch[0].draft["ts"], "plane": self._file.plane, "event": "audit.lost", "id": "", "count": lost}]
        written = self._file.append([*note, *(entry.draft for entry in batch)]) - len(note)
        if lost and written >= 0:
            with self._condition:
                self._lost -= lost
        written = max(0, written)
        self._sync_at = min(self._sync_at, self._monotonic() + self._sync_within_s)
        done, failed = batch[:written], batch[written:]
        if failed:
            self._fail(failed)
        now = [entry for entry in done if not entry.sync]
        self._succeed(now)
        if len(now) < len(done) or self._sync_at <= self._monotonic():
            synced = [entry for entry in done if entry.sync]
            if self._sync():
                self._succeed(synced)
            else:
                self._fail([entry for entry in synced if entry.future is not None])  # the others are in the file, and synced later

    def _sync(self) -> bool:
        synced = self._file.sync()
        self._sync_at = math.inf if synced else self._monotonic() + self._sync_within_s
        return synced

    def _reopen(self, future: asyncio.Future[bool]) -> None:
        try:
            renewed = self._file.reopen()
        except AuditUnavailable as error:
            self._complete([future], error)
        else:
            self._complete([future], renewed)

    def _succeed(self, entries: list[_Entry]) -> None:
        self._complete([entry.future for entry in entries if entry.future is not None], None)

    def _fail(self, entries: list[_Entry]) -> None:
        """Report that records could not be made safe; those that no task waits for are counted."""
        with self._condition:
            self._lost += sum(entry.future is None for entry in entries)
        for entry in entries:
            if entry.future is not None:
                self._complete([entry.future], AuditUnavailable("write_failed", self._file.failure))

    def _complete(self, futures: Sequence[asyncio.Future[Any]], result: bool | AuditUnavailable | None) -> None:
        """Give futures of the loop their result, on the loop's thread."""
        if futures:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
                self._loop.call_soon_threadsafe(_set_results, futures, result)


def _set_results(futures: Sequence[asyncio.Future[Any]], result: bool | AuditUnavailable | None) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(result, AuditUnavailable):
            future.set_exception(result)
        else:
            future.set_result(result)


async def reopen_audit(audit: AuditLog, events: EventLog) -> None:
    """Go on in a new file if the old one was renamed, and note it."""
    try:
        if await audit.reopen():
            events.info("audit_reopened")
    except AuditUnavailable as error:
        events.error("audit_reopen_failed", code=error.code, detail=error.reason)
