"""Small fixtures that every test may use; the parts themselves are in `robin.testing`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.secrets_seen import SecretsSeen

from robin.testing import process
from robin.testing.certificates import CertificateAuthority

# A busy machine is no finding: what a property costs is measured by the fuzz tests, in processor time.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes longer than ten seconds to CI and to whoever asks for it, and say so."""
    if os.environ.get("CI") or "slow" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason='slow: CI runs it, and so does `make test ARGS="-m slow"`'))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Give `-n auto` one worker more than there are cores: many tests wait for a process or for a time to pass."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """One CA for the whole run; issue a leaf for each name that a test needs."""
    return CertificateAuthority(Path(tmp_path_factory.mktemp("certificates")))


@pytest.fixture(scope="session")
def own_network() -> tuple[str, ...]:
    """What starts a program in a network of its own; skips, loudly, where that may not be had."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: this needs root, network namespaces (unshare -n) and ip")
    return (unshare, "-n", "/bin/sh", "-ec", f'{ip} link set lo up\nexec "$@"', "sh")


@pytest.fixture(scope="session", autouse=True)
def no_secret_was_written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After all tests no secret stands in a log, a record or a core of any (G53)."""
    seen = SecretsSeen()
    process.watchers.append(seen.look_at_line)
    yield
    process.watchers.remove(seen.look_at_line)
    seen.look_at_files(tmp_path_factory.getbasetemp())
    assert seen.found == []
