"""Programs of Debian's packages: installed when we are root, else the error says the command. No service of theirs is started."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.real.parts import versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
POLICY = Path("/usr/sbin/policy-rc.d")  # what invoke-rc.d asks; answer 101: start nothing


def find(command: str) -> Path:
    """The program, when it is installed; else MissingPart with the command that installs it."""
    found = shutil.which(command, path=SEARCH_PATH)
    if found is None:
        package = versions.DEBIAN[command]
        raise MissingPart(name=command, remedy=f"is not installed; run `make real` as root, or `apt-get install {package}`")
    return Path(found)


def ensure_debian(*commands: str) -> dict[str, Path]:
    """The programs by name, installing the packages of those that are not there. `commands` are keys of versions.DEBIAN."""
    absent = [command for command in commands if shutil.which(command, path=SEARCH_PATH) is None]
    if absent:
        _install(sorted({versions.DEBIAN[command] for command in absent}))
    return {command: find(command) for command in commands}


def installed_version(command: str) -> str:
    """The version of the Debian package that has the command, for the notes; "unknown" where dpkg does not know it."""
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", versions.DEBIAN[command]], capture_output=True, text=True, check=False, timeout=30
    )
    return asked.stdout.strip() or "unknown"


def _install(packages: list[str]) -> None:
    by_hand = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise MissingPart(name=" ".join(packages), remedy="must be installed with this system's own package tool (there is no apt-get)")
    if os.geteuid() != 0:
        raise MissingPart(name=" ".join(packages), remedy=f"must be installed by root: `{by_hand}`")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with Progress(f"{' '.join(packages)} from Debian's packages"), _no_services():
        for command in (["apt-get", "-q", "update"], ["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages]):
            asked = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=540
            )
            if asked.returncode != 0:
                raise MissingPart(name=" ".join(packages), remedy=f"`{by_hand}` failed: {asked.stderr.strip()[-2000:]}")


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """A package's own service would take its usual port: forbid starting it, and leave the machine as it was."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
