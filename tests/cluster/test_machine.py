"""A node's machine leaves this one as it was: while it runs, when it has ended, and when the run was killed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.parts import node_root
from tests.cluster.parts.machine import CONTROLLERS, CannotRun, Machine, machine
from tests.real.parts.missing import MissingPart
from tests.real.parts.process import poll

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import signal
from tests.cluster.parts.machine import machine
with machine([]) as node:
    print(node.pid, node.folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _has_its_parts() -> None:
    try:
        node_root.obtain()
    except MissingPart as missing:
        pytest.fail(str(missing))


def here() -> dict[str, object]:
    """What a machine might change of this one."""
    settings = ("ipv4/ip_forward", "bridge/bridge-nf-call-iptables")
    values = {name: path.read_text() for name in settings if (path := Path("/proc/sys/net") / name).exists()}
    return {"name": socket.gethostname(), "bridge": Path("/sys/class/net/node0").exists(), **values}


def traces(folder: Path) -> list[str]:
    """What is left of a machine: its folder, mounts and control groups."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if folder.name in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/**/{folder.name}")]
    return [*mounts, *groups, *([str(folder)] if folder.exists() else [])]


def groups_of(node: Machine) -> list[str]:
    return [line.rpartition(":")[2] for line in node.run("cat", "/proc/self/cgroup").splitlines()]


def test_it_changes_nothing_here_and_leaves_nothing():
    before = here()
    with machine([]) as node:
        assert node.run("cat", "/proc/sys/kernel/hostname") == "node1\n"
        assert node.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        assert "node0" in node.run("ls", "/sys/class/net")
        assert set(groups_of(node)) == {"/"}, "its programs are in control groups of its own"
        assert here() == before
        folder, pid = node.folder, node.pid
    assert here() == before
    assert traces(folder) == []
    assert not Path(f"/proc/{pid}").exists()


def test_a_setting_of_the_whole_kernel_cannot_be_written_in_it():
    with machine([]) as node, pytest.raises(AssertionError, match="Read-only file system"):
        node.run("sh", "-c", "echo 1 > /proc/sys/fs/file-max")


def test_the_kubelets_own_settings_are_files_of_the_node():
    path = Path("/proc/sys/kernel/panic")
    before = path.read_text()
    with machine([]) as node:
        node.run("sh", "-c", "echo 7 > /proc/sys/kernel/panic")
        assert node.run("cat", "/proc/sys/kernel/panic") == "7\n"
        assert path.read_text() == before


def test_a_run_that_is_killed_ends_its_machine():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/src"}
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        run.send_signal(signal.SIGKILL)
    poll(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=60.0, what="the machine to end")
    poll(lambda: not Path(folder).exists(), timeout_s=60.0, what="the folder to be removed")
    with machine([]):
        assert traces(Path(folder)) == [], "the next start removes the control groups"


def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.cluster.parts.machine._hierarchies", dict)
    with pytest.raises(CannotRun, match=f"control groups v1 with {', '.join(CONTROLLERS)}"), machine([]):
        pass
