"""Our own Java programs, compiled once: tests/real/clients/java and tests/real/origins, standard library only."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.real.parts import cache
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

HERE = Path(__file__).resolve().parent.parent
TITLE = "Java programs"
OLDEST = 17


def java() -> Path:
    """The `java` on PATH, a JDK and new enough; else MissingPart."""
    remedy = f"needs a JDK {OLDEST} or newer; install one and put `java` and `javac` on PATH"
    found = shutil.which("java")
    if found is None or shutil.which("javac") is None:
        raise MissingPart(name=TITLE, remedy=remedy)
    told = _compiler_version()
    number = re.search(r"(\d+)", told)
    if number is None or int(number[1]) < OLDEST:
        raise MissingPart(name=TITLE, remedy=f"{remedy} (this is {told})")
    return Path(found)


def key() -> str:
    """Changes with the sources and the compiler."""
    java()
    return cache.digest([_compiler_version(), *(path.read_bytes() for path in _sources())])


def find() -> Path:
    """The folder of classes, when they are compiled already; else MissingPart."""
    folder = cache.place("java", key())
    if not folder.is_dir():
        raise MissingPart(name=TITLE, remedy="are not compiled yet; run `make real` once")
    return folder


def obtain() -> Path:
    """The folder of classes, compiling them first when need be."""
    return cache.obtain("java", key(), _compile)


def _sources() -> list[Path]:
    return sorted([*(HERE / "clients" / "java").glob("*.java"), *(HERE / "origins").glob("*.java")])


def _compiler_version() -> str:
    return subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _compile(folder: Path) -> None:
    with Progress(f"{TITLE} with {_compiler_version()}"):
        command = ["nice", "-n", "10", "javac", "-encoding", "UTF-8", "-d", str(folder), *map(str, _sources())]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if asked.returncode != 0:
            raise MissingPart(name=TITLE, remedy=f"could not be compiled:\n{asked.stderr[-2000:]}")
