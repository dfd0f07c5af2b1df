"""The public client SDK of TrustPlane in a venv of its own: requirements/trustplane.lock, by hash."""

import platform
import sys
from pathlib import Path

from tests.real.parts import cache, pyclients
from tests.real.parts.missing import MissingPart

LOCK = pyclients.LOCK.with_name("trustplane.lock")
TITLE = "trustplane-auth-sdk"


def key() -> str:
    """Changes with the lock, this Python and the machine."""
    return cache.digest([LOCK.read_bytes(), sys.version, platform.machine()])


def find() -> Path:
    """The venv's Python, when it is in the cache; else MissingPart."""
    python = cache.place("trustplane", key()) / "bin" / "python"
    if not python.exists():
        raise MissingPart(name=TITLE, remedy="is not installed yet; run `make real` once")
    return python


def obtain() -> Path:
    """The venv's Python, installing the SDK first when need be."""
    return cache.obtain("trustplane", key(), lambda folder: pyclients.install(folder, LOCK, TITLE)) / "bin" / "python"
