"""Items D1-D4, D7, D8 of the sidecar spec at socket level: no usable token, no byte upstream; answers pass as they are."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conformance.parts import without_identity
from tests.corpus.judge import SENTINEL, check_problem
from tests.corpus.rig import SOON_S, Rig, running, unsigned_token

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.waiting import eventually
from robin.testing.workload_api import WorkloadApi, answer_with
from robin.wire.workload_api import JwtSvid

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"

BAD_TOKENS = {
    "empty": (b"", "identity_unavailable"),
    "blank": (b" \t\r\n", "identity_unavailable"),
    "inner-newline": (unsigned_token().replace(b".", b"\n.", 1), "identity_malformed"),
    "inner-space": (unsigned_token().replace(b".", b" .", 1), "identity_malformed"),
    "header-injection": (unsigned_token() + b"\r\nX-Injected: 1", "identity_malformed"),
    "leading-newline": (b"\n" + unsigned_token(), "identity_malformed"),
    "over-16-kib": (unsigned_token(pad="x" * 20_000), "identity_malformed"),
    "byte-order-mark": (b"\xef\xbb\xbf" + unsigned_token(), "identity_malformed"),
    "nul": (unsigned_token() + b"\x00", "identity_malformed"),
    "two-segments": (unsigned_token().rpartition(b".")[0], "identity_malformed"),
    "truncated-signature": (unsigned_token()[:-20], "identity_malformed"),
    "expired": (unsigned_token(exp=1_000_000_000), "identity_expired"),
    "not-yet-valid": (unsigned_token(nbf=4_102_440_000), "identity_not_yet_valid"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lacking(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One Robin that never saw a good token."""
    async with without_identity(tmp_path_factory.mktemp("lacking"), None) as rig:
        yield rig


