"""The audit log: a chained, verifiable record of decisions that a plane awaits before the first byte goes upstream.

Rules: the event loop never waits for the disk; one thread writes and syncs. A stream that takes records without a wait gets them from the
loop while the thread has nothing to do, since two threads that take turns in the interpreter cost more than the writing. Records are
rendered once, and those of one turn of the loop are written, or handed to the thread, together; records that wait at the same time share
one sync. What waits is bounded. A record that `append` returned for is in the file, and on the disk if it asked for that; all that is
written is on the disk within `sync_within_s`. Planes keep tokens, header values, queries and bodies out of records.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from robin.telemetry.audit_chain import MEMBERS, Draft, RecordError, check, draft_of
from robin.telemetry.audit_file import AuditUnavailable
from robin.telemetry.audit_head import CheckpointReason
from robin.telemetry.logs import EventLog
from robin.telemetry.timestamp import TimestampFormatter

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


_Entry = tuple[Draft, bool, asyncio.Future[None] | None]
"""A record on its way, whether it asks for a sync, and what belongs to the task that waits for it, if there is one."""


class _Turn:
    """The records of one turn of the loop; `timer` ends the wait for them."""

    __slots__ = ("entries", "octets", "timer")

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.octets = 0
        self.timer: asyncio.TimerHandle | None = None

    def take(self, count: int) -> int:
        """The first of them are written: whatever waits for them goes on. Returns their octets."""
        octets = 0
        for draft, _, future in self.entries[:count]:
            octets += len(draft.tail)
            if future is not None and not future.done():
                future.set_result(None)
        del self.entries[:count]
        self.octets -= octets
        return octets


class Target(Protocol):
    """What the thread writes to; `telemetry.audit_file.AuditFile` says what each does, `AuditStream` is another."""

    failure: str
    plane: str
    wall: Callable[[], float]

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records. How many of them, from the first, are written now."""
        ...

    def append_now(self, drafts: Sequence[Draft]) -> int:
        """The same in the loop's thread, as far as that takes no wait."""
        ...

    def checkpoint(self, reason: CheckpointReason) -> bool:
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
        "_batch",
        "_closed",
        "_closing",
        "_condition",
        "_ended",
        "_file",
        "_given",
        "_loop",
        "_lost",
        "_monotonic",
        "_on_end",
        "_reopened",
        "_sync_at",
        "_sync_within_s",
        "_taken",
        "_thread",
        "_timeout_s",
        "_timestamps",
        "_turn",
        "_waiting",
        "_waiting_limit",
        "_writing",
    )

    def __init__(
        self,
        file: Target,
        *,
        monotonic: Callable[[], float],
        sync_within_s: float = 0.2,
        timeout_s: float = 5.0,
        waiting_bytes: int = 4 * 1024 * 1024,
        on_end: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take over an open file and start the thread that writes it. `on_end`: called with the reason if a bug ends the thread."""
        self._file = file
        self._monotonic = monotonic
        self._sync_within_s = sync_within_s
        self._timeout_s = timeout_s
        self._waiting_limit = waiting_bytes
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._timestamps = TimestampFormatter()
        self._turn = _Turn()  # what was enqueued in this turn of the loop
        self._given = 0  # octets of lines that were enqueued: the loop's
        self._taken = 0  # those that the thread has taken to write: the thread's
        self._condition = threading.Condition()  # guards the five below
        self._waiting: list[_Turn] = []
        self._lost = 0
        self._closing = False
        self._ended = ""  # why the thread ended before its time
        self._reopened: list[asyncio.Future[bool]] = []  # asked for, and not done
        self._closed: asyncio.Future[bool] = self._loop.create_future()
        self._batch: list[_Turn] = []  # the thread's: what it writes now, and tells of
        self._writing = False  # the thread is about to write, or does
        self._sync_at = math.inf  # the thread's: when what was written must be on the disk
        self._thread = threading.Thread(target=self._run, name="robin-audit", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why the last write or sync failed, or nothing is written any more; empty while all is well. For readiness."""
        return self._ended or self._file.failure

    @property
    def plane(self) -> str:
        """The plane of all records."""
        return self._file.plane

    @property
    def lost(self) -> int:
        """Records of `put` that could not be written, since the last record that could: it is preceded by a note of them."""
        return self._lost

    def timestamp(self) -> str:
        """The `ts` of a record of this moment."""
        return self._timestamps.text(self._file.wall())

    async def append(self, record: AuditRecord) -> None:
        """Return when the record is written, and on the disk if it asks for that. Raises AuditUnavailable; RecordError for a bad record.

        A task that is cancelled, or whose time is up, does not take its record back: it may still be written.
        """
        await self.write(self._draft(record), sync=record.sync)

    def write(self, draft: Draft, *, sync: bool = False) -> asyncio.Future[None]:
        """As `append`, for a record that is rendered already: the result raises AuditUnavailable, and so does this."""
        future: asyncio.Future[None] = self._loop.create_future()
        if reason := self._enqueue(draft, sync, future):
            raise AuditUnavailable("closed" if reason == "closed" else "overloaded", reason)
        return future

    def put(self, record: AuditRecord) -> None:
        """Write the record in a moment. One that cannot be written is counted and noted before the next that can. Raises RecordError."""
        self.put_draft(self._draft(record), sync=record.sync)

    def put_draft(self, draft: Draft, *, sync: bool = False) -> None:
        """The same for a record that is rendered already."""
        if self._enqueue(draft, sync, None):
            self.lose()

    def lose(self) -> None:
        """Count a record that cannot be written."""
        with self._condition:
            self._lost += 1

    async def reopen(self) -> bool:
        """After the file was renamed: go on in a new one. Returns False if it is still at its path. Raises AuditUnavailable."""
        future: asyncio.Future[bool] = self._loop.create_future()
        with self._condition:
            if self._closing:
                raise AuditUnavailable("closed", "the log is closing")
            self._reopened.append(future)
            self._condition.notify()
        return await self._within_time(future)

    async def close(self) -> bool:
        """Write what waits, seal the log with a checkpoint, and give the file back. Returns False where that took too long or failed."""
        self._hand_over()
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

    def _draft(self, record: AuditRecord) -> Draft:
        """Raises RecordError."""
        fields = dict(record.fields)
        check({"event": record.event, "id": record.id, "fields": fields})
        if not fields.keys().isdisjoint(MEMBERS):
            raise RecordError("a field has the name of a member of the chain")
        return draft_of({"ts": self.timestamp(), "plane": self._file.plane, "event": record.event, "id": record.id, **fields})

    def _enqueue(self, draft: Draft, sync: bool, future: asyncio.Future[None] | None) -> str:
        """Add a record to those of this turn. Returns the reason if it cannot be written, else an empty text."""
        if self._closing:
            return "closed"
        octets = len(draft.tail)
        if self._given - self._taken + octets > self._waiting_limit:
            return "too many records wait for the disk"
        turn = self._turn
        if not turn.entries:
            self._loop.call_soon(self._hand_over)
        turn.entries.append((draft, sync, future))
        turn.octets += octets
        self._given += octets
        return ""

    def _hand_over(self) -> None:
        """Write the records of a turn, where nothing else waits and that takes no wait; give the others to the thread.

        Where the thread has ended meanwhile, none of them is written.
        """
        turn = self._turn
        if not turn.entries:
            return
        self._turn = _Turn()
        turn.timer = self._loop.call_later(self._timeout_s, self._expire, turn)
        with self._condition:
            refused = self._closing
            if not (refused or self._writing or self._waiting or self._lost or self._reopened):
                written = self._file.append_now([draft for draft, _, _ in turn.entries])
                self._given -= turn.take(written)
            if turn.entries and not refused:
                self._waiting.append(turn)
                self._condition.notify()
        if refused:
            self._fail(turn.entries, AuditUnavailable("closed", "closed"))
        if refused or not turn.entries:
            turn.timer.cancel()

    def _expire(self, turn: _Turn) -> None:
        late = AuditUnavailable("timeout", f"the disk took longer than {self._timeout_s:g} s")
        _set_results([future for _, _, future in turn.entries if future is not None], late)

    # The thread: it alone touches the file.

    def _run(self) -> None:
        sealed = False
        try:
            while self._next_turn():
                pass
            sealed = self._file.checkpoint("close") and self._file.sync()
        except Exception as error:  # noqa: BLE001 - a bug: what waits is refused at once, and so is all that comes
            self._ended = f"the thread of the audit ended: {type(error).__name__}"
        finally:
            with self._condition:
                self._closing = True
                left, reopened = [*self._batch, *self._waiting], self._reopened.copy()
                self._waiting.clear()
            if self._ended:
                refused = AuditUnavailable("write_failed", self._ended)
                self._fail([entry for turn in left for entry in turn.entries], refused)
                self._on_loop(self._on_end, self._ended)
            self._complete(reopened, AuditUnavailable("closed", self._ended or "the log is closing"))
            self._file.close()
            self._complete([self._closed], sealed)

    def _next_turn(self) -> bool:
        """Write what waits, or sync what was written. Returns False when the log is to be closed and nothing waits."""
        with self._condition:
            while not (self._waiting or self._closing or self._reopened):
                left_s = self._sync_at - self._monotonic()
                if left_s <= 0 or not self._condition.wait(None if left_s == math.inf else left_s):
                    break
            count = taken = 0
            for turn in self._waiting:
                if count >= _BATCH:
                    break
                count += len(turn.entries)
                taken += 1
            batch = self._batch = self._waiting[:taken]
            self._writing = bool(batch)
            del self._waiting[:taken]
            self._taken += sum([turn.octets for turn in batch])
            reopened, lost = self._reopened.copy(), self._lost
        if batch:
            self._write(batch, lost)
            self._batch = []
        elif self._sync_at <= self._monotonic():
            self._sync()
        if reopened:
            self._reopen(reopened)
            with self._condition:
                del self._reopened[: len(reopened)]  # what was asked for meanwhile has a turn of its own: there may be another rename
        return bool(batch) or not self._closing

    def _write(self, turns: list[_Turn], lost: int) -> None:
        batch = [entry for turn in turns for entry in turn.entries]
        note: list[Draft] = []
        if lost:
            note = [draft_of({"ts": batch[0][0].ts, "plane": self._file.plane, "event": "audit.lost", "id": "", "count": lost})]
        written = self._file.append([*note, *[draft for draft, _, _ in batch]]) - len(note)
        self._writing = False  # before anything is told: the loop goes on with what follows it
        if lost and written >= 0:
            with self._condition:
                self._lost -= lost
        written = max(0, written)
        self._sync_at = min(self._sync_at, self._monotonic() + self._sync_within_s)
        done, failed = batch[:written], batch[written:]
        if failed:
            self._fail(failed, AuditUnavailable("write_failed", self._file.failure))
        synced = [entry for entry in done if entry[1]]
        if not (failed or synced):  # the usual case: the loop is woken once
            self._on_loop(_end_turns, turns)
            if self._sync_at <= self._monotonic():
                self._sync()
            return
        self._succeed([entry for entry in done if not entry[1]])
        if synced or self._sync_at <= self._monotonic():
            if self._sync():
                self._succeed(synced)
            else:  # those that nothing waits for are in the file, and synced later
                waited = [entry for entry in synced if entry[2] is not None]
                self._fail(waited, AuditUnavailable("write_failed", self._file.failure))
        self._on_loop(_cancel_timers, turns)

    def _sync(self) -> bool:
        synced = self._file.sync()
        self._sync_at = math.inf if synced else self._monotonic() + self._sync_within_s
        return synced

    def _reopen(self, futures: Sequence[asyncio.Future[bool]]) -> None:
        try:
            renewed = self._file.reopen()
        except AuditUnavailable as error:
            self._complete(futures, error)
        else:
            self._complete(futures, renewed)

    def _succeed(self, entries: list[_Entry]) -> None:
        self._complete([future for _, _, future in entries if future is not None], None)

    def _fail(self, entries: list[_Entry], error: AuditUnavailable) -> None:
        """Report that records could not be made safe; those that no task waits for are counted."""
        with self._condition:
            self._lost += sum([future is None for _, _, future in entries])
        self._complete([future for _, _, future in entries if future is not None], error)

    def _complete(self, futures: Sequence[asyncio.Future[Any]], result: bool | AuditUnavailable | None) -> None:
        """Give futures of the loop their result, on the loop's thread."""
        if futures:
            self._on_loop(_set_results, futures, result)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: no task waits any more
            self._loop.call_soon_threadsafe(call, *arguments)


def _end_turns(turns: Sequence[_Turn]) -> None:
    """All their records are written."""
    for turn in turns:
        if turn.timer is not None:
            turn.timer.cancel()
        for _, _, future in turn.entries:
            if future is not None and not future.done():
                future.set_result(None)


def _cancel_timers(turns: Sequence[_Turn]) -> None:
    for turn in turns:
        if turn.timer is not None:
            turn.timer.cancel()


def _set_results(futures: Sequence[asyncio.Future[Any]], result: bool | AuditUnavailable | None) -> None:
    for future in futures:
        if future.done():
            continue
        if isinstance(result, AuditUnavailable):
            future.set_exception(AuditUnavailable(result.reason, result.detail))  # each its own: a raised one holds its frames
        else:
            future.set_result(result)


def note_end(events: EventLog) -> Callable[[str], None]:
    """What an AuditLog calls if a bug ends its thread: the plane is not ready from then on, and this says why."""
    return lambda detail: events.error("audit_ended", code=AuditUnavailable.code, detail=detail)


async def reopen_audit(audit: AuditLog, events: EventLog) -> None:
    """Go on in a new file if the old one was renamed, and note it."""
    try:
        if await audit.reopen():
            events.info("audit_reopened")
    except AuditUnavailable as error:
        events.error("audit_reopen_failed", code=error.code, detail=error.reason)
