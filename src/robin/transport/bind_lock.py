"""A lock on a socket path, so that one process at a time inspects it, removes a dead socket there and binds.

Without it, two processes that start at once mistake each other's new socket, bound but not yet listening, for a dead one. The lock file is
`.NAME.lock` beside the socket, with mode 0600 so that no other user can hold the lock. It is removed when the lock is released; a lock file
that a crash left behind locks nothing.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

_TRIES = 100


class BindLockRefused(Exception):
    """The path cannot be locked; the message has the reason and the fix."""


@contextlib.contextmanager
def bind_lock(path: str) -> Iterator[None]:
    """Hold the lock of `path`. Raises BindLockRefused at once if another process holds it, since that is binding the same path."""
    folder, name = os.path.split(path)
    lock = os.path.join(folder, f".{name}.lock")
    descriptor = _lock(lock)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock)  # while it is locked: a process that opened it meanwhile finds that the name is gone or another file
        os.close(descriptor)


def _lock(lock: str) -> int:
    """The descriptor of the lock file, locked, while the file still has that name."""
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
        os.close(descriptor)  # its holder released it between our open and our lock
    raise BindLockRefused("other processes bind it again and again; stop them or choose another path")


def _names(path: str, descriptor: int) -> bool:
    """Whether `path` is the name of that open file."""
    opened = os.fstat(descriptor)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)
