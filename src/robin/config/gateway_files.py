"""The files that the gateway's settings are read from: robin.yaml and the profiles that it names; what they hold, and whether that changed.

Every other file that the settings name (certificates, keys, tokens, roots) is looked at again by the part that uses it.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from robin.config import file_modes
from robin.transport.tls import file_identity

_FILE_BYTES: Final = (1 << 20) + 1
"""As far as a file is read: what is longer is refused for its length."""
_FILES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFiles:
    """`file` is robin.yaml; `patterns` are the entries of its `profiles`, relative to its folder."""

    file: str
    patterns: tuple[str, ...] = ()

    def paths(self) -> list[str]:
        """Every file, robin.yaml first."""
        from robin.config.providers import profile_paths  # noqa: PLC0415 - with its schemas, only where there are profiles

        folder = Path(self.file).parent
        profiles = (str(path) for text in self.patterns for path in profile_paths(folder, text))
        return [self.file, *list(dict.fromkeys(profiles))[:_FILES_MAX]]

    def identities(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What changes when a file is written, replaced, added or taken away; nothing is read."""
        return tuple((path, file_identity(path)) for path in self.paths())

    def contents(self, main: bytes | None = None) -> "Contents":
        """Read all of them; `main` is what robin.yaml holds, where it was read already."""
        whole, by_path = hashlib.sha256(), []
        for path in self.paths():
            octets = _read(path) if main is None or path != self.file else main
            whole.update(octets)
            by_path.append((path, hashlib.sha256(octets).digest()))
        return Contents(sha256=whole.hexdigest(), by_path=tuple(by_path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What files held: `sha256` is of all of them behind each other, as `cat FILES... | sha256sum` writes it; a file may be unreadable."""

    sha256: str
    by_path: tuple[tuple[str, bytes], ...]


def read_settings(path: str) -> bytes:
    """robin.yaml, within the limit. Raises OSError, also where it is no regular file, or one that anyone could change."""
    with _open(path) as opened:
        mode = os.fstat(opened.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if mode & file_modes.WRITE:
            raise OSError(errno.EPERM, "it is world-writable, so anyone could change it")
        return opened.read(_FILE_BYTES)


def _read(path: str) -> bytes:
    """What a regular file holds, within the limit; empty where it cannot be read."""
    try:
        with _open(path) as opened:
            return opened.read(_FILE_BYTES) if stat.S_ISREG(os.fstat(opened.fileno()).st_mode) else b""
    except OSError:
        return b""


def _open(path: str) -> BinaryIO:
    """A FIFO in the file's place cannot stop the reader."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC))