@pytest.mark.parametrize(("token", "code"), BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_d1_a_bad_token_is_never_sent_and_the_upstream_sees_no_connection(lacking: Rig, token: bytes, code: str) -> None:
    lacking.token_file.write_bytes(token)
    for _ in range(2):
        found = await lacking.ask(GET)
        check_problem(found, code)
        assert 1 <= int(found.value(b"Retry-After") or b"0") <= 30
    assert lacking.upstream.connections == []


async def test_d2_no_identity_is_503_with_the_exact_answer(tmp_path: Path) -> None:
    async with without_identity(tmp_path, None) as rig:
        found = await rig.ask(GET)
        check_problem(found, "identity_unavailable")
        assert found.value(b"Proxy-Status") == b'robin; error=proxy_internal_error; details="identity_unavailable"'
        problem = json.loads(found.body)
        assert problem["retry"] == "after"
        assert "ROBIN_TOKEN_FILE" in problem["detail"]
        assert 1 <= int(found.value(b"Retry-After") or b"0") <= 30
        assert rig.upstream.connections == []
        rig.token_file.write_bytes(unsigned_token())
        await eventually(lambda: _served(rig), what="service with a token that appeared later")


async def _served(rig: Rig) -> bool:
    return (await rig.ask(GET)).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 1073741824\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n"])
async def test_d3_a_caller_that_writes_a_gigabyte_first_still_gets_its_503(tmp_path: Path, framing: bytes) -> None:
    async with without_identity(tmp_path, None, ROBIN_IDENTITY_WAIT="0") as rig:
        began = time.monotonic()
        sent, raw = await asyncio.to_thread(_write_then_read, rig.address, b"POST /up HTTP/1.1\r\nHost: localhost\r\n" + framing)
        assert raw.startswith(b"HTTP/1.1 503 "), (sent, raw[:200])
        assert sent < 64 << 20, "Robin read on and on"
        assert time.monotonic() - began < SOON_S
        assert rig.upstream.connections == []


def _write_then_read(address: tuple[str, int], head: bytes) -> tuple[int, bytes]:
    """A simple blocking client: it writes a gigabyte, stops when it cannot, and only then reads. What it sent, and what it got."""
    block, sent = b"x" * (1 << 20), 0
    with socket.create_connection(address, timeout=10.0) as client:
        client.sendall(head)
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30:
                sent += client.send(block)
        with contextlib.suppress(ConnectionError):
            return sent, client.recv(65536)
    return sent, b""


async def test_d4_answers_of_the_upstream_pass_byte_for_byte_and_are_recorded_as_forwarded_with_the_credential(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for status in (401, 403, 404, 429, 500, 502, 503, 504):
            body = b'{"type":"urn:robin:fault:fake"}'
            raw = response(status, body, ("Content-Type", "application/problem+json"), ("WWW-Authenticate", "Bearer"), reason="Odd One")

            async def reply(connection: ScriptedConnection, request: ReceivedRequest, raw: bytes = raw) -> None:
                await connection.send(raw)

            with rig.replying(reply):
                caller = await rig.caller()
                caller.send(GET)
                assert await caller.peer.read_exactly(len(raw)) == raw
                await caller.leave()
        await rig.robin.event("exchange", after=7)
        records = [entry for entry in rig.robin.events if entry.get("event") == "exchange"]
        assert {(entry["outcome"], entry["credential"]) for entry in records} == {("forwarded", "forward")}
        assert [entry["upstream_status"] for entry in records] == [401, 403, 404, 429, 500, 502, 503, 504]
        assert [entry["status"] for entry in records] == [401, 403, 404, 429, 500, 502, 503, 504]


async def test_d7_a_rotation_between_two_requests_of_one_connection_changes_the_token(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        caller = await rig.caller()
        caller.send(GET)
        assert (await caller.answer()).status == 200
        first, second = rig.token, unsigned_token(jti="second")
        rig.token_file.write_bytes(second)
        caller.send(GET)
        assert (await caller.answer()).status == 200
        assert [request.values(b"authorization") for _, request in rig.seen] == [[b"Bearer " + first], [b"Bearer " + second]]
        await caller.leave()


async def test_d8_a_thousand_401s_are_relayed_once_each_and_cause_one_forced_fetch_at_most(tmp_path: Path) -> None:
    authority = IdentityAuthority(issuer="https://issuer.test", trust_domain="robin.test")
    svid = JwtSvid(spiffe_id="spiffe://robin.test/ns/demo/sa/agent", svid=Secret(authority.jwt_svid(audience="broker", lifetime_s=3600)))
    agent = WorkloadApi(answer_with((svid,)))
    path = str(tmp_path / "agent.sock")
    await agent.start_unix(path)
    try:
        settings = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "broker", "ROBIN_SPIFFE_SOCKET": f"unix://{path}"}
        async with running(tmp_path, settings=settings) as rig:

            async def refuse(connection: ScriptedConnection, request: ReceivedRequest) -> None:
                await connection.send(response(401, b"no", reason="Unauthorized"))

            with rig.replying(refuse):
                caller = await rig.caller()
                for _ in range(1000):
                    caller.send(GET)
                    found = await caller.answer()
                    assert (found.status, found.body) == (401, b"no")
                await caller.leave()
            assert len(rig.seen) == 1000
            assert 1 <= len(agent.requests) <= 2
    finally:
        await agent.close()


async def test_d1_the_token_arrives_as_the_file_holds_it_trimmed_at_its_end(tmp_path: Path) -> None:
    async with RecordingUpstream(answer(response(200, b"pong"))) as upstream:
        token = unsigned_token(jti="exact")
        token_file = tmp_path / "token"
        token_file.write_bytes(token + b" \t\r\n\n")
        async with SidecarProcess(upstream_url=upstream.url, settings={"ROBIN_TOKEN_FILE": str(token_file)}) as robin:
            await robin.started()
            rig = Rig(robin, upstream, token_file)
            upstream.script = answer(response(200, b"pong"))
            assert (await rig.ask(SENTINEL)).status == 200
        assert upstream.requests[0].values(b"authorization") == [b"Bearer " + token]
