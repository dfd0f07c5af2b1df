"""Both sources as the settings build them, on real files and sockets and the real clock."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.identity.parts import Parts

from robin.identity.catalog import build_identity, token_rules
from robin.identity.identity import Identity
from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings
from robin.model.address import TcpAddress, UnixAddress
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.testing.workload_api import Outcome, Refusal, WorkloadApi, answer_never, answer_with
from robin.transport.clock import SystemClock
from robin.wire.jwt_inspection import SVID_ALGORITHMS
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

SPIFFE_ID = "spiffe://example.org/app"


def jwtsvid(spiffe_socket: UnixAddress | TcpAddress, **more: object) -> JwtSvidSettings:
    """Settings of the source `jwtsvid`, as the defaults have them."""
    values: dict[str, object] = {
        "audience": "broker.example",
        "spiffe_id": None,
        "hint": None,
        "min_validity_s": 5.0,
        "refresh_before_s": 60.0,
        "fetch_timeout_s": 10.0,
        "wait_s": 2.0,
        "stop_when_denied": False,
    }
    return JwtSvidSettings(spiffe_socket=spiffe_socket, **(values | more))  # type: ignore[arg-type]


def file(path: str, **more: object) -> FileIdentitySettings:
    """Settings of the source `file`, as the defaults have them."""
    values: dict[str, object] = {"token_format": "jwt", "audience": None, "min_validity_s": 5.0, "grace_s": 10.0}
    return FileIdentitySettings(token_file=path, **(values | more))  # type: ignore[arg-type]


async def issue(request: JwtSvidRequest, lifetime_s: float = 300) -> Outcome:
    token = make_token(expires_at=time.time() + lifetime_s, audience=list(request.audiences), subject=SPIFFE_ID)
    return (JwtSvid(spiffe_id=SPIFFE_ID, svid=Secret(token)),)


@asynccontextmanager
async def running(settings: IdentitySettings, parts: Parts) -> AsyncIterator[Identity]:
    """The identity as the app runs it."""
    identity = build_identity(settings, parts.dependencies, parts.metrics)
    await identity.start()
    try:
        yield identity
    finally:
        await identity.close()
        assert len(parts.tasks) == 0, "a task outlived the identity"
        assert parts.crashes == []


async def outcome(identity: Identity) -> IdentityToken | Fault:
    try:
        return identity.ready() or await identity.obtain()
    except Fault as fault:
        return fault


def test_a_jwt_svid_has_stricter_rules_than_a_file() -> None:
    assert token_rules(jwtsvid(UnixAddress(path="/x"))).algorithms == SVID_ALGORITHMS
    assert token_rules(file("/x")).algorithms is None
    assert not token_rules(file("/x", token_format="opaque")).decoded


def test_the_file_source_does_not_load_http2() -> None:
    script = "import sys, robin.identity.catalog, robin.grants.catalog; print([name for name in ('h2', 'hpack') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


async def test_the_file_source_is_built_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(make_token(expires_at=time.time() + 60))
    parts = Parts(clock=SystemClock(), source="file")
    async with running(file(str(tmp_path / "token")), parts) as identity:
        assert isinstance(await outcome(identity), IdentityToken)
        assert identity.status().usable


@pytest.mark.parametrize("family", ["unix", "tcp"])
async def test_the_jwtsvid_source_is_built_from_the_settings(tmp_path: Path, family: str) -> None:
    api = WorkloadApi(issue)
    address = await (api.start_unix(str(tmp_path / "api")) if family == "unix" else api.start_tcp())
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(address, spiffe_id=SPIFFE_ID), parts) as identity:
        token = await outcome(identity)
        assert isinstance(token, IdentityToken)
        assert (token.subject, token.audiences) == (SPIFFE_ID, ("broker.example",))
        assert api.requests == [JwtSvidRequest(audiences=("broker.example",), spiffe_id=SPIFFE_ID)]
    await api.close()


async def test_a_socket_that_appears_late_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(UnixAddress(path=path), wait_s=0.1), parts) as identity:
        await eventually(lambda: parts.metrics.refreshes.get(("error", "Unavailable"), 0) >= 4, what="four failed tries")
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert fault.code == "identity_unavailable"
        api = WorkloadApi(issue)
        await api.start_unix(path)
        began = time.monotonic()
        await eventually(lambda: identity.status().usable, what="the identity")
        assert time.monotonic() - began < 5
        await api.close()


async def test_an_agent_that_restarts_is_found_again_within_five_seconds(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    short = 2.0

    async def issue_short(request: JwtSvidRequest) -> Outcome:
        return await issue(request, short)

    parts = Parts(clock=SystemClock(), source="jwtsvid")
    api = WorkloadApi(issue_short)
    await api.start_unix(path)
    async with running(jwtsvid(UnixAddress(path=path), wait_s=0), parts) as identity:
        for _ in range(2):
            await eventually(lambda: identity.status().usable, what="the identity")
            await api.close()
            await eventually(lambda: not identity.status().usable, what="the end of the last token")
            await eventually(lambda: parts.metrics.refreshes.get(("error", "Unavailable"), 0) >= 3, what="failed tries")
            api = WorkloadApi(issue_short)
            await api.start_unix(path)
            began = time.monotonic()
            await eventually(lambda: identity.status().usable, what="the identity after the restart")
            assert time.monotonic() - began < 5
        await api.close()


async def test_a_hanging_agent_delays_no_request_while_the_token_is_usable(tmp_path: Path) -> None:
    async def issue_short(request: JwtSvidRequest) -> Outcome:
        return await issue(request, 4)

    api = WorkloadApi(issue_short)
    address = await api.start_unix(str(tmp_path / "api"))
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(address, wait_s=0.3), parts) as identity:
        token = await outcome(identity)
        assert isinstance(token, IdentityToken)
        api.answer = answer_never
        served = 0
        while time.time() < token.usable_until - 0.05:
            found = identity.ready()  # no await: nothing to wait for
            assert found is token or time.time() >= token.usable_until
            served += 1
            await asyncio.sleep(0.005)  # requests as long as the token lives: its life, by the real clock, is what is tested
        assert served > 10
        assert parts.metrics.served_stale > 5
        await eventually(lambda: identity.ready() is None)
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert fault.code == "identity_expired"
    await api.close()


async def test_a_denied_workload_is_served_once_its_entry_exists(tmp_path: Path) -> None:
    api = WorkloadApi(answer_with(Refusal(code="PermissionDenied", text="no identity issued")))
    address = await api.start_unix(str(tmp_path / "api"))
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(address, wait_s=0.1), parts) as identity:
        await eventually(lambda: parts.metrics.refreshes.get(("error", "PermissionDenied"), 0) >= 2)
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert fault.detail == (
            "permission_denied: the Workload API gave no identity (no identity issued);"
            " create a registration entry that selects this workload"
        )
        api.answer = issue
        await eventually(lambda: identity.status().usable, what="the identity")
    await api.close()


async def test_a_wrong_answer_is_counted_by_reason(tmp_path: Path) -> None:
    async def issue_foreign(_request: JwtSvidRequest) -> Outcome:
        return await issue(JwtSvidRequest(audiences=("other",)))

    api = WorkloadApi(issue_foreign)
    address = await api.start_unix(str(tmp_path / "api"))
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(address, wait_s=0.1), parts) as identity:
        await eventually(lambda: parts.metrics.rejected.get("bad_aud", 0) >= 2)
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert (fault.code, fault.retry_after_s) == ("audience_mismatch", None)
    await api.close()


async def test_closing_during_a_hanging_fetch_leaves_nothing(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    address = await api.start_unix(str(tmp_path / "api"))
    before = len(os.listdir("/proc/self/fd"))
    parts = Parts(clock=SystemClock(), source="jwtsvid")
    async with running(jwtsvid(address), parts):
        await eventually(lambda: len(api.requests) == 1)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before, what="the descriptors to be let go")
    await api.close()


async def test_a_request_that_leaves_at_any_await_disturbs_nobody(tmp_path: Path) -> None:
    api = WorkloadApi(issue)
    address = await api.start_unix(str(tmp_path / "api"))
    for turns in range(30):
        parts = Parts(clock=SystemClock(), source="jwtsvid")
        async with running(jwtsvid(address), parts) as identity:
            leaving, staying = asyncio.ensure_future(identity.obtain()), asyncio.ensure_future(identity.obtain())
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert await staying is identity.ready()
    assert len(api.requests) == 30
    await api.close()
