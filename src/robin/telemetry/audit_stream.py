"""The audit chain on a stream, such as standard output, that is collected elsewhere: lines as in a file, without a lock and a sync.

Its lines go through the writer of all other lines, those that waited together in one write. The chain begins anew with each
process, and advances by what was written: a line that was cut is ended, so that the reader sees it as damaged, and its record was refused
to whatever waited for it.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal

from robin.telemetry.audit_chain import ZEROS, CheckpointKey, Draft, chain_lines, checkpoint_fields, draft_of
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

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records. How many of them, from the first, were written."""
        if not self._seq and not self._open():
            return 0
        done = 0
        while True:
            chunk = drafts[done : done + max(0, self._every - self._since_checkpoint)]
            written = self._write(chunk)
            done += written
            self._since_checkpoint += written
            if written < len(chunk) or (self._since_checkpoint >= self._every and not self.checkpoint("interval")) or done == len(drafts):
                return done

    def checkpoint(self, reason: Literal["open", "interval", "rotate", "close"]) -> bool:
        """Write a checkpoint: the head of the chain, signed if there is a key. Returns False if it could not be written.

        A log that holds no record has nothing to seal, so that a process that could not start leaves no line.
        """
        if not self._seq:
            return True
        ts = self._timestamps.text(self.wall())
        fields = checkpoint_fields(self._seq + 1, self._head, reason, self._key)
        if not self._write([draft_of({"ts": ts, "plane": self.plane, "event": "audit.checkpoint", "id": "", **fields})]):
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
        opened = draft_of({"ts": ts, "plane": self.plane, "event": "audit.open", "id": "", **fields})
        return self._write([opened]) == 1 and self.checkpoint("open")

    def _write(self, drafts: Sequence[Draft]) -> int:
        """Write lines and advance the chain by those that are whole. How many they were."""
        lines, hashes = chain_lines(drafts, self._seq, self._head)
        if not lines:
            return 0
        end_of_cut = b"\n" if self._cut else b""
        octets = self._writer.write_through(end_of_cut + b"".join(lines)) - len(end_of_cut)
        self._cut = self._cut and octets < 0
        written = 0
        for line, of_line in zip(lines, hashes, strict=True):
            if octets < len(line):
                self._cut = self._cut or octets > 0
                break
            octets -= len(line)
            self._seq += 1
            self._head = of_line
            written += 1
        self.failure = "" if written == len(lines) else _FAILURE
        return written
