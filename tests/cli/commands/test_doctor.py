"""`robin doctor` (item O3) against real servers: it finds what is wrong, says the fix, exits 1, and sends no token."""

import json
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import RunRobin
from tests.journeys.life import shell

from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import SidecarProcess, free_port
from robin.testing.recording_upstream import RecordingUpstream, answer, hold, response
from robin.testing.waiting import eventually

QUIET = {"ROBIN_LISTEN_ADDR": "127.0.0.1:0", "ROBIN_ADMIN_ADDR": "127.0.0.1:0"}


async def examine(run_robin: RunRobin, *words: str, **settings: str) -> tuple[int, list[dict[str, Any]]]:
    ended = await run_robin("doctor", "--json", *words, **{"ROBIN_UPSTREAM_URL": "http://127.0.0.1:9", **QUIET, **settings})
    said = json.loads(ended.out)
    assert said["ok"] is (ended.code == 0)
    return ended.code, said["findings"]


def found(findings: list[dict[str, Any]], subject: str, status: str) -> list[str]:
    return [finding["what"] for finding in findings if (finding["subject"], finding["status"]) == (subject, status)]


async def test_a_healthy_machine_passes_and_the_upstream_gets_no_byte(
    run_robin: RunRobin, token_file: Path, certificates: CertificateAuthority
) -> None:
    leaf = certificates.issue("localhost")
    async with RecordingUpstream(hold, tls=leaf.server_context()) as upstream:
        code, findings = await examine(
            run_robin,
            ROBIN_UPSTREAM_URL=upstream.url_as("localhost"),
            ROBIN_UPSTREAM_CA_FILE=str(certificates.ca_file),
            ROBIN_TOKEN_FILE=str(token_file),
            ROBIN_AUDIENCE="broker.test",
        )
        (connection,) = upstream.connections
        await eventually(lambda: connection.ended, what="the doctor to leave")
        assert bytes(connection.received) == b""
    assert code == 0
    assert [finding for finding in findings if finding["status"] == "fail"] == []
    assert found(findings, "upstream", "ok") == [f"{upstream.url_as('localhost')} accepts connections at 127.0.0.1 port {upstream.port}"]
    assert found(findings, "upstream tls", "warn")[0].startswith("TLSv1.3, certificate valid for 1.0 more hours")
    assert "contains ROBIN_AUDIENCE" in found(findings, "token", "ok")[0]
    assert found(findings, "clock", "ok") != []


async def test_cleartext_upstream_gets_no_byte_either(run_robin: RunRobin, token_file: Path) -> None:
    async with RecordingUpstream(hold) as upstream:
        code, findings = await examine(run_robin, ROBIN_UPSTREAM_URL=upstream.url, ROBIN_TOKEN_FILE=str(token_file))
        (connection,) = upstream.connections
        await eventually(lambda: connection.ended, what="the doctor to leave")
        assert bytes(connection.received) == b""
    assert code == 0
    assert found(findings, "upstream tls", "ok") == []


async def test_a_wrong_audience_is_shown_beside_the_right_one(run_robin: RunRobin, token_file: Path) -> None:
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file), ROBIN_AUDIENCE="other")
    assert code == 1
    assert found(findings, "token audience", "fail") == [
        'audience_mismatch: `aud` does not contain ROBIN_AUDIENCE: it has ["broker.test"], ROBIN_AUDIENCE is "other"'
    ]


async def test_an_expired_token_and_a_clock_that_is_behind(run_robin: RunRobin, tmp_path: Path, authority: IdentityAuthority) -> None:
    expired = tmp_path / "expired"
    expired.write_bytes(authority.service_account_token(audience="a", lifetime_s=-120))
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(expired))
    assert code == 1
    assert found(findings, "token expiry", "fail")[0].startswith("identity_expired: the token expired 1")
    early = tmp_path / "early"
    ahead = 4_000_000_000
    early.write_bytes(authority.service_account_token(audience="a", iat=ahead, nbf=ahead, exp=ahead + 600))
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(early))
    assert code == 1
    assert found(findings, "token not before", "fail")[0].startswith("identity_not_yet_valid: the token is valid in ")
    assert found(findings, "clock", "fail")[0].endswith(" s in the future")


