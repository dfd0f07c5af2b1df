"""The head of an audit chain that is being written: its last record, and when a checkpoint is due. A file and a stream build on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from robin.telemetry.audit_chain import ZEROS, CheckpointKey, Draft, checkpoint_fields, draft_of
from robin.telemetry.timestamp import TimestampFormatter

CheckpointReason = Literal["open", "interval", "rotate", "close"]


class ChainHead:
    """`plane` and `wall` are those of the records, `every` how many of them lie between two checkpoints. `key` signs checkpoints."""

    def __init__(self, *, plane: str, wall: Callable[[], float], key: tuple[CheckpointKey, str] | None, every: int) -> None:
        self.failure = ""
        self.plane = plane
        self.wall = wall
        self._key = key
        self._every = every
        self._timestamps = TimestampFormatter()
        self._seq, self._head = 0, ZEROS
        self._since_checkpoint = 0

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records, and each checkpoint that is due. How many of them, from the first, were written."""
        done = 0
        while True:
            chunk = drafts[done : done + max(0, self._every - self._since_checkpoint)]
            written = self._write(chunk)
            done += written
            self._since_checkpoint += written
            if written < len(chunk) or (self._since_checkpoint >= self._every and not self.checkpoint("interval")) or done == len(drafts):
                return done

    def append_now(self, drafts: Sequence[Draft]) -> int:
        """Write records in the loop's thread, as far as that takes no wait. How many of them, from the first: none to a disk."""
        return 0

    def checkpoint(self, reason: CheckpointReason) -> bool:
        """Write a checkpoint: the head of the chain, signed if there is a key. Returns False if it could not be written."""
        written = self._write([self._draft("audit.checkpoint", checkpoint_fields(self._seq + 1, self._head, reason, self._key))])
        if written:
            self._since_checkpoint = 0
        return written == 1

    def _write(self, drafts: Sequence[Draft]) -> int:
        """Write lines and advance the chain by those that are whole. How many they were."""
        raise NotImplementedError

    def _opening(self, reason: str, torn: Mapping[str, object] | None = None) -> Draft:
        """The record that begins a log, or this process's part of it."""
        return self._draft("audit.open", {"reason": reason, "last": self._head, "checkpoint_every": self._every, "torn": torn})

    def _draft(self, event: str, fields: Mapping[str, object]) -> Draft:
        return draft_of({"ts": self._timestamps.text(self.wall()), "plane": self.plane, "event": event, "id": "", **fields})
