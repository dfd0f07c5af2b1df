"""The audit chain on a stream, such as standard output, that is collected elsewhere: lines as in a file, without a lock and a sync.

Its lines go through the writer of all other lines, those that waited together in one write. The chain begins anew with each
process, and advances by what was written: a line that was cut is ended, so that the reader sees it as damaged, and its record was refused
to whatever waited for it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from robin.telemetry.audit_chain import CheckpointKey, Draft, chain_lines
from robin.telemetry.audit_head import ChainHead, CheckpointReason
from robin.telemetry.writer import PIPE_BUF, LineWriter

_FAILURE: Final = "standard output does not take the records"


class AuditStream(ChainHead):
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
        super().__init__(plane=plane, wall=wall, key=key, every=checkpoint_every)
        self._writer = writer
        self._cut = False

    def append(self, drafts: Sequence[Draft]) -> int:
        """Write records, behind the one that begins the log. How many of them, from the first, were written."""
        return super().append(drafts) if self._seq or self._open() else 0

    def append_now(self, drafts: Sequence[Draft]) -> int:
        """As far as the stream takes them at once, up to the next checkpoint; a few lines in each write."""
        if not self._writer.at_once or not self._seq or self._cut or self.failure:
            return 0
        if len(drafts) >= self._every - self._since_checkpoint:
            return 0
        lines, hashes = chain_lines(drafts, self._seq, self._head)
        done = 0
        while done < len(lines):
            end, size = done + 1, len(lines[done])
            while end < len(lines) and size + len(lines[end]) <= PIPE_BUF:
                size += len(lines[end])
                end += 1
            if size > PIPE_BUF or not self._writer.write_now(b"".join(lines[done:end])):
                break
            done = end
        if done:
            self._seq, self._head = self._seq + done, hashes[done - 1]
            self._since_checkpoint += done
        return done

    def checkpoint(self, reason: CheckpointReason) -> bool:
        """As of a file. A log that holds no record has nothing to seal, so that a process that could not start leaves no line."""
        return not self._seq or super().checkpoint(reason)

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
        return self._write([self._opening("created")]) == 1 and self.checkpoint("open")

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