async def test_a_missing_file_and_a_folder_in_its_place(run_robin: RunRobin, tmp_path: Path) -> None:
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(tmp_path / "none"))
    assert code == 1
    assert found(findings, "token", "fail") == ["missing: the file of ROBIN_TOKEN_FILE does not exist"]
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(tmp_path))
    assert code == 1
    assert found(findings, "token", "fail") == ["not_a_file: ROBIN_TOKEN_FILE is not a regular file"]


# Root reads everything, so as root the second run is somebody else's; the first has imported all that somebody else may not read.
AS_NOBODY = """
import contextlib, io, os, sys
from robin.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    main()
os.setuid(65534)
sys.exit(main())
"""


async def test_an_unreadable_file(run_robin: RunRobin) -> None:
    with tempfile.TemporaryDirectory(prefix="robin") as folder:
        path = Path(folder) / "token"
        path.touch(mode=0o000)
        Path(folder).chmod(0o755)
        program = (sys.executable, "-c", AS_NOBODY) if os.geteuid() == 0 else None
        settings = {"ROBIN_TOKEN_FILE": str(path), "ROBIN_UPSTREAM_URL": "http://127.0.0.1:9", **QUIET}
        ended = await run_robin("doctor", "--json", program=program, **settings)
    assert ended.code == 1
    assert found(json.loads(ended.out)["findings"], "token", "fail") == ["unreadable: Robin may not read ROBIN_TOKEN_FILE"]


async def test_a_token_file_open_to_others(run_robin: RunRobin, token_file: Path) -> None:
    token_file.chmod(0o644)
    _, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file))
    assert found(findings, "token file", "warn")[0].startswith(f"{token_file} can be read by every user of this machine (mode 0644, ")
    token_file.chmod(0o666)
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file))
    assert code == 1
    assert found(findings, "token file", "fail")[0].startswith(f"{token_file} can be written by every user (mode 0666, ")


async def test_a_closed_upstream_port(run_robin: RunRobin, token_file: Path) -> None:
    port = free_port()
    code, findings = await examine(run_robin, ROBIN_UPSTREAM_URL=f"http://127.0.0.1:{port}", ROBIN_TOKEN_FILE=str(token_file))
    assert code == 1
    assert found(findings, "upstream", "fail") == [f"connect_refused: 127.0.0.1 port {port}: nothing listens there"]


async def test_an_upstream_name_that_does_not_resolve(run_robin: RunRobin, token_file: Path) -> None:
    code, findings = await examine(run_robin, ROBIN_UPSTREAM_URL="https://broker.invalid", ROBIN_TOKEN_FILE=str(token_file))
    assert code == 1
    assert found(findings, "upstream", "fail") == ["dns_failed: broker.invalid port 443: the name does not resolve"]


@pytest.mark.parametrize(
    ("issued", "ends_in_s", "trusted", "what"),
    [
        ("localhost", 3600.0, False, "unknown_ca: localhost port {port}: its certificate is signed by a CA that is not trusted here"),
        ("localhost", -60.0, True, "expired: localhost port {port}: its certificate has expired"),
        ("other.example", 3600.0, True, "name_mismatch: localhost port {port}: its certificate is for another name"),
    ],
)
async def test_a_certificate_that_is_not_trusted(
    run_robin: RunRobin,
    token_file: Path,
    tmp_path: Path,
    certificates: CertificateAuthority,
    issued: str,
    ends_in_s: float,
    trusted: bool,
    what: str,
) -> None:
    roots = certificates if trusted else CertificateAuthority(tmp_path, name="Another CA")
    leaf = certificates.issue(issued, starts_in_s=-7200, ends_in_s=ends_in_s)
    async with RecordingUpstream(hold, tls=leaf.server_context()) as upstream:
        code, findings = await examine(
            run_robin,
            ROBIN_UPSTREAM_URL=upstream.url_as("localhost"),
            ROBIN_UPSTREAM_CA_FILE=str(roots.ca_file),
            ROBIN_TOKEN_FILE=str(token_file),
        )
        assert b"".join(bytes(connection.received) for connection in upstream.connections) == b""
    assert code == 1
    assert found(findings, "upstream tls", "fail") == [what.format(port=upstream.port)]


