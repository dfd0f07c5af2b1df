"""The kernel's errors for a process or machine without free resources: a local failure, not one of the peer."""

import errno
from typing import Final

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The `errno` values of it: descriptors, buffers, memory."""
