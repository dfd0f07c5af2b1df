"""A temporary folder for one real server or a family of them, with a short path (a unix socket's may have 107 bytes)."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.real.parts.process import watch_folder


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """Made 0755, so that servers which change their user can enter; removed at the end, also when the run is killed."""
    folder = Path(tempfile.mkdtemp(prefix=f"robin-{name}-"))
    folder.chmod(0o755)
    watch_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
