"""A folder for each built part, keyed by all that went into it, so a second run finds it at once.

It lies in ${XDG_CACHE_HOME:-~/.cache}/robin-real. A folder appears whole, by one rename, or not at all; two runs that want the same
part take turns on a lock. Folders of earlier pins stay: delete robin-real to have the room back.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path


def home() -> Path:
    """The cache folder, made when it is not there."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "robin-real"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(ingredients: Iterable[str | bytes]) -> str:
    """Sixteen hex digits that change when any ingredient does."""
    total = hashlib.sha256()
    for one in ingredients:
        encoded = one.encode() if isinstance(one, str) else one
        total.update(len(encoded).to_bytes(8, "big") + encoded)
    return total.hexdigest()[:16]


def place(name: str, key: str) -> Path:
    """Where the part is, or would be."""
    return home() / f"{name}-{key}"


def obtain(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The part's folder; when it is not there yet, `build` fills an empty one first. What `build` raises comes through, nothing is kept."""
    wanted = place(name, key)
    if wanted.is_dir():
        return wanted
    with (home() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.is_dir():  # another run built it while this one waited
            return wanted
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=home()))
        try:
            build(unfinished)
            unfinished.rename(wanted)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return wanted
