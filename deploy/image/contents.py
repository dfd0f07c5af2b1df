"""What is in the image, as three layers of files: Debian's Python and what it needs, Robin's dependencies, Robin.

There is no shell, no package manager and nothing that Robin cannot use. The byte code is compiled here, by the image's own Python,
because the root file system is read-only when it runs.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.image import debian

ROOT = Path(__file__).resolve().parents[2]
LOCK = Path(__file__).with_name("debian.lock")
RUN_LOCK = ROOT / "requirements" / "run.lock"
PYTHON = "python3.11"
USER = 10001
# In the order of the layer: what the interpreter and its extension modules link to, and the certificates.
PACKAGES = (
    *("base-files", "ca-certificates", "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "gcc-12-base"),
    *("liblzma5", "libpython3.11-minimal", "libpython3.11-stdlib", "libssl3", "libuuid1", "python3.11-minimal", "zlib1g"),
)
KEEP = tuple(
    re.compile(pattern)
    for pattern in (
        rf"usr/bin/{PYTHON}$",
        r"usr/lib/python3\.11/",
        r"usr/lib/x86_64-linux-gnu/(lib[^/]*|ld-linux[^/]*)\.so[^/]*$",
        r"usr/lib64/ld-linux",
        r"usr/share/ca-certificates/mozilla/",
        r"usr/share/doc/[^/]+(/copyright)?$",
        r"(etc|usr/lib)/os-release$",
        r"etc/debian_version$",
    )
)
_UNUSED = "idlelib|tkinter|turtledemo|lib2to3|ensurepip|distutils|pydoc_data|pydoc|test|unittest|venv|curses|sqlite3|dbm|config-3.11-[^/]+"
_UNLINKED = "_curses|_curses_panel|_dbm|_sqlite3|readline|nis|_tkinter|_ctypes_test|_test[a-z]+|xx[a-z]+"  # of packages that are left out
DROP = tuple(
    re.compile(pattern) for pattern in (rf"usr/lib/python3\.11/({_UNUSED})(/|\.py$)", rf"usr/lib/python3\.11/lib-dynload/({_UNLINKED})\.")
)
WHEEL_PLATFORMS = tuple(f"manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1))  # what pip takes on Debian 12, whose glibc is 2.36
NOBODY = "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin"
PASSWD = f"root:x:0:0:root:/root:/sbin/nologin\n{NOBODY}\nrobin:x:{USER}:{USER}:robin:/nonexistent:/sbin/nologin\n"
GROUP = f"root:x:0:\nnogroup:x:65534:\nrobin:x:{USER}:\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The layers as folders, lowest first, and what was put into them."""

    layers: tuple[Path, ...]
    debian: tuple[debian.Package, ...]
    wheels: tuple[Path, ...]  # Robin's own is the last


def assemble(folder: Path, cache: Path) -> Contents:
    """Make the layers below `folder`, which is empty; what is fetched stays in `cache`."""
    base, dependencies, robin = (folder / name for name in ("base", "dependencies", "robin"))
    packages = debian.read_lock(LOCK)
    for package in packages:
        archive = debian.fetch(package, cache / "debian")
        debian.unpack(archive, base, keep=KEEP, drop=DROP)
        _put(base / "var/lib/dpkg/status.d" / package.name, debian.control(archive))  # where scanners of distroless images look
    _furnish(base)
    compile_layer(base, base, f"usr/lib/{PYTHON}")
    fetched = wheels(RUN_LOCK, cache / "wheels")
    install_wheels(dependencies / "robin", fetched)
    compile_layer(base, dependencies, "robin")
    own = _own_wheel(folder / "wheel")
    install_wheels(robin / "robin", [own])
    compile_layer(base, robin, "robin")
    return Contents(layers=(base, dependencies, robin), debian=tuple(packages), wheels=(*fetched, own))


def install_wheels(target: Path, chosen: Sequence[Path]) -> None:
    """Unpack wheels of one folder as `pip install --target` does; without their scripts, which name another Python."""
    pins = ["==".join(wheel.name.split("-")[:2]) for wheel in chosen]
    _pip(
        "install",
        "--no-deps",
        "--no-compile",
        "--no-index",
        "--find-links",
        str(chosen[0].parent),
        *_for_image(),
        "--target",
        str(target),
        *pins,
    )
    shutil.rmtree(target / "bin", ignore_errors=True)


def compile_layer(base: Path, layer: Path, below: str) -> None:
    """Byte code that is never compared with its source, made by the Python in `base`; the names in it are those of the image."""
    libraries = base / "usr/lib/x86_64-linux-gnu"
    python = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries), str(base / "usr/bin" / PYTHON)]
    options = ["-q", "-j", "1", "--invalidation-mode", "unchecked-hash", "-s", str(layer), "-p", "/"]
    environment = {"PYTHONHOME": str(base / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/nonexistent"}
    run([*python, "-S", "-m", "compileall", *options, str(layer / below)], environment=environment)


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
    """Run a tool; PackageError with its own words when it fails."""
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540, cwd=ROOT, env=environment)
    if asked.returncode != 0:
        raise debian.PackageError(f"`{' '.join(command)}` failed: {(asked.stderr or asked.stdout).strip()[-2000:]}")


def _furnish(base: Path) -> None:
    """What the packages' own scripts would have made."""
    for name in debian.MERGED:
        (base / "usr" / name).mkdir(parents=True, exist_ok=True)
        (base / name).symlink_to(f"usr/{name}")
    (base / "usr/bin/python3").symlink_to(PYTHON)
    for name in ("dev", "proc", "run", "sys", "tmp"):
        (base / name).mkdir(exist_ok=True)
    (base / "tmp").chmod(0o1777)
    _put(base / "etc/passwd", PASSWD.encode())
    _put(base / "etc/group", GROUP.encode())
    _put(base / "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
    certificates = sorted((base / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    _put(base / "etc/ssl/certs/ca-certificates.crt", b"".join(one.read_bytes() for one in certificates))
    shutil.rmtree(base / "usr/share/ca-certificates")


def wheels(lock: Path, folder: Path) -> list[Path]:
    """The wheels that a hash-locked requirements file names, for the image, from `folder` when they are there already."""
    key = debian.sha256(lock.read_bytes())[:16]
    wanted = folder / key
    if not wanted.is_dir():
        unfinished = folder / f".{key}-{os.getpid()}"
        shutil.rmtree(unfinished, ignore_errors=True)
        _pip("download", "--no-deps", "--require-hashes", *_for_image(), "-d", str(unfinished), "-r", str(lock))
        unfinished.rename(wanted)
    return sorted(wanted.glob("*.whl"))


def _own_wheel(folder: Path) -> Path:
    _pip("wheel", "--no-deps", "-w", str(folder), str(ROOT))
    (found,) = folder.glob("*.whl")
    return found


def _for_image() -> list[str]:
    """Wheels of the image's Python and C library, not of this machine's."""
    platforms = [word for platform in WHEEL_PLATFORMS for word in ("--platform", platform)]
    return [
        "--only-binary=:all:",
        *platforms,
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--abi",
        "cp311",
        "--abi",
        "abi3",
        "--abi",
        "none",
    ]


def _pip(*words: str) -> None:
    run(
        [sys.executable, "-m", "pip", words[0], "-q", "--disable-pip-version-check", "--no-input", *words[1:]], environment=dict(os.environ)
    )


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
