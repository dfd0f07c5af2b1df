"""One process at a time looks at a socket path, removes a dead socket there and binds: a claim, by a lock file beside it.

Without it two starts at once take each other's fresh socket, bound but not yet listening, for a dead one. The lock is `.NAME.lock`, open to
its owner alone so that nobody else can hold it, and is gone when the claim ends; a lock file that a crash left behind is no lock.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

_TRIES = 100


class BindLockRefused(Exception):
    """The path cannot be bind_lock; the message says why and the fix."""


@contextlib.contextmanager
def bind_lock(path: str) -> Iterator[None]:
    """Hold the claim on `path`. Raises BindLockRefused at once when another process holds it: it is binding that very path."""
    folder, name = os.path.split(path)
    lock = os.path.join(folder, f".{name}.lock")
    descriptor = _take(lock)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)  # while it is held: who opened it meanwhile finds that it is not the file of that name any more
        os.close(descriptor)


def _take(lock: str) -> int:
    """The descriptor of the lock file, locked and still of that name."""
    for _ in range(_TRIES):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BindLockRefused(
                f"the lock file {lock} cannot be made: {error.strerror}; let Robin's user write there, or remove it"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _names(lock, descriptor):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise BindLockRefused("another process is binding it at this moment; stop it or choose another path") from None
            raise BindLockRefused(f"the lock file {lock} cannot be locked: {error.strerror}; choose another folder") from None
        os.close(descriptor)  # its holder ended the claim between our open and our lock
    raise BindLockRefused("other processes bind it again and again; stop them or choose another path")


def _names(path: str, descriptor: int) -> bool:
    """Whether `path` is the name of that open file."""
    opened = os.fstat(descriptor)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
