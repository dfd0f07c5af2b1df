"""A test run that is killed leaves neither process nor folder: the reaper sees the end of its pipe and cleans up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.real.parts import cache, gobuild
from tests.real.parts.missing import MissingPart
from tests.real.parts.ports import answers, held_port
from tests.real.parts.process import Server, ServerFailed, poll
from tests.real.parts.reaper import started_at

ROOT = Path(__file__).resolve().parent.parent.parent
SESSION = """
import signal, sys
sys.path.insert(0, {root!r})
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder
with scratch_folder("test") as folder:
    server = Server("sleeper", [sys.executable, "-c", "import subprocess, sys; subprocess.run(['sleep', '600'])"], folder=folder)
    server.start(lambda: True)
    print(server.pid, folder, flush=True)
    signal.pause()
"""


def group_members(group: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            members.append(int(stat.parent.name))
    return members


def test_a_killed_session_leaves_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", SESSION.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        pid, folder = session.stdout.readline().split()
        poll(lambda: len(group_members(int(pid))) == 2, timeout_s=60, what="the server and its child")
        session.send_signal(signal.SIGKILL)
    poll(lambda: not group_members(int(pid)), timeout_s=60, what="the reaper to end the group")
    poll(lambda: not Path(folder).exists(), timeout_s=60, what="the reaper to remove the folder")


def test_a_server_that_ends_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('cannot do this')"], folder=tmp_path)
    with pytest.raises(ServerFailed) as failed:
        server.start(lambda: False)
    assert "cannot do this" in failed.value.__notes__[0]
    assert "ended with 1" in failed.value.__notes__[0]
    assert not server.running


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    server = Server("slow", ["sleep", "600"], folder=tmp_path)
    with pytest.raises(TimeoutError, match="slow to be ready"):
        server.start(lambda: False, timeout_s=0.2)
    assert started_at(server.pid) == ""


def test_a_server_can_be_paused_and_started_again(tmp_path: Path) -> None:
    server = Server("sleeper", ["sleep", "600"], folder=tmp_path)
    server.start(lambda: True)
    first = server.pid
    server.pause()
    poll(lambda: Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] == "T", timeout_s=60, what="it to stand still")
    server.resume()
    assert server.stop() == -signal.SIGTERM
    server.start(lambda: True)
    assert server.pid != first
    assert server.kill() == -signal.SIGKILL


def test_a_held_port_is_given_to_nobody_else_and_its_server_can_listen() -> None:
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('up', flush=True); s.accept()"
    with held_port() as port:
        assert not answers(port)
        with subprocess.Popen([sys.executable, "-c", program, str(port)], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            assert answers(port)
            assert server.wait(10) == 0


def test_a_part_is_built_once_and_a_failed_build_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    builds: list[Path] = []

    def build(folder: Path) -> None:
        builds.append(folder)
        if len(builds) == 1:
            raise MissingPart(name="part", remedy="is broken")
        (folder / "program").write_text("built")

    with pytest.raises(MissingPart):
        cache.obtain("part", "key", build)
    assert not [path for path in cache.home().iterdir() if path.is_dir()]
    for _ in range(2):
        assert (cache.obtain("part", "key", build) / "program").read_text() == "built"
    assert len(builds) == 2


def test_without_go_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPart, match=r"kubernetes .*needs Go 1\.26\.0 or newer.*put `go` on PATH"):
        gobuild.find(gobuild.KUBERNETES)


def test_an_old_go_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "go").write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    (tmp_path / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    with pytest.raises(MissingPart, match=r"needs Go 1\.26\.0 or newer.*this is go version go1\.19\.8"):
        gobuild.find(gobuild.KUBERNETES)
