"""Files that only their owner may read: keys, certificates with keys, state."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, octets: bytes) -> None:
    """Write a file of mode 0600 whole: a temporary file beside it, then a rename."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
