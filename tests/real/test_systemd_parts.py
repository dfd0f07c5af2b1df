"""The machine that systemd boots in: refused with the kernel's own words, and gone without a trace, also when the test run is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.real.parts import systemd_root
from tests.real.parts.process import poll
from tests.real.parts.systemd_machine import systemd_machine

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
SESSION = """
import signal, sys
sys.path[:0] = [{root!r}, {root!r} + "/src"]
from tests.real.parts.systemd_machine import systemd_machine
with systemd_machine("trixie") as machine:
    print(machine.server.pid, machine.pid, machine.server.folder, machine.cgroup, flush=True)
    signal.pause()
"""


def settings_of_the_kernel() -> list[str]:
    """What a systemd sets when it is let: it must not be let."""
    return [Path("/proc/sys", name).read_text() for name in ("fs/nr_open", "fs/file-max", "kernel/core_pattern", "kernel/pid_max")]


def processes_in(cgroup: Path) -> list[str]:
    return [pid for group in cgroup.rglob("cgroup.procs") for pid in group.read_text().split()]


def test_a_machine_leaves_nothing_and_changes_nothing() -> None:
    before = settings_of_the_kernel(), os.readlink("/proc/self/ns/net"), Path("/proc/self/mounts").read_text()
    with systemd_machine("trixie") as machine:
        pid, folder, cgroup = machine.pid, machine.server.folder, machine.cgroup
        assert len(processes_in(cgroup)) >= 2
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()
    assert not cgroup.exists()
    assert before == (settings_of_the_kernel(), os.readlink("/proc/self/ns/net"), Path("/proc/self/mounts").read_text())


def test_a_killed_session_leaves_no_process_and_the_next_one_removes_its_cgroup() -> None:
    systemd_root.find("trixie")
    command = [sys.executable, "-c", SESSION.format(root=str(ROOT))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        server, machine, folder, cgroup = session.stdout.readline().split()
        assert processes_in(Path(cgroup))
        session.send_signal(signal.SIGKILL)
    for left in (f"/proc/{server}", f"/proc/{machine}", folder):
        poll(lambda: not Path(left).exists(), timeout_s=60, what="the reaper to end the machine")  # noqa: B023
    poll(lambda: not processes_in(Path(cgroup)), timeout_s=60, what="its processes to end")
    with systemd_machine("trixie"):
        assert not Path(cgroup).exists()


def test_where_the_kernel_refuses_namespaces_it_says_so() -> None:
    systemd_root.find("trixie")
    command = ["setpriv", "--bounding-set=-sys_admin", sys.executable, "-c", SESSION.format(root=str(ROOT))]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert asked.returncode == 1
    assert "MissingPart: systemd: needs namespaces and mounts (CAP_SYS_ADMIN), which were refused: unshare: " in asked.stderr
