"""Keep other processes of the same user from reading this one: its memory, its environment, its descriptors (Linux)."""

import ctypes
import resource
import sys
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def refuse_inspection() -> None:
    """Refuse ptrace and /proc to all but root, and write no core. Call it before a secret is read; a program that is executed is free."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