async def test_tls_to_a_port_that_speaks_none(run_robin: RunRobin, token_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        settings = {"ROBIN_UPSTREAM_URL": f"https://127.0.0.1:{port}", "ROBIN_UPSTREAM_CONNECT_TIMEOUT": "300ms"}
        code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file), **settings)
    assert code == 1
    assert found(findings, "upstream tls", "fail") == [
        f"connect_timeout: 127.0.0.1 port {port}: it accepts TCP connections, but TLS is not finished within ROBIN_UPSTREAM_CONNECT_TIMEOUT"
    ]


async def test_without_an_upstream_url_the_rest_is_looked_at(run_robin: RunRobin, token_file: Path) -> None:
    code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file), ROBIN_UPSTREAM_URL="")
    assert code == 1
    assert [(finding["subject"], finding["fix"]) for finding in findings if finding["status"] == "fail"] == [
        ("upstream", "set it to https://host[:port][/base], or give --upstream-url")
    ]
    assert found(findings, "upstream", "fail") == ["ROBIN_UPSTREAM_URL is required"]
    assert found(findings, "token", "ok") != []
    assert found(findings, "port", "ok") != []
    assert found(findings, "open files", "ok") + found(findings, "open files", "warn") != []


async def test_a_ca_file_without_certificates(run_robin: RunRobin, token_file: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    settings = {"ROBIN_UPSTREAM_URL": "https://127.0.0.1:9", "ROBIN_TOKEN_FILE": str(token_file)}
    for name in ("ca.pem", "none.pem"):
        code, findings = await examine(run_robin, ROBIN_UPSTREAM_CA_FILE=str(tmp_path / name), **settings)
        assert code == 1
        assert found(findings, "upstream roots", "fail")[0].startswith(f"{tmp_path / name}: ")


async def test_taken_ports_are_named(run_robin: RunRobin, token_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        listen, admin = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, other))
        code, findings = await examine(run_robin, ROBIN_TOKEN_FILE=str(token_file), ROBIN_LISTEN_ADDR=listen, ROBIN_ADMIN_ADDR=admin)
    assert code == 1
    assert found(findings, "port", "fail") == [
        f"{listen} of ROBIN_LISTEN_ADDR is held by another program",
        f"{admin} of ROBIN_ADMIN_ADDR is held by another program",
    ]
    fixes = [finding["fix"] for finding in findings if finding["subject"] == "port"]
    assert fixes == [f"change {key}, or end that program (ss -ltnp shows it)" for key in ("ROBIN_LISTEN_ADDR", "ROBIN_ADMIN_ADDR")]


async def test_ports_of_a_running_robin_are_no_failure_and_no_request_of_its_goes_on(run_robin: RunRobin, token_file: Path) -> None:
    token = {"ROBIN_TOKEN_FILE": str(token_file)}
    async with RecordingUpstream(hold) as upstream, SidecarProcess(upstream_url=upstream.url, settings=token) as sidecar:
        await sidecar.started()
        settings = {"ROBIN_LISTEN_ADDR": sidecar.listen[0], "ROBIN_ADMIN_ADDR": sidecar.admin[0], **token}
        code, findings = await examine(run_robin, ROBIN_UPSTREAM_URL=upstream.url, **settings)
        assert [bytes(connection.received) for connection in upstream.connections] == [b""]
        second = await run_robin("sidecar", ROBIN_UPSTREAM_URL=upstream.url, **{**settings, "ROBIN_ADMIN_ADDR": "127.0.0.1:0"})
    assert [event for event in sidecar.events if event["event"] == "exchange"] == [], "the doctor is no caller of the proxy"
    assert second.code == 3, "what the finding says of another Robin is true"
    assert code == 0
    assert found(findings, "port", "warn") == [
        f"{sidecar.listen[0]} of ROBIN_LISTEN_ADDR is held by a running Robin",
        f"{sidecar.admin[0]} of ROBIN_ADMIN_ADDR is held by a running Robin",
    ]


