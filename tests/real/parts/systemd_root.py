"""A folder with systemd and Python in it and little more, out of Debian's signed packages: the disk of systemd_machine.py.

Robin's pinned dependencies are in /opt/robin, where the unit looks for them; Robin itself is put there when the machine starts.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real.parts import cache, versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.progress import Progress

PACKAGES = ("base-files", "coreutils", "dash", "procps", "systemd", "python3-minimal", "libpython3-stdlib")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LOCK = Path(__file__).resolve().parents[3] / "requirements" / "run.lock"
NOT_NEEDED = ("console-getty.service", "ldconfig.service")  # there is neither a console nor ldconfig
SCRIPT = "#!/opt/robin/bin/python\nimport sys\nfrom robin.cli.main import main\nsys.exit(main())\n"
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, which the packages' own scripts would have made


def key(release: str) -> str:
    """Changes with this file, Robin's dependencies and the machine."""
    return cache.digest([release, Path(__file__).read_bytes(), LOCK.read_bytes(), platform.machine()])


def find(release: str) -> Path:
    """The folder, when it is in the cache; else MissingPart."""
    folder = cache.place(f"systemd-{release}", key(release))
    if not folder.is_dir():
        raise MissingPart(name=_title(release), remedy="is not there yet; run `make real` once as root")
    return folder


def obtain(release: str) -> Path:
    """The folder, fetching and unpacking everything first when need be."""
    return cache.obtain(f"systemd-{release}", key(release), lambda folder: _install(folder, release))


def site_packages(root: Path) -> Path:
    """Where Robin's dependencies are, and Robin has to be."""
    (found,) = (root / "opt/robin/lib").glob("python3.*/site-packages")
    return found


def _title(release: str) -> str:
    return f"systemd {versions.SYSTEMD[release]} of Debian {release}"


def _install(folder: Path, release: str) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingPart(name=_title(release), remedy=f"is unpacked by Debian's tools, and there is no {tool}")
    if not KEYRING.exists():
        raise MissingPart(name=_title(release), remedy=f"cannot be verified without {KEYRING}; run `apt-get install {KEYRING.stem}`")
    if os.geteuid() != 0:
        raise MissingPart(name=_title(release), remedy="must be unpacked by root, to belong to root; run `make real` as root")
    with Progress(f"{_title(release)} from Debian's packages") as line:
        archives = _fetch(folder / "apt", release)
        for name in MERGED:
            (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(f"usr/{name}")
        for archive in archives:
            line(f"unpacking {archive.name}")
            _run(release, ["sh", "-c", 'dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink -C "$1"', str(archive), str(folder)])
        shutil.rmtree(folder / "apt")
        line("Robin's dependencies")
        _furnish(folder, release)
    folder.chmod(0o755)


def _fetch(apt: Path, release: str) -> list[Path]:
    """The packages with all that they need, as apt finds them for an empty system; it checks the signatures."""
    for part in ("lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_archive(release)} {release} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Languages": "none",
    }
    command = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    _run(release, [*command, "update"])
    _run(release, [*command, "--download-only", "install", *PACKAGES])
    return sorted((apt / "cache" / "archives").glob("*.deb"))


def _archive(release: str) -> str:
    """The address of Debian's archive that this system uses itself: a mirror of its owner's choice."""
    command = ["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Identifier: Packages"]
    for attempt in (1, 2):
        targets = _run(release, command).splitlines()
        found = [address for label, _, address in (line.partition("|") for line in targets) if label == "Debian"]
        if found:
            return found[0]
        if attempt == 1:
            _run(release, ["apt-get", "-q", "update"])
    raise MissingPart(name=_title(release), remedy="needs a source in apt's list whose label is Debian; there is none")


def _furnish(root: Path, release: str) -> None:
    """What the packages' scripts would have written, as far as it is needed, and /opt/robin as a venv with Robin's dependencies."""
    for unit in NOT_NEEDED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")  # not a first boot: no presets, no questions
    (python,) = (path for path in (root / "usr/bin").glob("python3.*") if path.name.removeprefix("python3.").isdigit())
    home = root / "opt/robin"
    packages = home / "lib" / python.name / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin/python").symlink_to(f"/usr/bin/{python.name}")
    (home / "bin/robin").write_text(SCRIPT)
    (home / "bin/robin").chmod(0o755)
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    options = ["-q", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    chosen = ["--target", str(packages), "--python-version", python.name.removeprefix("python"), "--implementation", "cp"]
    _run(release, [sys.executable, "-m", "pip", "install", *options, *chosen, "-r", str(LOCK)])
    _run(release, ["chroot", str(root), f"/usr/bin/{python.name}", "-m", "compileall", "-q", "/opt/robin/lib", f"/usr/lib/{python.name}"])
    (packages / "robin").mkdir()


def _run(release: str, command: Sequence[str]) -> str:
    """Its output; MissingPart with the tool's own words when it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    asked = subprocess.run(
        ["nice", "-n", "10", *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=540
    )
    if asked.returncode != 0:
        shown = " ".join(word for word in command if not word.startswith("-o"))
        raise MissingPart(name=_title(release), remedy=f"`{shown}` failed: {(asked.stderr or asked.stdout).strip()[-2000:]}")
    return asked.stdout
