"""Which rights the others, beside owner and group, have on a file that the settings name."""

import os
from typing import Final

ANY: Final = 0o007
WRITE: Final = 0o002
KEY_MODE_FIX: Final = "chmod 0600 it (0440 and 0640 are fine)"


def others_may(path: str, rights: int) -> bool:
    """Whether others have one of these rights. Raises OSError, also where the file is not there."""
    return os.stat(path).st_mode & rights != 0
