"""Who connects to the Unix socket, by the kernel's word and before a byte is read (L2)."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.journeys.life import ask_unix, exchanges, metric, serving, shell, short_folder, unix_caller

from robin.testing.waiting import eventually

NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become another user")

# Connects as `uid`, says so, sends a request when told to, and prints what came. Its pid is the peer's.
CALLER = """
import os, socket, sys
path, uid, late = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "late"
if uid != os.getuid():
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
peer = socket.socket(socket.AF_UNIX)
peer.connect(path)
try:
    if not late:
        peer.sendall(b"GET /canary HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
except BrokenPipeError:
    pass
got = b""
try:
    while piece := peer.recv(65536):
        got += piece
except ConnectionResetError:
    got += b"<reset>"
sys.stdout.write(got.decode())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


async def call(path: Path, uid: int, *, late: bool = False) -> tuple[int, str]:
    """Pid of a caller of that UID, and all that it got."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, str(path), str(uid), "late" if late else "now", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return process.pid, out.decode()


def settings(path: Path, uids: str) -> dict[str, str]:
    return {"ROBIN_LISTEN_UDS": str(path), "ROBIN_PEERCRED_ALLOW_UIDS": uids}


# Becomes root of a user namespace of its own, as any user may where the kernel allows it, and then calls as CALLER does.
ROOT_OF_ITS_OWN = (
    """
import ctypes, os, socket, sys
uid = int(sys.argv[2])
os.setgroups([]), os.setgid(uid), os.setuid(uid)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else its own /proc is root's
if libc.unshare(0x10000000):  # CLONE_NEWUSER
    sys.exit("no user namespace")
with open("/proc/self/uid_map", "w") as map:
    map.write(f"0 {uid} 1")
assert os.getuid() == 0
sys.argv[2] = "0"
"""
    + CALLER
)


@pytest.fixture
def own_users() -> tuple[str, ...]:
    """What starts a program as root of a user namespace in which nobody else has a UID; skips, loudly, where that may not be had."""
    words = (shutil.which("unshare") or "unshare", "-U", "--map-root-user")
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this needs user namespaces (unshare -U)")
    return words


async def record(rig: Any) -> dict[str, Any]:
    await eventually(lambda: exchanges(rig), what="the record")
    (found,) = exchanges(rig)
    return found


async def test_l2_a_listed_uid_is_served_and_told_in_the_record(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings=settings(path, f"4242,{os.getuid()}")) as rig:
        pid, got = await call(path, os.getuid())
        assert got.startswith("HTTP/1.1 200 ")
        told = await record(rig)
        assert (told["outcome"], told["peer_uid"], told["peer_pid"]) == ("forwarded", os.getuid(), pid)
        assert told["listener"] == f"unix:{path}"


@root
@pytest.mark.parametrize("uids", ["0", "none", "1000,65533"])
@pytest.mark.parametrize("late", [False, True])  # late: it has sent nothing when the answer comes
async def test_l2_another_uid_gets_403_unread_and_the_upstream_sees_nothing(tmp_path: Path, folder: Path, uids: str, late: bool):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings=settings(path, uids)) as rig:
        pid, got = await call(path, NOBODY, late=late)
        head, _, body = got.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 403 ")
        assert 'Proxy-Status: robin; error=http_request_denied; details="peer_denied"' in head.split("\r\n")
        assert "Connection: close" in head.split("\r\n")
        problem = json.loads(body.removesuffix("<reset>"))
        assert (problem["code"], problem["source"]) == ("peer_denied", "policy")
        assert rig.bytes_seen == 0
        told = await record(rig)
        assert (told["outcome"], told["status"], told["peer_uid"], told["peer_pid"]) == ("peer_denied", 403, NOBODY, pid)
        assert (told["method"], told["path"], told["bytes_in"]) == (None, None, 0)
        assert await metric(rig.robin, "robin_peer_denied_total", reason="uid") == 1


@root
async def test_l2_65534_matches_only_if_listed(tmp_path: Path, folder: Path):
    """What the kernel says where a UID has no mapping must not be a joker."""
    path = folder / "robin.sock"
    async with serving(tmp_path, settings=settings(path, "65534")) as rig:
        assert (await call(path, NOBODY))[1].startswith("HTTP/1.1 200 ")
        assert (await call(path, 65533))[1].startswith("HTTP/1.1 403 ")
        assert (await ask_unix(rig, path)).status == 403, "root is no exception"


@root
async def test_l2_the_uid_is_that_of_the_connect_not_of_who_holds_it_later(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings=settings(path, str(NOBODY))) as rig:
        caller = await unix_caller(rig, path)  # as root; giving the descriptor to nobody would not change that
        caller.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"403" in (await caller.peer.read_until(b"\r\n"))
        assert rig.bytes_seen == 0


@root
@pytest.mark.usefixtures("own_users")
async def test_l2_root_of_another_user_namespace_is_who_it_is_outside(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings=settings(path, "0")) as rig:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ROOT_OF_ITS_OWN, str(path), "65533", "now", stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert out.startswith(b"HTTP/1.1 403 ")
        assert rig.bytes_seen == 0
        assert (await record(rig))["peer_uid"] == 65533


@root
async def test_l2_who_has_no_uid_in_robins_namespace_shows_as_65534_and_is_let_in_only_by_that(
    tmp_path: Path, folder: Path, own_users: tuple[str, ...]
):
    path = folder / "robin.sock"
    for uids, status in (("0,65533", 403), ("65534", 200)):
        async with serving(tmp_path, settings=settings(path, uids), program=shell("", before=own_users)) as rig:
            _, got = await call(path, 65533)
            assert got.startswith(f"HTTP/1.1 {status} ")
            assert (await record(rig))["peer_uid"] == NOBODY


async def test_without_a_list_any_peer_that_the_mode_lets_in_is_served(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        pid, got = await call(path, os.getuid())
        assert got.startswith("HTTP/1.1 200 ")
        assert (await record(rig))["peer_pid"] == pid


@root
async def test_the_mode_keeps_others_out_where_no_list_does(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER, str(path), str(NOBODY), "now", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, error = await process.communicate()
        assert out == b""
        assert b"PermissionError" in error
        assert exchanges(rig) == []


async def test_on_a_unix_socket_the_host_is_judged_only_when_hosts_are_set(tmp_path: Path, folder: Path):
    path = folder / "robin.sock"
    foreign = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path)}) as rig:
        assert (await ask_unix(rig, path, foreign)).status == 200
    async with serving(tmp_path, settings={"ROBIN_LISTEN_UDS": str(path), "ROBIN_ALLOWED_HOSTS": "localhost"}) as rig:
        assert (await ask_unix(rig, path, foreign)).status == 421