async def test_beside_a_running_robin_another_program_on_a_port_is_still_a_failure(run_robin: RunRobin, token_file: Path) -> None:
    token = {"ROBIN_TOKEN_FILE": str(token_file)}
    page = answer(response(200, b"ok\n"))
    async with RecordingUpstream(page) as other, SidecarProcess(upstream_url="http://127.0.0.1:9", settings=token) as sidecar:
        await sidecar.started()
        code, findings = await examine(run_robin, ROBIN_LISTEN_ADDR=f"127.0.0.1:{other.port}", ROBIN_ADMIN_ADDR=sidecar.admin[0], **token)
        assert other.connections == [], "what is not an admin listener is not asked"
        assert code == 1
        assert found(findings, "port", "fail") == [f"127.0.0.1:{other.port} of ROBIN_LISTEN_ADDR is held by another program"]
        # a Robin in the wrong place is no comfort either: its proxy where the probes should be, and the other way round
        swapped = {"ROBIN_LISTEN_ADDR": sidecar.admin[0], "ROBIN_ADMIN_ADDR": sidecar.listen[0]}
        code, findings = await examine(run_robin, **swapped, **token)
        assert code == 1
        assert len(found(findings, "port", "fail")) == 2


async def test_a_socket_that_a_running_robin_serves(run_robin: RunRobin, token_file: Path, tmp_path: Path) -> None:
    path, admin = tmp_path / "robin.sock", tmp_path / "admin.sock"
    settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_LISTEN_UDS": str(path), "ROBIN_ADMIN_ADDR": f"unix:{admin}"}
    for uids in ({}, {"ROBIN_PEERCRED_ALLOW_UIDS": "none"}):
        async with SidecarProcess(upstream_url="http://127.0.0.1:9", settings={**settings, **uids}) as sidecar:
            await sidecar.started()
            _, findings = await examine(run_robin, **{**settings, **uids, "ROBIN_LISTEN_ADDR": ""})
            second = await run_robin("sidecar", ROBIN_UPSTREAM_URL="http://127.0.0.1:9", **{**settings, "ROBIN_ADMIN_ADDR": "off"})
            assert second.code == 3
        assert found(findings, "socket", "warn") == [
            f"{path} of ROBIN_LISTEN_UDS is served by a running Robin",
            f"{admin} of ROBIN_ADMIN_ADDR is served by a running Robin",
        ]


