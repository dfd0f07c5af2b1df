"""ProjectedDirectory: the shape of a kubelet's volume, swapped in one step that no reader can see half of."""

import contextlib
import os
import threading

import pytest

from robin.testing.manual_clock import ManualClock
from robin.testing.projected import ProjectedDirectory


def test_the_volume_has_the_kubelets_shape(tmp_path):
    volume = ProjectedDirectory(tmp_path / "tokens", clock=ManualClock(wall=1_780_000_000.0))
    assert volume.write({"token": b"one"}) is True
    assert volume.token_file.read_bytes() == b"one"
    assert os.readlink(volume.token_file) == "..data/token"
    target = os.readlink(volume.folder / "..data")
    assert target.startswith("..2026_05_28_20_26_40.")
    assert (volume.folder / target).stat().st_mode & 0o777 == 0o755
    assert (volume.folder / target / "token").stat().st_mode & 0o777 == 0o600


def test_a_rotation_swaps_data_and_leaves_the_visible_link_alone(tmp_path):
    volume = ProjectedDirectory(tmp_path)
    volume.write({"token": b"one"})
    link, old = volume.token_file.lstat(), os.readlink(tmp_path / "..data")
    assert volume.write({"token": b"two"}) is True
    assert volume.token_file.read_bytes() == b"two"
    assert (volume.token_file.lstat().st_ino, volume.token_file.lstat().st_mtime_ns) == (link.st_ino, link.st_mtime_ns)
    assert os.readlink(tmp_path / "..data") != old
    assert sorted(os.listdir(tmp_path)) == sorted(["token", "..data", os.readlink(tmp_path / "..data")])


def test_the_same_content_is_not_written_again(tmp_path):
    volume = ProjectedDirectory(tmp_path)
    volume.write({"token": b"one"})
    before = os.readlink(tmp_path / "..data")
    assert volume.write({"token": b"one"}) is False
    assert os.readlink(tmp_path / "..data") == before


def test_a_file_that_is_no_longer_wanted_disappears(tmp_path):
    volume = ProjectedDirectory(tmp_path)
    volume.write({"token": b"one", "ca.crt": b"pem"})
    assert volume.write({"token": b"one"}) is True
    assert not (tmp_path / "ca.crt").is_symlink()
    assert volume.token_file.read_bytes() == b"one"


def test_a_swap_cut_short_by_a_crash_is_taken_up_again(tmp_path):
    volume = ProjectedDirectory(tmp_path)
    volume.write({"token": b"one"})
    (tmp_path / "..data_tmp").symlink_to("..gone")
    assert volume.write({"token": b"two"}) is True
    assert volume.token_file.read_bytes() == b"two"


@pytest.mark.parametrize("name", ["", "a/b", "..data", "..x"])
def test_reserved_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be a file"):
        ProjectedDirectory(tmp_path).write({name: b""})


def test_no_reader_ever_sees_less_than_a_whole_token(tmp_path):
    """ENOENT is possible, as with the kubelet: a path resolved through the old directory just before its removal."""
    volume = ProjectedDirectory(tmp_path)
    tokens = [b"%04d" % number * 500 for number in range(300)]
    volume.write({"token": tokens[0]})
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with contextlib.suppress(FileNotFoundError):
                seen.add(volume.token_file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for token in tokens[1:]:
        volume.write({"token": token})
    done.set()
    reader.join()
    seen.add(volume.token_file.read_bytes())
    assert seen <= set(tokens)
    assert tokens[-1] in seen
