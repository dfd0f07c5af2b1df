"""The audit chain on a stream, such as standard output, that is collected elsewhere: lines as in a file, without a lock and a sync.

Its lines go through the writer of all other lines, one write at a time. The chain begins anew with each process, and advances by what was
written: a line that was cut is ended, so that the reader sees it as damaged, and its record was refused to whatever waited for it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from robin.telemetry.audit_chain import ZEROS, CheckpointKey, chain_lines, checkpoint_fields
from robin.telemetry.timestamp import TimestampFormatter
from robin.telemetry.writer import LineWriter

_FAILURE: Final = "standard output does not take the records"


class AuditStream:
    """A `telemetry.audit.Target`, for one thread. `failure` is why the last write failed, empty while all is well."""

    def __init__(
        self,
        writer: LineWriter,
        *,
        plane: str,
        wall: Callable[[], float],
        key: tuple[CheckpointKey, str] | None = None,
        checkpoint_every: int = 1000,
    ) -> None:
        self.failure = ""
        self.plane = plane
        self.wall = wall
        self._writer = writer
        self._key = key
        self._every = checkpoint_every
        self._timestamps = TimestampFormatter()
        self._seq, self._head = 0, ZEROS
        self._since_checkpoint = 0
        self._cut = False

    def append(self, drafts: Sequence[Mapping[str, object]]) -> int:
        """Write records. How many of them, from the first, were written."""
        if not self._seq and not self._open():
            return 0
        for done, draft in enumerate(drafts):
            if not self._write(draft):
                return done
            self._since_checkpoint += 1
            if self._since_checkpoint >= self._every and not self.checkpoint("interval"):
                return done + 1
        return len(drafts)

    def checkpoint(self, reason: Literal["open", "interval", "rotate", "close"]) -> bool:
        """Write a checkpoint: the head of the chain, signed if there is a key. Returns False if it could not be written.

        A log that holds no record has nothing to seal, so that a process that could not start leaves no line.
        """
        if not self._seq:
            return True
        ts = self._timestamps.text(self.wall())
        fields = checkpoint_fields(self._seq + 1, self._head, reason, self._key)
        if not self._write({"ts": ts, "plane": self.plane, "event": "audit.checkpoint", "id": "", **fields}):
            return False
        self._since_checkpoint = 0
        return True

    def sync(self) -> bool:
        """There is no disk to wait for."""
        return True

    def reopen(self) -> bool:
        """There is no file to follow."""
        return False

    def close(self) -> None:
        """The writer is its owner's."""

    def _open(self) -> bool:
        """The record that begins the log, with the first record of the process: before it nothing is known of the stream."""
        fields = {"reason": "created", "last": ZEROS, "checkpoint_every": self._every, "torn": None}
        ts = self._timestamps.text(self.wall())
        return self._write({"ts": ts, "plane": self.plane, "event": "audit.open", "id": "", **fields}) and self.checkpoint("open")

    def _write(self, draft: Mapping[str, object]) -> bool:
        (line,), (head,) = chain_lines([draft], self._seq, self._head)
        whole, begun = self._writer.write_through(b"\n" + line if self._cut else line)
        self._cut = not whole and (begun or self._cut)
        self.failure = "" if whole else _FAILURE
        if whole:
            self._seq += 1
            self._head = head
        return whole
