"""One audit file and the head of its chain: lock, recovery after a crash, appending, checkpoints, rotation. Synchronous, for one thread.

Rules: the chain advances by what is in the file and by nothing else, so a failed write leaves no gap and the next one goes on from the last
whole line. One process holds the lock file for its life. A torn last line, of a process that was killed, is moved to `PATH.torn`.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from robin.telemetry.audit_chain import (
    LINE_BYTES,
    CheckpointKey,
    Draft,
    RecordError,
    chain_lines,
    hash_of,
    key_id_of,
    parse_line,
)
from robin.telemetry.audit_head import ChainHead

_BLOCK: Final = 64 * 1024
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditUnavailable(Exception):
    """A record could not be made safe, so that a plane that must audit has to refuse. `code` is that of the fault.

    `reason`: `locked` (another process writes this file), `damaged` (its last record does not verify), `write_failed`, `overloaded`,
    `timeout` or `closed`. At the start of a process, `locked` is exit code 3, the others are 1.
    """

    code: Final = "audit_unavailable"

    def __init__(self, reason: Literal["locked", "damaged", "write_failed", "overloaded", "timeout", "closed"], detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def load_checkpoint_key(path: Path) -> tuple[CheckpointKey, str]:
    """The Ed25519 private key of a PEM file, and its key_id. Raises OSError; ValueError if it is something else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - only a log with a key pays for it
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not a PEM private key without a passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is not an Ed25519 key")  # noqa: TRY004 - the file's content, no argument's type
    return key, key_id_of(key.public_key().public_bytes_raw())


class AuditFile(ChainHead):
    """An open, locked audit file of one plane. `failure` is why the last write or sync failed, empty while all is well.

    `sync` forces a descriptor's data to the disk (`os.fdatasync`).
    """

    def __init__(
        self,
        path: Path,
        *,
        plane: str,
        wall: Callable[[], float],
        key: tuple[CheckpointKey, str] | None = None,
        checkpoint_every: int = 1000,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        """Open or create the file, and record that. Raises AuditUnavailable."""
        super().__init__(plane=plane, wall=wall, key=key, every=checkpoint_every)
        self._path = path
        self._sync = sync
        self._end = self._synced_end = 0
        self._partial = False  # bytes of a line that failed are behind the end
        self._sync_failed = False
        self._fd = -1
        try:
            self._lock_fd = _lock(path)
            try:
                self._fd, _ = _open(path)
                self._begin(*self._recover())
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise AuditUnavailable("write_failed", f"{path}: {error.strerror}") from None

    @property
    def seq(self) -> int:
        """The number of the last record."""
        return self._seq

    def sync(self) -> bool:
        """Force what was written to the disk. Returns False if that failed; the next call tries again."""
        try:
            if self._sync_failed:  # Linux reports a failed write-back once and takes the pages for clean: make them dirty again
                octets = os.pread(self._fd, self._end - self._synced_end, self._synced_end)
                os.pwrite(self._fd, octets, self._synced_end)
            self._sync(self._fd)
        except OSError as error:
            self._sync_failed = True
            self.failure = f"{type(error).__name__}: {error.strerror}"
            return False
        self._sync_failed = False
        self._synced_end = self._end
        return True

    def reopen(self) -> bool:
        """After a rename: seal the old file and go on in a new one. Returns False if the file is still at its path.

        Raises AuditUnavailable; the old file is written on then.
        """
        try:
            if _same_file(self._path, self._fd):
                return False
            self.checkpoint("rotate")  # before the new file exists: a reader that follows leaves the old one then
            self.sync()
            new_fd, made = _open(self._path)
        except OSError as error:
            raise AuditUnavailable("write_failed", f"{self._path}: {error.strerror}") from None
        if os.fstat(new_fd).st_size:
            os.close(new_fd)
            raise AuditUnavailable("damaged", f"{self._path}: the new file is not empty; the old one is still written")
        old = (self._fd, self._end, self._synced_end, self._partial, self._sync_failed, self._seq, self._head)
        self._fd, self._end, self._synced_end, self._partial, self._sync_failed = new_fd, 0, 0, False, False
        try:
            self._begin("rotated", None)
        except BaseException as error:
            self._fd, self._end, self._synced_end, self._partial, self._sync_failed, self._seq, self._head = old
            with contextlib.suppress(OSError):  # a file that stays as it is, is refused as one that is not empty
                os.ftruncate(new_fd, 0)
                if made and _same_file(self._path, new_fd):
                    self._path.unlink()  # `robin audit verify` takes an empty file for one whose records were removed
            os.close(new_fd)
            if isinstance(error, OSError):  # such as no descriptor for the folder
                raise AuditUnavailable("write_failed", f"{self._path}: {error.strerror}") from None
            raise
        os.close(old[0])
        return True

    def close(self) -> None:
        """Give the descriptors back; the lock goes with them."""
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1

    def _begin(self, reason: str, torn: Mapping[str, object] | None) -> None:
        """Write the record that opens the file or this process's part of it, and a checkpoint that seals what came before."""
        if not (self._write([self._opening(reason, torn)]) and self.checkpoint("open") and self.sync()):
            raise AuditUnavailable("write_failed", f"{self._path}: {self.failure}")
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)  # the file's name, too
        finally:
            os.close(folder)

    def _write(self, drafts: Sequence[Draft]) -> int:
        """Write whole lines and advance the chain by them. How many were written."""
        lines, hashes = chain_lines(drafts, self._seq, self._head)
        if not lines:
            return 0
        octets = b"".join(lines)
        reached = self._put(octets)
        if reached == self._end + len(octets):
            self._end, self._seq, self._head = reached, self._seq + len(lines), hashes[-1]
            return len(lines)
        written = 0
        for line, of_line in zip(lines, hashes, strict=True):
            if self._end + len(line) > reached:
                break
            self._end += len(line)
            self._seq += 1
            self._head = of_line
            written += 1
        self._partial = True
        with contextlib.suppress(OSError):  # else it is tried again before the next write
            os.ftruncate(self._fd, self._end)
            self._partial = False
        return written

    def _put(self, octets: bytes) -> int:
        """Write behind the last whole line. The offset that was reached."""
        at, rest = self._end, memoryview(octets)
        try:
            if self._partial:
                os.ftruncate(self._fd, self._end)
                self._partial = False
            while rest:
                size = os.pwrite(self._fd, rest, at)
                at += size
                rest = rest[size:]
        except OSError as error:
            self.failure = f"{type(error).__name__}: {error.strerror}"
        else:
            self.failure = ""
        return at

    def _recover(self) -> tuple[str, Mapping[str, object] | None]:
        """Find the head of the chain and set a torn last line aside. Returns why the file is opened, and what was torn.

        Raises AuditUnavailable.
        """
        size = os.fstat(self._fd).st_size
        end = _behind_last_newline(self._fd, size)
        if end:
            start = max(0, end - LINE_BYTES)
            line = os.pread(self._fd, end - start, start)[:-1].rpartition(b"\n")[2]
            try:
                record = parse_line(line)
                if record["hash"] != hash_of(record):
                    raise RecordError("it does not match its hash")
            except RecordError as error:
                raise AuditUnavailable("damaged", f"{self._path}: the last record does not verify: {error}; move the file away") from None
            self._seq, self._head = int(str(record["seq"])), str(record["hash"])
        torn = None
        if size > end:
            torn = _set_aside(self._fd, end, size, self._path.with_name(f"{self._path.name}.torn"))
            os.ftruncate(self._fd, end)
        self._end = self._synced_end = end
        return ("continued" if end else "created"), torn


