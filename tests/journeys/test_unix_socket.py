"""The Unix listener's path: its mode from the first moment, its folder, who may take it over, and what is left behind (K11, L1)."""

import asyncio
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.life import ask_unix, launched, serving, shell, short_folder

IN_ATTRIB, IN_CREATE, IN_DELETE, IN_MOVED_TO = 0x4, 0x100, 0x200, 0x80


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


class Watch:
    """What the kernel says happened in a folder: (mask, name), by inotify."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0
        assert libc.inotify_add_watch(self._fd, os.fsencode(folder), IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_TO) > 0

    def events(self) -> list[tuple[int, str]]:
        """All so far, then the watch ends."""
        raw, found, at = os.read(self._fd, 65536), [], 0
        os.close(self._fd)
        while at < len(raw):
            _, mask, _, size = struct.unpack_from("iIII", raw, at)
            found.append((mask & 0xFFFF, raw[at + 16 : at + 16 + size].rstrip(b"\0").decode()))
            at += 16 + size
        return found


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("umask", ["0000", "0077"])
@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({}, 0o600),
        ({"ROBIN_PEERCRED_ALLOW_UIDS": "0"}, 0o666),
        ({"ROBIN_UDS_MODE": "0660"}, 0o660),
    ],
)
async def test_l1_the_final_mode_from_creation_whatever_the_umask(
    tmp_path: Path, folder: Path, settings: dict[str, str], mode: int, umask: str
):
    path = folder / "robin.sock"
    watch = Watch(folder)
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path), **settings}, program=shell(f"umask {umask}")):
        assert mode_of(path) == mode
        told = [(IN_CREATE, ".robin.sock.lock"), (IN_CREATE, "robin.sock"), (IN_DELETE, ".robin.sock.lock")]
        assert watch.events() == told, "no change of mode, no rename"


async def test_l1_unlinked_on_exit_only_if_it_is_ours(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        assert await rig.robin.stop() == 0
    assert not path.exists()
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        path.unlink()
        path.write_text("somebody else's")
        assert await rig.robin.stop() == 0
    assert path.read_text() == "somebody else's"


async def test_l1_a_missing_parent_is_made_0755_whatever_the_umask(tmp_path: Path, folder: Path):
    for umask in ("0000", "0077"):
        path = folder / umask / "run" / "robin.sock"
        async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}, program=shell(f"umask {umask}")):
            assert (mode_of(path.parent), mode_of(path.parent.parent)) == (0o755, 0o755)


async def test_l1_a_parent_that_everyone_may_write_is_warned_of(tmp_path: Path, folder: Path):
    for mode, warned in ((0o777, 1), (0o1777, 0), (0o755, 0)):
        folder.chmod(mode)
        async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(folder / "robin.sock")}) as rig:
            told = [event for event in rig.robin.events if event["event"] == "socket_folder_writable"]
            assert len(told) == warned, oct(mode)
            assert all(event["level"] == "warning" and str(folder) in event["detail"] for event in told)


async def test_a_unix_socket_without_a_uid_list_is_warned_of(tmp_path: Path, folder: Path):
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(folder / "robin.sock")}) as rig:
        (warning,) = [event for event in rig.robin.events if event["event"] == "any_local_peer"]
        assert warning["level"] == "warning"
        assert "ROBIN_PEERCRED_ALLOW_UIDS" in warning["detail"]


async def test_k11_after_kill_9_the_same_path_serves_again(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    for _ in range(3):
        async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
            assert (await ask_unix(rig, path)).status == 200
            assert await rig.robin.kill() == -9
        assert stat.S_ISSOCK(os.lstat(path).st_mode), "nobody could tidy up"


async def test_k11_a_second_instance_on_a_live_path_exits_3_and_unlinks_nothing(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        inode = os.lstat(path).st_ino
        async with launched(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as second:
            assert await second.robin.returned() == 3
            fix = "another process is listening there; stop it or choose another path"
            assert second.robin.stderr == [f"robin: ROBIN_LISTEN_UDS: unix:{path}: {fix}"]
        assert os.lstat(path).st_ino == inode
        assert (await ask_unix(rig, path)).status == 200


async def test_k11_of_two_instances_that_start_at_once_on_a_dead_path_one_serves_and_the_other_exits_3(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    settings = {"ROBIN_LISTEN_UDS": str(path)}
    async with launched(tmp_path, settings=settings) as one, launched(tmp_path, settings=settings) as other:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(rig.robin.line(f"unix:{path}")) for rig in (one, other)]
        refusals = [line.result() for line in started if line.result().startswith("robin: ")]
        assert len(refusals) == 1
        assert refusals[0].endswith("; stop it or choose another path")
        winner, loser = (one, other) if other.robin.stderr else (other, one)
        assert await loser.robin.returned() == 3
        assert (await ask_unix(winner, path)).status == 200
        assert await winner.robin.stop() == 0
    assert list(folder.iterdir()) == []


async def test_k11_a_live_path_whose_queue_is_full_is_live(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        async with launched(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
            assert await rig.robin.returned() == 3
        assert stat.S_ISSOCK(os.lstat(path).st_mode)


@pytest.mark.parametrize("kind", ["file", "folder", "link to a file", "dangling link"])
async def test_k11_something_else_at_the_path_is_exit_3_and_stays(tmp_path: Path, folder: Path, kind: str):
    path = folder / "robin.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / "target")
        if kind == "link to a file":
            (folder / "target").write_text("precious")
    async with launched(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        assert await rig.robin.returned() == 3
        (line,) = rig.robin.stderr
        assert line.endswith("something that is not a socket is there; remove it or choose another path")
    assert path.is_symlink() or path.exists()
    if kind == "file":
        assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("parent", "why"), [("is-a-file", "the folder cannot be made: "), ("/proc/nowhere", "the folder cannot be made: ")]
)
async def test_a_folder_that_cannot_be_made_is_exit_3(tmp_path: Path, folder: Path, parent: str, why: str):
    (folder / "is-a-file").touch()
    path = Path(folder, parent, "robin.sock")
    async with launched(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        assert await rig.robin.returned() == 3
        assert f"unix:{path}: the folder cannot be made: " in rig.robin.stderr[0]