async def test_a_socket_of_another_program_and_a_dead_one(run_robin: RunRobin, token_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "robin.sock"
    settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_LISTEN_UDS": str(path), "ROBIN_LISTEN_ADDR": ""}
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        code, findings = await examine(run_robin, **settings)
        assert code == 1
        assert found(findings, "socket", "fail") == [f"{path} of ROBIN_LISTEN_UDS is served by another program"]
    _, findings = await examine(run_robin, **settings)
    assert found(findings, "socket", "ok") == [f"{path} of ROBIN_LISTEN_UDS is a dead socket of an earlier run, which Robin replaces"]
    assert path.exists()


async def test_the_hard_limit_of_open_files_is_what_counts(run_robin: RunRobin, token_file: Path) -> None:
    few = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_MAX_CONNECTIONS": "100", "ROBIN_UPSTREAM_MAX_CONNECTIONS": "100"}
    for script, health in (("ulimit -Sn 200; ulimit -Hn 328", "ok"), ("ulimit -Sn 200; ulimit -Hn 327", "warn")):
        ended = await run_robin("doctor", "--json", program=shell(script), **{"ROBIN_UPSTREAM_URL": "http://127.0.0.1:9", **QUIET, **few})
        (finding,) = [one for one in json.loads(ended.out)["findings"] if one["subject"] == "open files"]
        assert finding["status"] == health
    assert finding["what"] == "327 allowed at most (`ulimit -Hn`), 328 wanted at most"
    assert finding["fix"] == "ulimit -Hn 328 (systemd: LimitNOFILE=328), or lower ROBIN_MAX_CONNECTIONS"


async def test_the_folder_of_a_unix_socket(run_robin: RunRobin, token_file: Path, tmp_path: Path) -> None:
    upstream = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_LISTEN_ADDR": ""}
    path = tmp_path / "run" / "robin.sock"
    _, findings = await examine(run_robin, ROBIN_LISTEN_UDS=str(path), **upstream)
    assert found(findings, "socket", "ok") == [f"{path} of ROBIN_LISTEN_UDS can be made"]
    assert not path.parent.exists()
    path.parent.mkdir(mode=0o777)
    path.parent.chmod(0o777)
    _, findings = await examine(run_robin, ROBIN_LISTEN_UDS=str(path), **upstream)
    assert found(findings, "socket", "warn") == [f"{path} of ROBIN_LISTEN_UDS: {path.parent} can be written by every user"]
    path.touch()
    code, findings = await examine(run_robin, ROBIN_LISTEN_UDS=str(path), **upstream)
    assert code == 1
    assert found(findings, "socket", "fail") == [f"{path} of ROBIN_LISTEN_UDS is not a socket"]


async def test_proxy_variables_are_reported_and_never_contacted(run_robin: RunRobin, token_file: Path) -> None:
    async with RecordingUpstream(hold) as upstream, RecordingUpstream(hold) as canary:
        _, findings = await examine(
            run_robin,
            ROBIN_UPSTREAM_URL=upstream.url,
            ROBIN_TOKEN_FILE=str(token_file),
            HTTP_PROXY=canary.url,
            https_proxy=canary.url,
            ALL_PROXY=canary.url,
        )
        assert len(upstream.connections) == 1
        assert canary.connections == []
    assert found(findings, "proxy variables", "warn") == ["HTTP_PROXY, https_proxy, ALL_PROXY: set, but not obeyed"]


async def test_an_absent_workload_api_names_the_socket(run_robin: RunRobin, tmp_path: Path) -> None:
    socket_path = tmp_path / "a.sock"
    svid = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a", "ROBIN_SPIFFE_SOCKET": f"unix://{socket_path}"}
    code, findings = await examine(run_robin, **svid)
    assert code == 1
    assert found(findings, "workload api", "fail") == [f"unix:{socket_path}: No such file or directory"]
    assert found(findings, "token", "fail") != []


async def test_people_read_lines_with_fixes(run_robin: RunRobin, tmp_path: Path) -> None:
    ended = await run_robin("doctor", ROBIN_UPSTREAM_URL="http://127.0.0.1:9", ROBIN_TOKEN_FILE=str(tmp_path / "none"), **QUIET)
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0] == "ok    settings         4 set, the rest are defaults; robin check shows them"
    at = lines.index("FAIL  token            missing: the file of ROBIN_TOKEN_FILE does not exist")
    path = tmp_path / "none"
    assert lines[at + 1] == f"                       fix: mount the token there, or set ROBIN_TOKEN_FILE (ROBIN_TOKEN_FILE is {path})"


async def test_bad_settings_are_exit_2(run_robin: RunRobin) -> None:
    ended = await run_robin("doctor", "--json", ROBIN_UPSTREAM_URL="http://broker.example")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("robin: ROBIN_UPSTREAM_URL (from env): ")
