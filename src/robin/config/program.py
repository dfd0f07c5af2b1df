"""How this program is called again, for lines that people copy."""

import os
import shutil
import sys


def program_name() -> str:
    """`robin` where a shell finds this program by that name, else its own path."""
    own = sys.argv[0]
    if os.path.basename(own) != "robin" or not os.path.isfile(own):
        return "robin"  # it was called as a module
    found = shutil.which("robin")
    return "robin" if found is not None and os.path.samefile(found, own) else os.path.abspath(own)
