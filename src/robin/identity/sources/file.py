"""The token file, read whole or not at all: a regular file, opened without hanging, read between two equal `fstat`s.

A reader that meets a writer detects that the file changed and reads again; it never returns half a token as a whole one. The path
is opened anew each time, symlinks followed, so a `..data` swap, a rename and a rewrite in place all show.
"""

import asyncio
import os
import stat
from dataclasses import dataclass
from typing import Final

from robin.identity.source import FailureClass, RawIdentity, SourceFailure
from robin.model.exhaustion import EXHAUSTED
from robin.model.secret import Secret
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jwt_inspection import TOKEN_LIMIT_BYTES

_READ_LIMIT_BYTES: Final = 2 * TOKEN_LIMIT_BYTES  # a token and its trailing newline; anything larger is not a token file
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: a FIFO must not hang us
_TRIES: Final = 3
_PAUSE_S: Final = 0.005
_OTHERS_READ: Final = 0o004

FileKey = tuple[int, int, int, int, int]


def file_key(found: os.stat_result) -> FileKey:
    """Return what changes when the file is replaced or rewritten: device, inode, size, and both times in nanoseconds."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReading:
    """One whole read. `written_at` is the later of mtime and ctime, wall seconds."""

    raw: RawIdentity
    key: FileKey
    written_at: float
    open_to_others: bool


class FileSource:
    """Reads one path."""

    __slots__ = ("_metrics", "path")

    def __init__(self, path: str, metrics: IdentityMetrics) -> None:
        self.path = path
        self._metrics = metrics

    async def fetch(self, audience: str | None) -> RawIdentity:
        """Return the token in the file. Raises SourceFailure."""
        return (await self.read()).raw

    async def read(self) -> FileReading:
        """Return the whole file. Raises SourceFailure: `missing`, `unreadable`, `not_a_file`, `torn`, `too_large`, `exhausted`."""
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            reading = self._read_once()
            if reading is not None:
                return reading
            self._metrics.torn_reads += 1
        raise SourceFailure("torn", "torn: the token file changes while it is read; write it anew and rename it into place")

    def _read_once(self) -> FileReading | None:
        """Read once. Returns None if the file changed meanwhile."""
        try:
            descriptor = os.open(self.path, _FLAGS)
        except OSError as error:
            raise _unopened(self.path, error) from None
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise SourceFailure("not_a_file", "not_a_file: {token_file} is not a regular file; name the token file itself")
            text = _read_to_end(descriptor)
            after = os.fstat(descriptor)
        except OSError as error:
            raise _unreadable(error) from None
        finally:
            os.close(descriptor)
        key = file_key(before)
        if key != file_key(after) or len(text) != after.st_size:
            return None
        return FileReading(
            raw=RawIdentity(text=Secret(text)),
            key=key,
            written_at=max(after.st_mtime, after.st_ctime),
            open_to_others=bool(after.st_mode & _OTHERS_READ),
        )


def _read_to_end(descriptor: int) -> bytes:
    text = b""
    while piece := os.read(descriptor, _READ_LIMIT_BYTES + 1 - len(text)):
        text += piece
        if len(text) > _READ_LIMIT_BYTES:
            raise SourceFailure(
                "too_large",
                f"too_large: {{token_file}} is larger than {_READ_LIMIT_BYTES} bytes; name the file that holds the token",
                fault="identity_malformed",
            )
    return text


def _unopened(path: str, error: OSError) -> SourceFailure:
    """Return why the file could not be opened; that it is missing can be seen without a descriptor."""
    if error.errno not in EXHAUSTED:
        return _unreadable(error)
    try:
        os.stat(path)
    except OSError as other:
        return _unreadable(other)
    return SourceFailure(
        "exhausted",
        "exhausted: Robin has no descriptor left to read {token_file} with; raise `ulimit -n` or lower {max_connections}",
        failure_class=FailureClass.LOCAL,
    )


def _unreadable(error: OSError) -> SourceFailure:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SourceFailure("missing", "missing: the file of {token_file} does not exist; mount the token there, or set {token_file}")
    if isinstance(error, PermissionError):
        return SourceFailure("unreadable", "unreadable: Robin may not read {token_file}; grant its user read access")
    word = error.strerror or type(error).__name__
    return SourceFailure("unreadable", f"unreadable: {{token_file}} cannot be read ({word}); name a readable file")
