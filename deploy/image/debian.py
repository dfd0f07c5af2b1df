"""Debian packages that a lock file names with version, address and SHA-256: fetched once, checked, and unpacked without dpkg or root.

A line of the lock is `NAME VERSION SHA256 URL`. It is written from apt's signed indexes (`lock`); after that only the checksum is trusted.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE = "bookworm"
SUITES = {
    "main": f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {RELEASE} main",
    "security": f"deb [signed-by={KEYRING}] http://deb.debian.org/debian-security {RELEASE}-security main",
}
ARCHITECTURE = "amd64"
FETCH_TIMEOUT_S = 60.0
SIZE_LIMIT_BYTES = 64 << 20
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr since Debian 12
_AR_MAGIC = b"!<arch>\n"


class PackageError(Exception):
    """A package cannot be had as the lock says; the text has the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One line of a lock."""

    name: str
    version: str
    sha256: str
    url: str


def read_lock(path: Path) -> list[Package]:
    """The packages, in the order of the file."""
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [Package(name=name, version=version, sha256=sha256, url=url) for name, version, sha256, url in rows]


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, from the network when it is not there. PackageError when it differs from the lock or is gone."""
    target = folder / f"{package.name}-{package.sha256[:16]}.deb"
    if target.exists() and sha256(target.read_bytes()) == package.sha256:
        return target
    try:
        with urllib.request.urlopen(package.url, timeout=FETCH_TIMEOUT_S) as response:
            content = response.read(SIZE_LIMIT_BYTES + 1)
    except (urllib.error.URLError, OSError) as failure:
        raise PackageError(f"{package.url}: {failure}; if Debian has replaced it by a newer one, write the lock again") from None
    if sha256(content) != package.sha256:
        raise PackageError(f"{package.url}: SHA-256 is {sha256(content)}, the lock has {package.sha256}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as unfinished:
        unfinished.write(content)
    Path(unfinished.name).rename(target)
    return target


def unpack(archive: Path, root: Path, *, keep: Sequence[re.Pattern[str]] = (), drop: Sequence[re.Pattern[str]] = ()) -> None:
    """Put the package's files below `root`, those that match `keep` (or all), without those that match `drop`. Paths begin with `usr/`."""
    with tarfile.open(fileobj=BytesIO(_member(archive, "data.tar"))) as data:
        for member in data:
            name = merged(member.name)
            if not name or member.isdir() or (keep and not _matches(keep, name)) or _matches(drop, name):
                continue
            _place(data, member, name, root)


def control(archive: Path) -> bytes:
    """The package's own description: name, version, what it depends on."""
    with tarfile.open(fileobj=BytesIO(_member(archive, "control.tar"))) as members:
        found = members.extractfile("./control")
        assert found is not None
        return found.read()


def merged(name: str) -> str:
    """The path below the root as it is after the /usr merge: `./lib/x` is `usr/lib/x`."""
    path = name.removeprefix("./").rstrip("/")
    if path in ("", ".") or ".." in path.split("/"):
        return ""
    return f"usr/{path}" if path.split("/")[0] in MERGED else path


def resolve(names: Sequence[str], *, suites: Iterable[str], closure: bool) -> list[Package]:
    """The newest packages of these names in Debian's signed indexes; with `closure` also all that they depend on."""
    with tempfile.TemporaryDirectory(prefix="robin-lock-") as made:
        apt = Path(made)
        for part in ("lists/partial", "cache/archives/partial"):
            (apt / part).mkdir(parents=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text("".join(f"{SUITES[suite]}\n" for suite in suites))
        options = {
            "APT::Architecture": ARCHITECTURE,
            "Dir::Etc::sourcelist": apt / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": apt,
            "Dir::State::status": apt / "status",
            "Dir::Cache": apt / "cache",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::ForceHash": "SHA256",
        }
        command = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
        _run([*command, "update"])
        listed = _run([*command, "--print-uris", *(["install"] if closure else ["download"]), *names])
        packages = [_listed(line) for line in listed.splitlines() if line.startswith("'")]
    return sorted(packages, key=lambda one: one.name)


def write_lock(path: Path, packages: Iterable[Package], *, comment: str) -> None:
    """The lock, one line a package."""
    lines = [f"{one.name} {one.version} {one.sha256} {one.url}\n" for one in packages]
    path.write_text(f"# {comment}\n# NAME VERSION SHA256 URL\n{''.join(lines)}")


def _listed(line: str) -> Package:
    """A line of `apt-get --print-uris`: 'URL' name_version_arch.deb SIZE SHA256:..."""
    url, file, _, checksum = line.split()
    name, version, _ = file.split("_")
    return Package(name=name, version=version.replace("%3a", ":"), sha256=checksum.removeprefix("SHA256:"), url=url.strip("'"))


def _run(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None or not KEYRING.exists():
        raise PackageError(f"a lock is written on Debian or Ubuntu only: it needs {command[0]} and {KEYRING}")
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "LC_ALL": "C"})
    if asked.returncode != 0:
        raise PackageError(f"{command[0]} failed: {asked.stderr.strip()[-2000:]}")
    return asked.stdout


def _member(archive: Path, wanted: str) -> bytes:
    """A member of the package, which is an ar archive: 60 octets of header, then the content, padded to even."""
    content = archive.read_bytes()
    if not content.startswith(_AR_MAGIC):
        raise PackageError(f"{archive}: not an ar archive")
    for name, start, size in _members(content):
        if name.startswith(wanted):
            return content[start : start + size]
    raise PackageError(f"{archive}: has no {wanted}")


def _members(content: bytes) -> Iterator[tuple[str, int, int]]:
    at = len(_AR_MAGIC)
    while at + 60 <= len(content):
        name, size = content[at : at + 16].decode("ascii").strip().rstrip("/"), int(content[at + 48 : at + 58])
        yield name, at + 60, size
        at += 60 + size + size % 2


def _place(data: tarfile.TarFile, member: tarfile.TarInfo, name: str, root: Path) -> None:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        target.hardlink_to(root / merged(member.linkname))
    elif member.isfile():
        content = data.extractfile(member)
        assert content is not None
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(member.mode & 0o7777)


def _matches(patterns: Iterable[re.Pattern[str]], name: str) -> bool:
    return any(pattern.match(name) for pattern in patterns)


def sha256(content: bytes) -> str:
    """As hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
