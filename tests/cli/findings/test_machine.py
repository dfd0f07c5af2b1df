"""What the doctor finds of this machine: open files against the limits, a private port, sockets of systemd."""

import resource
from collections.abc import Iterator

import pytest

from robin.cli.findings.finding import Finding, Health
from robin.cli.findings.machine import SPARE_FILES, look
from robin.config.load import Loaded, load


def findings(environ: dict[str, str], **settings: str) -> dict[str, list[Finding]]:
    base = {"ROBIN_UPSTREAM_URL": "https://broker.example", "ROBIN_LISTEN_ADDR": "127.0.0.1:0", "ROBIN_ADMIN_ADDR": "off"}
    loaded = load({}, {**base, **settings})
    assert isinstance(loaded, Loaded), [str(error) for error in loaded]
    by_subject: dict[str, list[Finding]] = {}
    for finding in look(loaded.settings, environ):
        by_subject.setdefault(finding.subject, []).append(finding)
    return by_subject


@pytest.fixture
def lowered() -> Iterator[int]:
    """The hard limit of open files, the soft one lowered to 1000 for one test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_of_open_files_is_raised_by_the_sidecar_and_not_judged(lowered: int) -> None:
    (fits,) = findings({}, ROBIN_MAX_CONNECTIONS="1000")["open files"]
    assert fits.health is Health.OK
    allowed = "any number" if lowered == resource.RLIM_INFINITY else str(lowered)
    assert fits.what == f"{allowed} allowed at most (`ulimit -Hn`), {1000 + 256 + SPARE_FILES} wanted at most"


def test_proxy_variables_count_in_both_cases_and_only_when_set() -> None:
    assert "proxy variables" not in findings({"HTTP_PROXY": "", "PATH": "/bin"})
    assert "proxy variables" not in findings({"NO_PROXY": "localhost", "no_proxy": "*"}), "it names no proxy"
    assert findings({"all_proxy": "http://proxy", "NO_PROXY": "*"})["proxy variables"][0].what == "all_proxy, NO_PROXY: set, but not obeyed"
    (present,) = findings({"no_proxy": "*", "HTTPS_PROXY": "http://user:secret@proxy"})["proxy variables"]
    assert present.what == "HTTPS_PROXY, no_proxy: set, but not obeyed"
    assert "secret" not in present.what + present.fix


def test_a_socket_that_systemd_passes_is_not_looked_at() -> None:
    (passed,) = findings({}, ROBIN_LISTEN_ADDR="systemd:robin")["listener"]
    assert (passed.health, passed.what) == (Health.OK, "systemd:robin of ROBIN_LISTEN_ADDR: systemd passes it at the start")


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    (port,) = findings({}, ROBIN_LISTEN_ADDR="192.0.2.1:4000", ROBIN_UNSAFE_LISTEN="true")["port"]
    assert port.health is Health.FAIL
    assert port.what == "192.0.2.1:4000 of ROBIN_LISTEN_ADDR: Cannot assign requested address"
