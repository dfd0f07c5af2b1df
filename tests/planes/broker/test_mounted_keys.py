"""Issuer keys in a folder that others fill (`keys.dir`): whose files count, and that replaced ones are used."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.planes.broker.conftest import Life

from robin.cli.main import main
from robin.planes.broker.keys import IssuerKeyPair, KeyFileRefused, make_key, save_key
from robin.planes.broker.mounted_keys import load_mounted_keys, mark_of
from robin.testing.process import RobinProcess
from robin.testing.recording_upstream import RecordingUpstream

NOBODY = 65534
only_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away and mount")


def fill(folder: Path, pair: IssuerKeyPair, version: str = "..2026_11_30") -> Path:
    """Put the key there as the kubelet does: a new folder, a link to it that is replaced at once, and a link for each name."""
    (folder / version).mkdir(parents=True)
    path = save_key(folder / version, pair)
    path.chmod(0o440)
    (folder / "..new").symlink_to(version)
    old = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    (folder / "..new").rename(folder / "..data")
    for link in folder.glob("*.jwk"):
        link.unlink()
    (folder / path.name).symlink_to(f"..data/{path.name}")
    if old is not None:
        shutil.rmtree(folder / old)
    folder.chmod(0o1777)
    return path


def relink(folder: Path, path: Path, target: str) -> None:
    (folder / path.name).unlink()
    (folder / path.name).symlink_to(target)


MOUNTED: dict[str, Callable[[Path, Path], object]] = {
    "": lambda _, path: path.chmod(0o640),
    "its mode is 0444, so others can reach it; mount it with defaultMode 0440": lambda _, path: path.chmod(0o444),
    "its mode is 0460": lambda _, path: path.chmod(0o460),
    "it is a symbolic link": lambda folder, path: relink(folder, path, str(path)),
    "a symbolic link": lambda folder, path: (path.rename(folder / "real"), path.symlink_to("../real")),
    "it is not a regular file": lambda _, path: (path.unlink(), os.mkfifo(path, 0o400)),
    "not exactly one key is active": lambda folder, path: (folder / path.name).unlink(),
    "are not one key": lambda _, path: path.write_text(path.read_text().replace('"x": "', '"x": "A')),
    "it has more than 64 keys": lambda folder, _: [(folder / f"{number}.jwk").touch() for number in range(64)],
}


@pytest.mark.parametrize("said", MOUNTED)
def test_on_a_read_only_mount_the_group_may_read_and_the_kubelets_links_are_followed(tmp_path: Path, said: str):
    pair = make_key(status="active", created=1)
    path = fill(tmp_path / "keys", pair)
    MOUNTED[said](tmp_path / "keys", path)
    if not said:
        (found,) = load_mounted_keys(tmp_path / "keys", is_read_only=lambda _: True)
        assert found.kid == pair.kid
        return
    with pytest.raises(KeyFileRefused, match=re.escape(said)) as refused:
        load_mounted_keys(tmp_path / "keys", is_read_only=lambda _: True)
    assert str(refused.value).startswith(str(tmp_path / "keys"))


WRITABLE: dict[str, Callable[[Path, Path], object]] = {
    "": lambda _, __: None,
    "its mode is 0440, so others can reach it; chmod 0600 it": lambda _, path: path.chmod(0o440),
    "others can reach it, and it is not mounted read-only": lambda folder, _: folder.chmod(0o750),
    "it is a symbolic link": lambda folder, path: (path.rename(folder / "real"), path.symlink_to("real")),
    "it is not a folder": lambda folder, _: (folder.rename(folder.with_name("moved")), folder.symlink_to("moved")),
}


@pytest.mark.parametrize("said", WRITABLE)
def test_a_folder_that_can_be_written_is_for_its_owner_alone(tmp_path: Path, said: str):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    pair = make_key(status="active", created=1)
    WRITABLE[said](folder, save_key(folder, pair))
    if not said:
        assert [one.kid for one in load_mounted_keys(folder)] == [pair.kid]
        return
    with pytest.raises(KeyFileRefused, match=re.escape(said)):
        load_mounted_keys(folder)


@only_root
@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_or_folder_of_another_user_is_refused(tmp_path: Path, read_only: bool):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    path = save_key(folder, make_key(status="active", created=1))
    for other in (path, folder):
        os.chown(other, NOBODY, NOBODY)
        with pytest.raises(KeyFileRefused, match=f"^{other}: it belongs to another user"):
            load_mounted_keys(folder, is_read_only=lambda _: read_only)


def test_a_swap_changes_the_mark_and_a_look_does_not(tmp_path: Path):
    folder = tmp_path / "keys"
    fill(folder, make_key(status="active", created=1))
    first = mark_of(folder)
    assert mark_of(folder) == first
    path = fill(folder, make_key(status="active", created=2), "..2026_12_01")
    second = mark_of(folder)
    path.chmod(0o444)
    assert len({first, second, mark_of(folder)}) == 3


def kid_of(headers: list[tuple[str, str]]) -> str:
    """Whose key signed these."""
    header = dict(headers)["Workload-Identity-Token"].partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "==="))["kid"])


async def test_a_replaced_key_signs_within_a_second_or_two_and_a_bad_one_leaves_the_last(folder: Path, service: RecordingUpstream):
    mounted = folder / "mounted"
    mounted.mkdir(mode=0o700)
    old, new, bad = (make_key(status="active", created=number) for number in (1, 2, 3))
    save_key(mounted, old)
    life = Life(folder, service, keys={"dir": str(mounted)})
    life.make_bundle()
    async with RobinProcess("broker", "--config", str(life.config)) as process:
        await process.event("started")
        headers = await life.headers()
        assert kid_of(headers) == old.kid
        assert (await life.send(headers))[0] == 200, "the bundle has the mounted key"
        (mounted / f"{old.kid}.jwk").unlink()
        save_key(mounted, new)
        await process.event("keys_loaded")
        assert kid_of(await life.headers()) == new.kid
        save_key(mounted, bad)
        assert "not exactly one key is active" in (await process.event("keys_refused"))["detail"]
        assert kid_of(await life.headers()) == new.kid
    assert not (folder / "state" / "keys").exists(), "none is made"


def test_commands_read_the_folder_and_do_not_write_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mounted = tmp_path / "mounted"
    mounted.mkdir(mode=0o700)
    pair = make_key(status="active", created=1)
    save_key(mounted, pair)
    issue = {"socket": str(tmp_path / "run" / "s"), "peers": [], "routes": []}
    broker = {"trust_domain": "example.org", "issuer": "https://i.example", "state_dir": str(tmp_path / "state"), "issue": issue}
    config = tmp_path / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "broker": {**broker, "keys": {"dir": str(mounted)}}}))
    assert main(["broker", "key", "list", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith(f"{pair.kid}  active")
    for words in (["new"], ["activate", pair.kid], ["retire", pair.kid]):
        assert main(["broker", "key", *words, "--config", str(config)]) == 2
        assert f"{mounted} is only read" in capsys.readouterr().err
    assert main(["broker", "--check", "--config", str(config)]) == 0
    config.write_text(json.dumps({"version": 1, "broker": {**broker, "keys": {"dir": str(mounted), "auto_create": True}}}))
    with pytest.raises(SystemExit):
        main(["check", "broker", "--config", str(config)])
    assert "no key is made where keys.dir names a folder" in capsys.readouterr().err


MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -m robin.cli.main broker --check --config "$3"'


@only_root
def test_a_real_read_only_mount_is_seen_as_one(tmp_path: Path):
    """In a mount namespace of its own."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("NOT TESTED: no mount namespace can be made here")
    path = fill(tmp_path / "keys", make_key(status="active", created=1))
    issue = {"socket": str(tmp_path / "run" / "s"), "peers": [], "routes": []}
    broker = {"trust_domain": "example.org", "issuer": "https://i.example", "state_dir": str(tmp_path / "state"), "issue": issue}
    config = tmp_path / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "broker": {**broker, "keys": {"dir": str(tmp_path / "keys")}}}))
    command = ["unshare", "-m", "sh", "-c", MOUNT, "-", str(tmp_path / "keys"), sys.executable, str(config)]
    for mode, code, said in ((0o440, 0, ""), (0o444, 2, "its mode is 0444")):
        path.chmod(mode)
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
