"""The lock of a path is held by one process at a time, leaves no trace, and is not blocked by what a crash leaves behind."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.journeys.life import short_folder

from robin.transport.bind_lock import BindLockRefused, bind_lock


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


def test_while_it_is_held_no_other_gets_it_and_afterwards_nothing_is_left(folder: Path):
    path = str(folder / "s")
    with bind_lock(path):
        assert [entry.name for entry in folder.iterdir()] == [".s.lock"]
        assert (folder / ".s.lock").stat().st_mode & 0o777 == 0o600
        with (
            pytest.raises(BindLockRefused, match="another process is binding it at this moment; stop it or choose another path"),
            bind_lock(path),
        ):
            pytest.fail("bind_lock twice")
        with bind_lock(str(folder / "other")):
            pass
    assert list(folder.iterdir()) == []
    with bind_lock(path):
        pass


def test_it_ends_with_an_error_too(folder: Path):
    with pytest.raises(RuntimeError), bind_lock(str(folder / "s")):
        raise RuntimeError
    assert list(folder.iterdir()) == []


def test_the_lock_file_of_a_crash_is_no_lock(folder: Path):
    code = "import os, sys; from robin.transport.bind_lock import bind_lock\nwith bind_lock(sys.argv[1]): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(folder / "s")], check=False).returncode == -9
    assert [entry.name for entry in folder.iterdir()] == [".s.lock"]
    with bind_lock(str(folder / "s")):
        pass
    assert list(folder.iterdir()) == []


def test_who_locked_a_file_that_is_of_that_name_no_more_looks_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The holder unlinks and lets go between our open and our lock: what we locked then guards nothing."""
    real, unlinked = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not unlinked:
            unlinked.append((folder / ".s.lock").unlink())
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with bind_lock(str(folder / "s")), pytest.raises(BindLockRefused), bind_lock(str(folder / "s")):
        pytest.fail("bind_lock twice")
    assert len(unlinked) == 1


def test_a_link_in_its_place_is_not_followed(folder: Path):
    (folder / ".s.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(BindLockRefused, match=r"the lock file .*/\.s\.lock cannot be made"), bind_lock(str(folder / "s")):
        pytest.fail("bind_lock")
    assert not (folder / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_told(folder: Path):
    with pytest.raises(BindLockRefused, match="No such file or directory"), bind_lock(f"{folder}/none/s"):
        pytest.fail("bind_lock")
    assert os.listdir(folder) == []
