"""Errors of standard output, which commands leave to `main`: they are no errors of the files that a command reads."""

import errno


def is_of_output(error: Exception) -> bool:
    """Whether what was printed could not be written: the reader has left, or the disk behind it is full."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC) and error.filename is None
