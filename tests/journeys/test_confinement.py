"""Robin as an image or a hardened unit runs it: read-only root, UID 10001, no capability, no HOME, an empty environment (K10).

And the gateway without any mount that it could write to (E39).
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from tests.corpus.rig import unsigned_token
from tests.journeys.life import GET, ask_unix, probe, serving, shell, short_folder
from tests.planes.gateway.rig import Rig, running
from tests.planes.gateway.test_rotation import BRIDGED, fill

import robin

UID = 10001


def closed_parents(path: Path) -> list[Path]:
    """The topmost folders above `path` that others may not enter."""
    return [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001][:1]


def confined(folder: Path, before: tuple[str, ...]) -> tuple[str, ...]:
    """Robin in that confinement; `folder` stays writable and belongs to it.

    Where this Python or this tree lies below a folder that only root may enter, another one with nothing else in it takes its place.
    """
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(robin.__file__).resolve().parents[2]}
    lines = [f"chown {UID}:{UID} {folder}", f"mount --bind {folder} {folder}"]
    for number, closed in enumerate(sorted({parent for path in needed for parent in closed_parents(path)})):
        inside = sorted(path for path in needed if closed in path.parents)
        keep = folder / f"keep-{number}"
        for at, path in enumerate(inside):
            lines += [f"mkdir -p {keep}/{at}", f"mount --bind {path} {keep}/{at}"]
        lines.append(f"mount -t tmpfs -o mode=0755 tmpfs {closed}")
        for at, path in enumerate(inside):
            lines += [f"mkdir -p {path}", f"mount --bind {keep}/{at} {path}"]
    lines += ["mount -o remount,bind,ro /", "! touch /robin-was-here 2>/dev/null"]
    drop = f"setpriv --reuid {UID} --regid {UID} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs"
    return shell("\n".join(lines), before=before, prefix=f"env -u HOME {drop}")


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of the process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("listener", ["tcp", "unix"])
async def test_k10_it_runs_with_a_read_only_root_uid_10001_no_capability_and_no_home(own_mounts: tuple[str, ...], listener: str):
    if shutil.which("setpriv") is None:
        pytest.skip("NOT TESTED: this needs setpriv")
    with short_folder() as folder:
        path = folder / "run" / "robin.sock"
        settings = {"ROBIN_LISTEN_UDS": str(path)} if listener == "unix" else {}
        async with serving(folder, settings=settings, program=confined(folder, own_mounts)) as rig:
            told = status_of(rig.robin.pid)
            assert told["Uid"].split() == [str(UID)] * 4
            assert told["Groups"] == ""
            assert told["NoNewPrivs"] == "1"
            assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
            environ = Path(f"/proc/{rig.robin.pid}/environ").read_bytes().split(b"\0")
            assert not [entry for entry in environ if entry.startswith(b"HOME=")]
            mounts = Path(f"/proc/{rig.robin.pid}/mountinfo").read_text().splitlines()
            (root,) = [line.split()[5] for line in mounts if line.split()[4] == "/"]
            assert "ro" in root.split(",")
            answer = await (ask_unix(rig, path) if listener == "unix" else rig.ask(GET))
            assert answer.status == 200
            assert (await probe(rig.robin, "/readyz"))[0] == 200
            rig.token_file.unlink()
            rig.token_file.write_bytes(unsigned_token())
            await rig.robin.event("identity_renewed", after=1)
            assert await rig.robin.stop() == 0
            assert rig.robin.stderr == []
            assert not path.exists()


READ_ONLY = """cut -d" " -f5 /proc/self/mountinfo | sort -ru | while read -r mount; do mount -o remount,bind,ro "$mount"; done"""


def hidden_mounts(lines: list[list[str]]) -> set[str]:
    """The ids of the mounts that another one covers: no path leads there."""
    latest = {line[4]: line[0] for line in lines}
    return {line[0] for line in lines if latest[line[4]] != line[0]}


async def bridged(rig: Rig, ca: Path) -> None:
    client, own = await rig.client(), f"a.test:{rig.tls.port}"
    assert (await client.connect(own))[0] == 200
    await client.start_tls("a.test", ca)
    assert (await client.ask("GET / HTTP/1.1", f"Host: {own}"))[0] == 200


async def test_e39_a_gateway_bridges_and_changes_its_ca_without_one_mount_that_it_can_write_to(
    tmp_path: Path, own_mounts: tuple[str, ...]
) -> None:
    """What cannot be written to holds no key. The kernel says of each mount that this process has that it is read-only."""
    if shutil.which("setpriv") is None:
        pytest.skip("NOT TESTED: this needs setpriv")
    other = fill(tmp_path / "b", "robin-bridge-ca-next")
    section = {"bridge": {"slots": {"a": str(tmp_path / "ca"), "b": str(other)}, "sign_with": "a"}}
    program = shell(READ_ONLY, before=own_mounts, prefix="setpriv --bounding-set=-all --inh-caps=-all --no-new-privs")
    async with running(tmp_path, [BRIDGED], section=section, program=program) as rig:
        process = Path(f"/proc/{rig.robin.pid}")
        told = status_of(rig.robin.pid)
        assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}, "it could mount another"
        await bridged(rig, rig.ca_file)
        document = json.loads((tmp_path / "robin.yaml").read_text())
        document["gateway"]["bridge"]["sign_with"] = "b"
        (tmp_path / "robin.yaml").write_text(json.dumps(document))
        rig.robin.send_signal(signal.SIGHUP)
        await rig.robin.event("config_loaded")
        await bridged(rig, other / "tls.crt")
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        assert len(mounts) > 3
        hidden = hidden_mounts(mounts)
        assert {line[4] for line in mounts if "ro" not in line[5].split(",") and line[0] not in hidden} == set()
        assert not [name for entry in (process / "fd").iterdir() if (name := os.readlink(entry)).startswith("/memfd")]
        assert not [line for _, line in rig.robin.lines if "PRIVATE KEY" in line]
