"""Looks through what a whole test run has written for secrets (G53): Robin's logs and audit files, the lines of its processes, and cores.

Every identity token and assertion is a JWT, every issuer of a test that does not choose its tokens issues `token-<number>`, and every
private key is PEM or a JWK, so one pattern finds them all.
"""

import os
import re
from pathlib import Path
from typing import Final

SECRET: Final = re.compile(rb'eyJ[\w-]{8,}\.eyJ[\w-]{8,}|PRIVATE KEY-----|"d": ?"[\w-]{20,}|\btoken-\d+\b')
_LOOKED_AT: Final = re.compile(r"((gateway|robin).*\.log|.+\.jsonl)(\.\d+)?")
_CORE: Final = re.compile(r"core(\.\d+)?")
_FILE_BYTES: Final = 64 << 20
_SHOWN: Final = 200


class SecretsSeen:
    """`found` has the places, with the first characters of each line."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def look_at_line(self, stream: str, text: str) -> None:
        """A line of a process. On stdout only records are looked at: a person may ask a command for a token."""
        if (stream == "stderr" or '"event"' in text) and SECRET.search(text.encode()):
            self.found.append(f"{stream}: {text[:_SHOWN]}")

    def look_at_files(self, folder: Path) -> None:
        """All logs and audit files in a folder and those below. A core is a finding whatever it holds."""
        for inner, _, names in os.walk(folder):
            for name in names:
                path = Path(inner, name)
                if _CORE.fullmatch(name) and _head(path, 4) == b"\x7fELF":
                    self.found.append(f"{path}: a core")
                elif _LOOKED_AT.fullmatch(name):
                    lines = _head(path, _FILE_BYTES).splitlines()
                    self.found += [f"{path}: {line[:_SHOWN]!r}" for line in lines if SECRET.search(line)]


def _head(path: Path, size: int) -> bytes:
    """The first bytes of a file; b"" of what is none: a link to nothing, a socket, a pipe."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(size)
