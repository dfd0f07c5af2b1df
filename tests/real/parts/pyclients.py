"""Python clients of others in a venv of their own, so that Robin's never grows by them: requirements/real.lock, by hash.

The folder is renamed when it is whole, so the scripts in its bin would name the wrong Python: run `python -m`, or a file of ours.
"""

import platform
import subprocess
import sys
from pathlib import Path

from tests.real.parts import cache
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

LOCK = Path(__file__).resolve().parents[3] / "requirements" / "real.lock"
TITLE = "Python clients"


def key() -> str:
    """Changes with the lock, this Python and the machine."""
    return cache.digest([LOCK.read_bytes(), sys.version, platform.machine()])


def find() -> Path:
    """The venv's Python, when it is in the cache; else MissingPart."""
    python = _python(cache.place("pyclients", key()))
    if not python.exists():
        raise MissingPart(name=TITLE, remedy="are not installed yet; run `make real` once")
    return python


def obtain() -> Path:
    """The venv's Python, installing everything first when need be."""
    return _python(cache.obtain("pyclients", key(), _install))


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    install(folder, LOCK, TITLE)


def install(folder: Path, lock: Path, title: str) -> None:
    """Make a venv in the folder with what the lock names, by hash."""
    with Progress(f"{title} of requirements/{lock.name} from PyPI"):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=300)
        options = ["-q", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--require-hashes"]
        command = ["nice", "-n", "10", str(_python(folder)), "-m", "pip", "install", *options, "-r", str(lock)]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)
        if asked.returncode != 0:
            raise MissingPart(name=title, remedy=f"`pip install -r requirements/{lock.name}` failed: {asked.stderr.strip()[-2000:]}")
        subprocess.run([str(_python(folder)), "-m", "compileall", "-q", str(folder / "lib")], check=False, capture_output=True, timeout=300)
