"""A node's machine: namespaces and control groups of its own, with Debian's runc and iptables in it and the built programs below /opt."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster.parts import node_root
from tests.real.parts.missing import MissingPart
from tests.real.parts.namespaces import KEPT_BACK, NAMESPACES, first_child, network_of, remove_groups
from tests.real.parts.process import Server, poll
from tests.real.parts.scratch import scratch_folder

BOOT = Path(__file__).with_name("node_boot.sh")
ENTER = Path(__file__).with_name("node_enter.sh")
SHARED = Path("/cluster")  # the machine's folder, as it is called inside
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
# What pods need of the kernel, each tried in namespaces of its own before anything is started.
TRIALS = {
    "overlay file systems": "mkdir /tmp/a /tmp/b /tmp/c; mount -t overlay -o lowerdir=/etc,upperdir=/tmp/a,workdir=/tmp/b o /tmp/c",
    "bridges (CONFIG_BRIDGE)": "ip link add br0 type bridge",
    "veth pairs (CONFIG_VETH)": "ip link add veth0 type veth peer name veth1",
    "nftables (CONFIG_NF_TABLES)": "nft add table ip t && nft 'add chain ip t c { type nat hook postrouting priority 0; }'",
    "iptables (CONFIG_NFT_COMPAT)": "iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -m comment --comment x -j ACCEPT",
    "IP sets (CONFIG_IP_SET)": "ipset create s hash:ip && iptables -A FORWARD -m set --match-set s src -j ACCEPT",
    "bridged packets in iptables (CONFIG_BRIDGE_NETFILTER)": "test -e /proc/sys/net/bridge/bridge-nf-call-iptables",
}


class CannotRun(Exception):
    """This machine cannot run a cluster; one line for each thing that is missing. `curable`: root or a package would do."""

    def __init__(self, text: str, *, curable: bool = False) -> None:
        super().__init__(text)
        self.curable = curable


class Machine:
    """Made by `machine()`. Programs run inside it through `server` and `command`; `folder` is /cluster there."""

    def __init__(self, folder: Path, programs: Sequence[Path]) -> None:
        box = folder / "box"
        box.mkdir()
        self.folder = folder
        self._nsenter = _tool("nsenter")
        self._path = ":".join([*(f"/opt/{one.name.rpartition('-')[0]}" for one in programs), "/usr/sbin", "/usr/bin"])
        command = [_tool("setpriv"), f"--bounding-set={KEPT_BACK}", _tool("unshare"), *NAMESPACES, "--fork", "--kill-child"]
        self.life = Server("node", [*command, BOOT, node_root.find(), box, folder, *programs], folder=folder)

    @property
    def pid(self) -> int:
        """Its process 1, as this side numbers it."""
        return first_child(self.life.pid)

    def start(self) -> None:
        """Make the namespaces, and wait until everything is mounted."""
        self.life.start(lambda: self.pid and Path(f"/proc/{self.pid}/root/run/booted").exists())

    def stop(self) -> None:
        """The end of process 1 is the end of all the others."""
        pid = self.pid if self.life.running else 0
        self.life.kill()
        poll(lambda: not pid or not Path(f"/proc/{pid}").exists(), timeout_s=60.0, what="the node's processes to end")

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` inside."""
        entering = [f"--target={self.pid}", *NAMESPACES, "--cgroup", "--root", f"--wdns={SHARED}"]
        environment = ["/usr/bin/env", "-i", f"PATH={self._path}", "HOME=/root"]
        return [str(ENTER), str(self.folder / "cgroups"), self._nsenter, *entering, *environment, *(str(word) for word in words)]

    def server(self, name: str, *words: str | Path) -> Server:
        """A program that runs inside until it is stopped; its log is in `folder`."""
        return Server(name, self.command(*words), folder=self.folder)

    def run(self, *words: str | Path, timeout_s: float = 120.0) -> str:
        """Run a program inside to its end; its output. AssertionError with its words when it fails."""
        asked = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
        )
        assert asked.returncode == 0, f"{words}: {asked.returncode}\n{asked.stdout}{asked.stderr}"
        return asked.stdout

    def network(self) -> contextlib.AbstractContextManager[None]:
        """This thread is in the node's network."""
        return network_of(self.pid)


@contextlib.contextmanager
def machine(programs: Sequence[Path]) -> Iterator[Machine]:
    """A node without its programs running; ended and removed after, also when this run is killed."""
    check_machine()
    with scratch_folder("cluster") as folder, _groups(folder):
        made = Machine(folder, programs)
        try:
            made.start()
            yield made
        finally:
            made.stop()


def check_machine() -> None:
    """CannotRun with all that is missing here."""
    if os.geteuid() != 0:
        raise CannotRun("a cluster needs root: it is made of namespaces, mounts and control groups", curable=True)
    missing = [f"{tool} (Debian package util-linux)" for tool in ("setpriv", "unshare", "nsenter") if shutil.which(tool) is None]
    absent = [controller for controller in CONTROLLERS if controller not in _hierarchies()]
    if absent:
        missing.append(f"control groups v1 with {', '.join(absent)} (a machine with control groups v2 alone is not supported yet)")
    curable = not absent and bool(missing)
    if not missing:
        missing += [name for name, trial in TRIALS.items() if not _try(trial)]
    if missing:
        raise CannotRun("\n".join(missing), curable=curable)


def _try(trial: str) -> bool:
    mounts = "mount -t proc proc /proc && mount -t tmpfs tmp /tmp && "
    command = ["unshare", *NAMESPACES, "--fork", "chroot", str(node_root.find()), "/bin/sh", "-c", mounts + trial]
    return subprocess.run(command, capture_output=True, check=False, timeout=30, env={"PATH": "/usr/sbin:/usr/bin"}).returncode == 0


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingPart(name=name, remedy="is not installed; run `apt-get install util-linux`")
    return found


def _hierarchies() -> dict[str, Path]:
    """Where each controller of control groups v1 is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return {controller: Path(words[1]) for words in mounts if words[2] == "cgroup" for controller in words[3].split(",")}


@contextlib.contextmanager
def _groups(folder: Path) -> Iterator[None]:
    """A control group in each hierarchy, below our own, listed in the file `cgroups`; those that killed runs left are removed too."""
    hierarchies, own = _hierarchies(), _own_groups()
    groups = {controller: hierarchies[controller] / own.get(controller, "/").lstrip("/") / folder.name for controller in CONTROLLERS}
    for group in groups.values():
        for left in group.parent.glob("robin-cluster-*"):
            if not (folder.parent / left.name).exists():
                remove_groups(left)
        group.mkdir()
    for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group, which then takes no process
        (groups["cpuset"] / setting).write_text((groups["cpuset"].parent / setting).read_text())
    (folder / "cgroups").write_text("".join(f"{controller} {group}\n" for controller, group in groups.items()))
    try:
        yield
    finally:
        for group in groups.values():
            poll(lambda group=group: not _has_processes(group), timeout_s=30.0, what="the control groups to be empty")
            remove_groups(group)


def _own_groups() -> dict[str, str]:
    """Our own group in each hierarchy."""
    rows = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    return {controller: path for _, controllers, path in rows for controller in controllers.split(",")}


def _has_processes(group: Path) -> bool:
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            if (Path(folder) / "cgroup.procs").read_text():
                return True
    return False
