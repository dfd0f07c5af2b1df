"""Surroundings that need root: a process of its own mount namespace, with other files where the system's are."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journeys.life import shell


@pytest.fixture(scope="session")
def own_mounts() -> tuple[str, ...]:
    """What starts a program in a mount namespace of its own; skips, loudly, where that may not be had."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0 or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this needs root and mount namespaces (unshare -m)")
    return (unshare, "-m", "--propagation", "private")


@pytest.fixture
def replaced(tmp_path: Path, own_mounts: tuple[str, ...]) -> Callable[[dict[str, str]], tuple[str, ...]]:
    """A program that is Robin with other contents of some system files: `replaced({"/etc/hosts": "..."})`, kept in tmp_path/etc-hosts."""

    def build(files: dict[str, str]) -> tuple[str, ...]:
        mounts = []
        for target, text in files.items():
            other = tmp_path / target.replace("/", "-").strip("-")
            other.write_text(text)
            mounts.append(f"mount --bind {other} {target}")
        return shell("\n".join(mounts), before=own_mounts)

    return build


@pytest.fixture
def hanging_names(replaced: Callable[[dict[str, str]], tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Robin on a machine whose name server takes questions and never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        try:
            silent.bind(("127.0.0.77", 53))
        except OSError as error:
            pytest.skip(f"NOT TESTED: port 53 of 127.0.0.77 cannot be had: {error}")
        yield replaced({"/etc/resolv.conf": "nameserver 127.0.0.77\n"})
