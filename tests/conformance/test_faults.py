"""Item D5 of the sidecar spec: every code of section 7 is provoked in the real process; its answer and its record are as tabled."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conformance.parts import ASK, without_identity
from tests.corpus.cases import FAULT_TABLE
from tests.corpus.judge import check_problem
from tests.corpus.rig import Answer, Caller, Rig, running, unsigned_token

from robin.model.faults import FAULTS, OUTCOMES
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS
from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess, free_port
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually
from robin.testing.workload_api import Refusal, WorkloadApi, answer_with

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
GUARD = b"X-Guard: 1\r\n"
BROKEN_UPSTREAM = {
    b"/closed": b"",
    b"/garbage": b"HTTP/9.9 what\r\n\r\n",
    b"/ws": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
}

# What a request alone provokes, with ROBIN_REQUIRE_HEADER=x-guard and short timeouts.
BY_REQUEST = {
    "bad_request": GET + GUARD + b"Bad Name: 1\r\n\r\n",
    "request_timeout": GET,
    "target_too_long": b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "expectation_failed": GET + GUARD + b"Expect: x\r\n\r\n",
    "head_too_large": GET + GUARD + b"A: 1\r\n" * 100 + b"\r\n",
    "method_refused": b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "method_unknown": b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "version_not_supported": b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "host_not_allowed": b"GET / HTTP/1.1\r\nHost: evil.example\r\nX-Guard: 1\r\n\r\n",
    "origin_refused": GET + GUARD + b"Origin: null\r\n\r\n",
    "required_header_missing": GET + b"\r\n",
    "upstream_closed": b"POST /closed HTTP/1.1\r\nHost: localhost\r\nX-Guard: 1\r\nContent-Length: 0\r\n\r\n",
    "upstream_protocol": b"GET /garbage HTTP/1.1\r\nHost: localhost\r\nX-Guard: 1\r\n\r\n",
    "upgrade_failed": ASK.replace(b"\r\n\r\n", b"\r\nX-Guard: 1\r\n\r\n"),
    "response_timeout": b"GET /hold HTTP/1.1\r\nHost: localhost\r\nX-Guard: 1\r\n\r\n",
}


async def _misbehave(connection: ScriptedConnection, request: ReceivedRequest) -> None:
    if request.target == b"/hold":
        await connection.wait_ended()
        return
    await connection.send(BROKEN_UPSTREAM.get(request.target, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    await connection.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """Robin with a required header and short patience, before an upstream that misbehaves by target."""
    settings = {"ROBIN_REQUIRE_HEADER": "x-guard", "ROBIN_HEADER_TIMEOUT": "400ms", "ROBIN_UPSTREAM_RESPONSE_TIMEOUT": "400ms"}
    async with running(tmp_path_factory.mktemp("guarded"), settings=settings) as rig:
        rig.reply = _misbehave
        yield rig


async def outcome_of(rig: Rig, code: str) -> None:
    """Wait for a record whose outcome is this code, and compare it."""

    def recorded() -> list[dict[str, object]]:
        return [entry for entry in rig.robin.events if entry.get("event") == "exchange" and entry["outcome"] == code]

    found = await eventually(recorded, what=f"a record with outcome {code}")
    assert found[-1]["status"] == FAULT_TABLE[code][0]


@pytest.mark.parametrize("code", BY_REQUEST)
async def test_d5_a_request_provokes_its_code(guarded: Rig, code: str) -> None:
    check_problem(await guarded.ask(BY_REQUEST[code]), code)
    await outcome_of(guarded, code)


async def test_d5_loop_is_provoked_by_the_own_pseudonym(guarded: Rig) -> None:
    await guarded.ask(GET + GUARD + b"\r\n")
    (via,) = guarded.seen[-1][1].values(b"via")
    check_problem(await guarded.ask(GET + GUARD + b"Via: " + via + b"\r\n\r\n"), "loop")
    await outcome_of(guarded, "loop")


async def test_d5_each_identity_code_is_provoked_by_a_token(tmp_path: Path) -> None:
    tokens = {
        "identity_unavailable": b"",
        "identity_malformed": b"not.a.jwt",
        "identity_expired": unsigned_token(aud="broker", exp=1_000_000_000),
        "identity_not_yet_valid": unsigned_token(aud="broker", nbf=4_102_440_000),
        "audience_mismatch": unsigned_token(aud=["other"]),
    }
    async with without_identity(tmp_path, None, ROBIN_AUDIENCE="broker") as rig:
        for code, token in tokens.items():
            rig.token_file.write_bytes(token)
            answer = await rig.ask(GET + b"\r\n")
            check_problem(answer, code)
            assert (answer.value(b"Retry-After") is None) is (code == "audience_mismatch")
            await outcome_of(rig, code)
        assert rig.upstream.connections == []


async def test_d5_identity_refused_is_provoked_by_an_agent_that_says_invalid_argument(tmp_path: Path) -> None:
    agent = WorkloadApi(answer_with(Refusal(code="InvalidArgument")))
    path = str(tmp_path / "agent.sock")
    await agent.start_unix(path)
    try:
        settings = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "broker", "ROBIN_SPIFFE_SOCKET": f"unix://{path}"}
        async with without_identity(tmp_path, None, **settings) as rig:
            await eventually(lambda: agent.requests, what="Robin to ask the agent")
            answer = await eventually(lambda: _refused(rig), what="identity_refused")
            check_problem(answer, "identity_refused")
            assert answer.value(b"Retry-After") is None
            await outcome_of(rig, "identity_refused")
    finally:
        await agent.close()


async def _refused(rig: Rig) -> Answer | None:
    answer = await rig.ask(GET + b"\r\n")
    return answer if json.loads(answer.body)["code"] == "identity_refused" else None


SABOTAGE = "import {module} as module\n{patch}\nimport sys\nfrom robin.cli.main import main\nsys.exit(main())"
UNRESOLVED = SABOTAGE.format(module="socket", patch="def fail(*a, **k): raise module.gaierror(-2, 'x')\nmodule.getaddrinfo = fail")
UNANSWERED = SABOTAGE.format(module="socket", patch="import threading\nmodule.getaddrinfo = lambda *a, **k: threading.Event().wait()")
BUG = "def fail(*a, **k): raise ZeroDivisionError('canary')\nmodule.ExchangeRecord.note_head = fail"
FAILING = SABOTAGE.format(module="robin.telemetry.record", patch=BUG)


@contextlib.asynccontextmanager
async def towards(folder: Path, url: str, *, source: str | None = None, **settings: str) -> AsyncIterator[Rig]:
    """Robin towards an upstream URL that cannot be reached as it should. `source`: the child runs this instead of `robin`."""
    token_file = folder / "token"
    token_file.write_bytes(unsigned_token())
    program = {"program": (sys.executable, "-c", source)} if source else {}
    chosen = {"ROBIN_TOKEN_FILE": str(token_file), **settings}
    async with SidecarProcess(upstream_url=url, settings=chosen, **program) as robin:
        await robin.listening()
        yield Rig(robin, RecordingUpstream(), token_file)


@pytest.mark.parametrize(
    ("code", "url", "source"),
    [
        ("dns_failed", "https://broker.invalid", UNRESOLVED),
        ("dns_timeout", "https://broker.invalid", UNANSWERED),
        ("unroutable", "https://224.0.0.1:9", None),  # Linux refuses a TCP connection to a multicast address before any packet
        ("internal_error", "http://127.0.0.1:9", FAILING),
    ],
)
async def test_d5_an_unreachable_upstream_or_a_bug_provokes_its_code(tmp_path: Path, code: str, url: str, source: str | None) -> None:
    async with towards(tmp_path, url, source=source, ROBIN_UPSTREAM_CONNECT_TIMEOUT="300ms") as rig:
        answer = await rig.ask(GET + b"\r\n")
        check_problem(answer, code)
        assert b"canary" not in answer.body
        await outcome_of(rig, code)
        assert not any("canary" in text for _, text in rig.robin.lines)


async def test_d5_a_refused_a_silent_and_a_wrongly_speaking_upstream_provoke_their_codes(
    tmp_path: Path, certificates: CertificateAuthority
) -> None:
    await _expect(tmp_path, f"http://127.0.0.1:{free_port()}", "connect_refused")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as callers:
        for _ in range(8):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(full.getsockname())
        await _expect(tmp_path, f"http://127.0.0.1:{full.getsockname()[1]}", "connect_timeout")
    async with RecordingUpstream(_speak_plainly) as upstream:
        await _expect(tmp_path, f"https://127.0.0.1:{upstream.port}", "upstream_tls")
    async with RecordingUpstream(tls=certificates.issue("127.0.0.1").server_context()) as upstream:
        await _expect(tmp_path, upstream.url, "upstream_certificate")


async def _speak_plainly(connection: ScriptedConnection) -> None:
    await connection.read_some()
    await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def _expect(folder: Path, url: str, code: str) -> None:
    async with towards(folder, url, ROBIN_UPSTREAM_CONNECT_TIMEOUT="500ms") as rig:
        check_problem(await rig.ask(GET + b"\r\n"), code)
        await outcome_of(rig, code)


async def test_d5_one_connection_too_many_is_limit_connections(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"ROBIN_MAX_CONNECTIONS": "1"}) as rig:
        first = await rig.caller()
        first.send(GET + b"\r\n")
        assert (await first.answer()).status == 200
        second = await rig.caller()
        answer = await second.answer()
        check_problem(answer, "limit_connections")
        assert answer.value(b"Retry-After") == b"1"
        assert len(rig.seen) == 1
        await first.leave()


async def test_d5_a_head_that_ends_in_a_drain_is_draining(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        caller = await rig.caller()
        caller.send(GET)
        assert (await rig.ask(GET + b"\r\n")).status == 200  # by now Robin has read the half head
        rig.robin.send_signal(signal.SIGTERM)
        await rig.robin.event("draining")
        caller.send(b"\r\n")
        answer = await caller.answer()
        check_problem(answer, "draining")
        assert answer.value(b"Retry-After") == b"1"
        assert await caller.closed() == "eof"
        await outcome_of(rig, "draining")
        assert len(rig.seen) == 1
        assert await rig.robin.returned() == 0


async def test_d5_a_peer_that_is_not_listed_is_peer_denied(tmp_path: Path) -> None:
    path = tmp_path / "robin.sock"
    settings = {"ROBIN_LISTEN_UDS": str(path), "ROBIN_PEERCRED_ALLOW_UIDS": "65533"}
    async with running(tmp_path, settings=settings) as rig:
        _, peer = await asyncio.get_running_loop().create_unix_connection(lambda: ScriptedConnection(lambda _: None), str(path))
        answer = await Caller(peer).answer()
        check_problem(answer, "peer_denied")
        await outcome_of(rig, "peer_denied")
        assert rig.upstream.connections == []
        peer.transport.abort()


NOT_OF_THE_SIDECAR = {"limit_body"}
"""Codes of routes that hold bodies: provoked in tests/proxy."""


def provoked() -> set[str]:
    """Every code that a test of this file provokes, read from its own words."""
    words = Path(__file__).read_text(encoding="utf-8")
    return {code for code in FAULTS if f'"{code}"' in words}  # NOT_OF_THE_SIDECAR among them


async def test_d5_the_sets_of_codes_in_code_spec_docs_and_tests_are_equal() -> None:
    assert set(FAULTS) - {*GRANT_FAULTS, *GATEWAY_FAULTS, *KUBE_FAULTS} == set(FAULT_TABLE) == provoked()
    for code, (status, error, source, _) in FAULT_TABLE.items():
        kind = FAULTS[code]
        assert (kind.status, kind.error, str(kind.source)) == (status, error, source), code
    assert {*FAULTS, "forwarded", "local_response", "client_closed", "upstream_aborted", "drain_cut"} == OUTCOMES
