"""A projected volume, written the way the kubelet's AtomicWriter writes it: new files in a hidden directory, then one `..data` swap.

    token -> ..data/token          the path that a workload reads; this link never changes
    ..data -> ..2026_05_29_12_00_00.x1y2z3/   swapped by rename(2), which is atomic
Differences from the kubelet: files lie flat, without subdirectories.
"""

import contextlib
import datetime
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from robin.transport.clock import Clock, SystemClock

_DATA = "..data"
_DATA_NEXT = "..data_tmp"


class ProjectedDirectory:
    """One volume at `folder`; `mode` is that of its files (the kubelet's for a token that only its owner reads is 0600)."""

    def __init__(self, folder: Path, *, mode: int = 0o600, clock: Clock | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._mode = mode
        self._clock = clock or SystemClock()

    @property
    def token_file(self) -> Path:
        """Where a workload reads `token`."""
        return self.folder / "token"

    def write(self, files: Mapping[str, bytes]) -> bool:
        """Make the volume hold exactly these files, all at once for any reader; False when it did already."""
        for name in files:
            if not name or "/" in name or name.startswith(".."):
                raise ValueError(f"{name!r} cannot be a file of a projected volume")
        old = self._current()
        stale = {path.name for path in old.iterdir()} - set(files) if old else set()
        if old and not stale and all(_holds(old / name, content) for name, content in files.items()):
            return False
        new = self._new_directory()
        for name, content in files.items():
            (new / name).write_bytes(content)
            (new / name).chmod(self._mode)
        for name in files:
            with contextlib.suppress(FileExistsError):
                (self.folder / name).symlink_to(f"{_DATA}/{name}")
        next_link = self.folder / _DATA_NEXT
        next_link.unlink(missing_ok=True)
        next_link.symlink_to(new.name)
        next_link.rename(self.folder / _DATA)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        if old:
            shutil.rmtree(old)
        return True

    def _current(self) -> Path | None:
        try:
            return self.folder / os.readlink(self.folder / _DATA)
        except FileNotFoundError:
            return None

    def _new_directory(self) -> Path:
        stamp = datetime.datetime.fromtimestamp(self._clock.wall(), datetime.UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
        new = Path(tempfile.mkdtemp(prefix=stamp, dir=self.folder))
        new.chmod(0o755)
        return new


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
