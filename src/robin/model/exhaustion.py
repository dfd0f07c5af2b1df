"""What the kernel says when this process, or the machine, has no more to give: our own trouble, and nobody else's failure."""

import errno
from typing import Final

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The `errno` values of it: descriptors, buffers, memory."""
