"""The shipped units: correct to systemd, hardened, in step with the program; and Robin runs under what they forbid."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.unit import SYSTEMD, allowed_calls, confined, read_unit, seccomp_program
from tests.journeys.life import GET, ask_unix, serving, short_folder

from robin.config.load import Loaded, load
from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import ROBIN, RobinProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.workload_api import WorkloadApi, answer_with
from robin.wire.workload_api import JwtSvid

EXPOSURE_MAX = 1.5


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NOT TESTED: this needs systemd-analyze")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False)


def version() -> int:
    return int(re.findall(r"systemd (\d+)", analyze("--version").stdout)[0])


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Both units, with a program that is there. A systemd before 253 does not know the type notify-reload and is shown `notify`."""
    for name in ("robin.service", "robin.socket"):
        text = (SYSTEMD / name).read_text().replace("/opt/robin/bin/robin", f"{sys.executable} -m robin.cli.main")
        if version() < 253:
            text = text.replace("Type=notify-reload", "Type=notify")
        (tmp_path / name).write_text(text)
    return tmp_path


def test_o5_systemd_finds_nothing_to_say_of_the_units(units: Path):
    told = analyze("verify", "--man=no", str(units / "robin.service"), str(units / "robin.socket"))
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_the_check_would_notice(units: Path):
    service = units / "robin.service"
    service.write_text(service.read_text().replace("WatchdogSec=30s", "WatchdogSecs=30s"))
    assert "WatchdogSecs" in analyze("verify", "--man=no", str(service)).stderr


def test_the_unit_is_little_exposed(units: Path):
    told = analyze("security", "--offline=true", "--no-pager", str(units / "robin.service"))
    (level,) = re.findall(r"Overall exposure level for robin.service: ([0-9.]+)", told.stdout)
    assert float(level) <= EXPOSURE_MAX, told.stdout


def test_the_unit_gives_a_late_identity_and_a_drain_their_time():
    """READY comes with the first identity, which may be late; a stop waits longer than the longest drain by default."""
    service = read_unit("robin.service")["Service"]
    assert service["TimeoutStartSec"] == ["infinity"]
    loaded = load({"ROBIN_UPSTREAM_URL": "https://broker.example"}, {})
    assert isinstance(loaded, Loaded)
    assert float(service["TimeoutStopSec"][0].removesuffix("s")) > loaded.settings.lifecycle.drain_max_s
    limits = loaded.settings.limits
    assert int(service["LimitNOFILE"][0]) > 2 * (limits.connections + limits.upstream_connections)


def test_restarts_never_reach_the_start_limit():
    """Else systemd gives Robin up for good, and robin.socket with it. Each start takes its own time beside the pause."""
    unit = read_unit("robin.service")
    interval_s, pause_s = (
        float(value.removesuffix("s")) for value in (unit["Unit"]["StartLimitIntervalSec"][0], unit["Service"]["RestartSec"][0])
    )
    assert int(unit["Unit"]["StartLimitBurst"][0]) >= interval_s / pause_s


def test_no_user_namespace_hides_the_callers():
    """In one, SO_PEERCRED calls every other user 65534, and no UID list could match."""
    assert "PrivateUsers" not in read_unit("robin.service")["Service"]


def test_the_settings_file_is_one_that_robin_reads():
    text = (SYSTEMD / "robin.env").read_text()
    commented = re.sub(r"^#(ROBIN_)", r"\1", text, flags=re.MULTILINE)
    for body in (text, commented):
        loaded = load({}, dict(_pairs(body)))
        assert isinstance(loaded, Loaded), loaded
    assert set(dict(_pairs(commented))) > set(dict(_pairs(text)))


def _pairs(text: str) -> list[tuple[str, str]]:
    """As systemd's EnvironmentFile= reads them, for lines without quotes."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#;"]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def test_the_socket_units_name_is_the_one_that_its_comment_tells_to_set():
    socket_unit = read_unit("robin.socket")["Socket"]
    (name,) = socket_unit["FileDescriptorName"]
    assert f"ROBIN_LISTEN_ADDR=systemd:{name}" in (SYSTEMD / "robin.socket").read_text()
    assert socket_unit["ListenStream"] == ["127.0.0.1:4000", "[::1]:4000"]


@pytest.fixture
def cage() -> tuple[str, ...]:
    """Robin under the unit's own filter."""
    return confined(seccomp_program(), *ROBIN)


async def test_the_cage_holds():
    """The filter does forbid what the unit forbids: else the tests below would show nothing."""
    look = (
        "import ctypes, os, socket\n"
        "def tried(call):\n"
        "    try: call()\n"
        "    except OSError as error: return error.strerror\n"
        "    return 'done'\n"
        "print(tried(lambda: os.chown('/dev/null', 0, 0)), tried(lambda: os.setuid(os.getuid())), sep='|', end='|')\n"
        "print(tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)), tried(lambda: socket.socket().close()), sep='|')\n"
    )
    async with RobinProcess(program=confined(seccomp_program(), sys.executable, "-c", look)) as process:
        assert await process.returned() == 0
        assert process.stdout == ["Operation not permitted|Operation not permitted|Address family not supported by protocol|done"]
    assert {"read", "epoll_wait", "accept4"} <= allowed_calls()


async def test_robin_serves_under_the_units_filter_over_tcp_and_tls(
    tmp_path: Path, cage: tuple[str, ...], certificates: CertificateAuthority
):
    context = certificates.issue("localhost").server_context()
    settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
    async with (
        RecordingUpstream(tls=context) as upstream,
        serving(tmp_path, upstream=upstream, url=upstream.url_as("localhost"), settings=settings, program=cage) as rig,
    ):
        for size in (0, 300_000):
            caller = await rig.caller()
            caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            assert (await caller.answer(b"POST")).status == 200
        assert await rig.robin.stop() == 0
        assert rig.robin.stderr == []


async def test_robin_serves_under_the_units_filter_with_jwtsvid_and_a_unix_socket(tmp_path: Path, cage: tuple[str, ...]):
    token = IdentityAuthority().jwt_svid(audience="broker.example")
    agent = WorkloadApi(answer_with((JwtSvid(spiffe_id="spiffe://robin.test/ns/demo/sa/agent", svid=Secret(token)),)))
    with short_folder() as folder:
        await agent.start_unix(folder / "agent.sock")
        settings = {
            "ROBIN_TOKEN_SOURCE": "jwtsvid",
            "ROBIN_AUDIENCE": "broker.example",
            "ROBIN_SPIFFE_SOCKET": f"unix://{folder}/agent.sock",
            "ROBIN_LISTEN_UDS": str(folder / "run" / "robin.sock"),
            "ROBIN_PEERCRED_ALLOW_UIDS": str(os.getuid()),
        }
        async with serving(tmp_path, settings=settings, program=cage) as rig:
            assert (await ask_unix(rig, settings["ROBIN_LISTEN_UDS"], GET)).status == 200
            assert await rig.robin.stop() == 0
            assert rig.robin.stderr == []
        await agent.close()


async def test_doctor_and_check_run_under_it_too(tmp_path: Path, cage: tuple[str, ...]):
    settings = {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:9", "ROBIN_TOKEN_FILE": str(tmp_path / "none")}
    for command, code in (("check", 0), ("doctor", 1)):
        async with RobinProcess(command, settings=settings, program=cage) as robin:
            assert await robin.returned() == code
            assert robin.stderr == []
