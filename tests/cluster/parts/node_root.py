"""The system of a node: runc, iptables and what the kubelet calls, out of Debian packages pinned in node.lock; nothing is installed.

`python -m tests.cluster.parts.node_root` writes the lock again.
"""

import platform
import re
from pathlib import Path

from deploy.image import debian
from tests.real.parts import cache
from tests.real.parts.missing import MissingPart, as_missing
from tests.real.parts.progress import Progress

LOCK = Path(__file__).with_name("node.lock")
SHELL_LOCK = Path(__file__).with_name("shell.lock")
SHELL = ("coreutils", "curl", "dash")  # what the work of job-classic.yaml calls
TITLE = "the node's system"
PACKAGES = ("base-files", "coreutils", "dash", "iproute2", "ipset", "iptables", "mount", "nftables", "procps", "runc", "util-linux")
LEFT_OUT = re.compile(
    r"perl|lib.*perl|usrmerge|debconf|dpkg|init-system|debianutils|libgdbm|libdb5|tar$"
)  # for scripts of packages, which do not run
XTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")


def key() -> str:
    """Changes with the lock, this file and what unpacks."""
    return cache.digest([LOCK.read_bytes(), Path(__file__).read_bytes(), Path(debian.__file__).read_bytes()])


def find() -> Path:
    """The folder, when it is in the cache; else MissingPart."""
    folder = cache.place("node", key())
    if not folder.is_dir():
        raise MissingPart(name=TITLE, remedy="is not there yet; run `make cluster` once")
    return folder


def obtain() -> Path:
    """The folder, fetching and unpacking everything first when need be."""
    if platform.machine() != "x86_64":
        raise MissingPart(name=TITLE, remedy=f"is pinned for x86_64 only; this is {platform.machine()}")
    return cache.obtain("node", key(), _unpack)


def _unpack(folder: Path) -> None:
    packages = debian.read_lock(LOCK)
    with Progress(f"{TITLE} from {len(packages)} Debian packages") as line, as_missing(TITLE, debian.PackageError):
        for name in debian.MERGED:
            (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(f"usr/{name}")
        for package in packages:
            line(package.name)
            debian.unpack(debian.fetch(package, cache.home() / "debian"), folder)
        for name in ("dev", "proc", "run", "sys", "tmp", "var/lib"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in XTABLES:  # what the package's own script would choose
            (folder / "usr/sbin" / name).unlink(missing_ok=True)
            (folder / "usr/sbin" / name).symlink_to("xtables-nft-multi")
        for path, text in (
            ("passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"),
            ("group", "root:x:0:\nnogroup:x:65534:\n"),
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n10.98.0.1 node1\n"),
            ("hostname", "node1\n"),
            ("resolv.conf", ""),
        ):
            (folder / "etc" / path).write_text(text)
    folder.chmod(0o755)


def write_lock(lock: Path, packages: tuple[str, ...], *, comment: str) -> None:
    """Pin these packages, with what they need, by the newest of Debian's main archive, where nothing vanishes between point releases."""
    found = debian.resolve(packages, suites=["main"], closure=True)
    debian.write_lock(lock, [package for package in found if not LEFT_OUT.match(package.name)], comment=comment)


if __name__ == "__main__":
    command = "python -m tests.cluster.parts.node_root"
    write_lock(LOCK, PACKAGES, comment=f"The packages of a node, written by `{command}`.")
    write_lock(SHELL_LOCK, SHELL, comment=f"A shell and curl for the image of a Job, written by `{command}`.")