def _lock(path: Path) -> int:
    """Hold the lock file, so that the file has one writer whatever it is renamed to. Raises AuditUnavailable, OSError."""
    fd = os.open(path.with_name(f"{path.name}.lock"), _FLAGS, 0o600)
    try:
        _hold(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _hold(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AuditUnavailable("locked", f"{path}: another process writes it") from None


def _open(path: Path) -> tuple[int, bool]:
    """Open the file and hold it. Its descriptor, and whether it was made. Raises AuditUnavailable, OSError."""
    try:
        fd, made = os.open(path, _FLAGS | os.O_EXCL, 0o600), True
    except FileExistsError:
        fd, made = os.open(path, _FLAGS, 0o600), False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AuditUnavailable("write_failed", f"{path}: it is not a regular file")
        _hold(fd, path)  # else a lock file that was removed would admit a second writer
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd, made


def _same_file(path: Path, fd: int) -> bool:
    try:
        found, ours = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def _behind_last_newline(fd: int, size: int) -> int:
    """The offset behind the last newline of the file, 0 where there is none."""
    while size:
        start = max(0, size - _BLOCK)
        found = os.pread(fd, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _set_aside(fd: int, start: int, end: int, path: Path) -> dict[str, object]:
    """Append bytes of a file to a side file, and return the note of them for the log."""
    digest = hashlib.sha256()
    side = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        at = start
        while at < end:
            rest = memoryview(block := os.pread(fd, min(_BLOCK, end - at), at))
            digest.update(block)
            at += len(block)
            while rest:
                rest = rest[os.write(side, rest) :]
        os.fsync(side)
    finally:
        os.close(side)
    return {"bytes": end - start, "sha256": digest.hexdigest(), "file": path.name}
