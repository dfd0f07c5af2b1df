"""A real systemd as process 1 of namespaces of its own: mounts, processes, network, host name, cgroup. Its kernel is this machine's.

The network has nothing but loopback: port 4000 is free there, and a thread of the test can step inside (`network`). Needs root, and
cgroup v2 beside or instead of v1.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.real.parts import systemd_root
from tests.real.parts.missing import MissingPart
from tests.real.parts.namespaces import KEPT_BACK, NAMESPACES, first_child, network_of, remove_groups
from tests.real.parts.process import Server, poll
from tests.real.parts.program import Ended, run
from tests.real.parts.scratch import scratch_folder

BOOT = Path(__file__).with_name("systemd_boot.sh")
ROBIN = Path(__file__).resolve().parents[3] / "src" / "robin"
UNITS = Path("/etc/systemd/system")


class SystemdMachine:
    """Booted by `systemd_machine`; paths and units are those of the machine. `cgroup` holds all its processes."""

    def __init__(self, root: Path, folder: Path, cgroup: Path) -> None:
        box = folder / "box"
        box.mkdir()
        packages = systemd_root.site_packages(root).relative_to(root)
        self._folder = folder
        self.cgroup = cgroup
        self._nsenter = shutil.which("nsenter") or "/usr/bin/nsenter"
        command = ["setpriv", f"--bounding-set={KEPT_BACK}", "unshare", *NAMESPACES, "--fork", "--kill-child"]
        self.server = Server("systemd", [*command, BOOT, root, box, cgroup, packages, ROBIN], folder=folder)

    @property
    def pid(self) -> int:
        """Its process 1, as this side numbers it; 0 before there is one."""
        return first_child(self.server.pid)

    def path(self, inside: str | Path) -> Path:
        """Where a file of the machine is for this side (a symbolic link on the way would lead astray)."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, inside: str | Path, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the machine, and its folders."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    async def command(self, *command: str, uid: int = 0, codes: tuple[int, ...] = (0,), limit_s: float = 120.0) -> Ended:
        """Run a program of the machine in it."""
        entering = [self._nsenter, *self._inside(), f"--setuid={uid}", f"--setgid={uid}"]
        environment = {"PATH": "/usr/sbin:/usr/bin", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}
        return await run([*entering, *command], home=self._folder, environment=environment, codes=codes, limit_s=limit_s)

    async def systemctl(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """What systemctl says."""
        return (await self.command("systemctl", *words, codes=codes)).stdout.decode()

    async def show(self, unit: str, *properties: str) -> dict[str, str]:
        """These properties of a unit."""
        told = await self.systemctl("show", unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in told.splitlines())

    async def reads(self, unit: str, **properties: str) -> bool:
        """Whether the unit has just these properties."""
        return await self.show(unit, *properties) == properties

    async def journal(self, unit: str) -> list[str]:
        """The lines that a unit wrote so far, and what systemd says of it."""
        await self.command("journalctl", "--sync")
        return (await self.command("journalctl", "--quiet", "--output=cat", f"--unit={unit}")).stdout.decode().splitlines()

    async def events(self, unit: str) -> list[str]:
        """The events of its JSON lines so far, in order."""
        return [json.loads(line)["event"] for line in await self.journal(unit) if line.startswith("{")]

    def network(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in the machine's network: what it opens now stays there, and the programs it starts are there too."""
        return network_of(self.pid)

    def start(self) -> None:
        """Boot, and wait until systemd has nothing left to start."""
        self.server.start(self._booted, timeout_s=180.0)

    def stop(self) -> None:
        """The end of process 1 is the end of all the others."""
        pid = self.pid if self.server.running else 0
        self.server.kill()
        poll(lambda: not pid or not Path(f"/proc/{pid}").exists(), timeout_s=60.0, what="the machine's processes to end")

    def _inside(self) -> tuple[str, ...]:
        return (f"--target={self.pid}", *NAMESPACES, "--cgroup", "--root", "--wd")

    def _booted(self) -> bool:
        pid = self.pid
        if not pid or Path(f"/proc/{pid}/comm").read_text() != "systemd\n":
            return False
        asked = subprocess.run(
            [self._nsenter, *self._inside(), "/usr/bin/systemctl", "is-system-running"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return asked.stdout.strip() in {"running", "degraded"}


@contextlib.contextmanager
def systemd_machine(release: str) -> Iterator[SystemdMachine]:
    """A machine that has booted; ended and removed after. MissingPart where it cannot be, with the kernel's own words."""
    root = systemd_root.find(release)
    _check_namespaces()
    with scratch_folder("systemd") as folder, _cgroup(folder) as cgroup:
        machine = SystemdMachine(root, folder, cgroup)
        try:
            machine.start()
            yield machine
        finally:
            machine.stop()


def _check_namespaces() -> None:
    if os.geteuid() != 0:
        raise MissingPart(name="systemd", remedy="can be booted by root only; run `make real` as root")
    for tool in ("setpriv", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            raise MissingPart(name="systemd", remedy=f"is started with {tool}; run `apt-get install util-linux`")
    asked = subprocess.run(
        ["unshare", *NAMESPACES, "--cgroup", "--fork", "mount", "-t", "tmpfs", "trial", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if asked.returncode != 0:
        raise MissingPart(name="systemd", remedy=f"needs namespaces and mounts (CAP_SYS_ADMIN), which were refused: {asked.stderr.strip()}")


@contextlib.contextmanager
def _cgroup(folder: Path) -> Iterator[Path]:
    """A group of the v2 hierarchy, named like the machine's folder and removed after; those that killed runs left are removed too."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    hierarchies = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    if not hierarchies:
        raise MissingPart(name="systemd", remedy="needs cgroup v2, which is not mounted; run `mount -t cgroup2 cgroup2 DIRECTORY`")
    for left in hierarchies[0].glob("robin-systemd-*"):
        if not (folder.parent / left.name).exists():
            remove_groups(left)
    group = hierarchies[0] / folder.name
    try:
        group.mkdir()
    except OSError as refused:
        raise MissingPart(name="systemd", remedy=f"needs a cgroup of its own, which was refused: {refused}") from None
    try:
        yield group
    finally:
        remove_groups(group)
