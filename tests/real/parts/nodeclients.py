"""npm packages that our Node programs import, by the integrity sums of tests/real/clients/node/package-lock.json."""

import platform
import shutil
import subprocess
from pathlib import Path

from tests.real.parts import cache
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

SOURCES = Path(__file__).resolve().parent.parent / "clients" / "node"
TITLE = "Node clients"
OLDEST = 20


def node() -> Path:
    """The `node` on PATH, new enough; else MissingPart."""
    found = shutil.which("node")
    if found is None:
        raise MissingPart(name="node", remedy=f"is not on PATH; install Node {OLDEST} or newer with npm")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        raise MissingPart(name="node", remedy=f"is {version}; install Node {OLDEST} or newer with npm")
    return Path(found)


def recent() -> Path:
    """A `node` of package-lock.json, which reads NODE_USE_ENV_PROXY, whatever the one on PATH is; else MissingPart."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = find() / "node_modules" / f"node-linux-{machine}" / "bin" / "node"
    if not found.exists():
        raise MissingPart(name="node", remedy=f"has no package for {machine}")
    return found


def npm() -> Path:
    """The `npm` on PATH; else MissingPart."""
    found = shutil.which("npm")
    if found is None:
        raise MissingPart(name="npm", remedy=f"is not on PATH; install Node {OLDEST} or newer with npm")
    return Path(found)


def key() -> str:
    """Changes with the lock."""
    return cache.digest([(SOURCES / "package.json").read_bytes(), (SOURCES / "package-lock.json").read_bytes()])


def find() -> Path:
    """The folder with node_modules, when it is in the cache; else MissingPart."""
    node()
    folder = cache.place("nodeclients", key())
    if not folder.is_dir():
        raise MissingPart(name=TITLE, remedy="are not installed yet; run `make real` once")
    return folder


def obtain() -> Path:
    """The folder with node_modules, installing it first when need be."""
    node()
    return cache.obtain("nodeclients", key(), _install)


def _install(folder: Path) -> None:
    with Progress(f"{TITLE} of package-lock.json from npm"):
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, folder / name)
        command = ["nice", "-n", "10", str(npm()), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        asked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=540)
        if asked.returncode != 0:
            raise MissingPart(name=TITLE, remedy=f"`npm ci` failed: {asked.stderr.strip()[-2000:]}")
