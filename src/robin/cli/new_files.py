"""Files that a command makes, and that never replace one."""

import contextlib
import os
import secrets
from pathlib import Path


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Under another name first, so that the file is never there in part; it replaces nothing. Raises OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as opened:
            os.fchmod(descriptor, mode)
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        os.link(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)
