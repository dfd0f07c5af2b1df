"""Both sources as the settings build them, on real files and sockets and the real clock."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.identity.room import Room

from robin.identity.catalog import SOURCES, build_identity, token_rules
from robin.identity.identity import Identity
from robin.model.address import TcpAddress, UnixAddress
from robin.model.faults import Fault
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.testing.workload_api import Outcome, Refusal, WorkloadApi, answer_never, answer_with
from robin.transport.clock import SystemClock
from robin.transport.tasks import TaskOwner
from robin.wire.jose import SVID_ALGORITHMS
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

SPIFFE_ID = "spiffe://example.org/app"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The settings that identity reads."""

    token_source: str = "jwtsvid"
    token_file: str = "/nowhere/token"
    token_format: str = "jwt"
    token_min_validity_s: float = 5.0
    token_file_grace_s: float = 10.0
    audience: str | None = "broker.example"
    identity_wait_s: float = 2.0
    spiffe_socket: UnixAddress | TcpAddress | None = None
    spiffe_id: str | None = None
    svid_hint: str | None = None
    svid_refresh_before_s: float = 60.0
    svid_fetch_timeout_s: float = 10.0
    svid_on_denied: str = "serve"


async def issue(request: JwtSvidRequest, lifetime_s: float = 300) -> Outcome:
    token = make_token(expires_at=time.time() + lifetime_s, audience=list(request.audiences), subject=SPIFFE_ID)
    return (JwtSvid(spiffe_id=SPIFFE_ID, svid=Secret(token)),)


@asynccontextmanager
async def running(chosen: Chosen, room: Room) -> AsyncIterator[Identity]:
    """The identity as the app runs it."""
    identity = build_identity(chosen, replace(room.surroundings(), clock=SystemClock()))
    await identity.start()
    try:
        yield identity
    finally:
        await identity.close()
        assert len(room.tasks) == 0, "a task outlived the identity"
        assert room.crashes == []


async def outcome(identity: Identity) -> IdentityToken | Fault:
    try:
        return identity.ready() or await identity.obtain()
    except Fault as fault:
        return fault


def test_the_catalog_lists_two_sources() -> None:
    assert sorted(SOURCES) == ["file", "jwtsvid"]


def test_a_jwt_svid_has_stricter_rules_than_a_file() -> None:
    assert token_rules(Chosen()).algorithms == SVID_ALGORITHMS
    assert token_rules(Chosen(token_source="file")).algorithms is None
    assert not token_rules(Chosen(token_source="file", token_format="opaque", audience=None)).decoded


def test_the_file_source_does_not_load_http2() -> None:
    script = "import sys, robin.identity.catalog, robin.grants.catalog; print([name for name in ('h2', 'hpack') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


async def test_the_file_source_is_built_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(make_token(expires_at=time.time() + 60))
    room = Room(source="file")
    async with running(Chosen(token_source="file", token_file=str(tmp_path / "token")), room) as identity:
        assert isinstance(await outcome(identity), IdentityToken)
        assert identity.status().usable


@pytest.mark.parametrize("family", ["unix", "tcp"])
async def test_the_jwtsvid_source_is_built_from_the_settings(tmp_path: Path, family: str) -> None:
    api = WorkloadApi(issue)
    address = await (api.start_unix(str(tmp_path / "api")) if family == "unix" else api.start_tcp())
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=address, spiffe_id=SPIFFE_ID), room) as identity:
        token = await outcome(identity)
        assert isinstance(token, IdentityToken)
        assert (token.subject, token.audiences) == (SPIFFE_ID, ("broker.example",))
        assert api.requests == [JwtSvidRequest(audiences=("broker.example",), spiffe_id=SPIFFE_ID)]
    await api.close()


async def test_a_socket_that_appears_late_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "api")
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=UnixAddress(path=path), identity_wait_s=0.1), room) as identity:
        await eventually(lambda: room.metrics.refreshes.get(("error", "Unavailable"), 0) >= 4, what="four failed tries")
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

    room = Room(source="jwtsvid")
    api = WorkloadApi(issue_short)
    await api.start_unix(path)
    async with running(Chosen(spiffe_socket=UnixAddress(path=path), identity_wait_s=0), room) as identity:
        for _ in range(2):
            await eventually(lambda: identity.status().usable, what="the identity")
            await api.close()
            await eventually(lambda: not identity.status().usable, what="the end of the last token")
            await eventually(lambda: room.metrics.refreshes.get(("error", "Unavailable"), 0) >= 3, what="failed tries")
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
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=address, identity_wait_s=0.3), room) as identity:
        token = await outcome(identity)
        assert isinstance(token, IdentityToken)
        api.answer = answer_never
        served = 0
        while time.time() < token.usable_until - 0.05:
            found = identity.ready()  # no await: nothing to wait for
            assert found is token or time.time() >= token.usable_until
            served += 1
            await asyncio.sleep(0.005)  # requests as long as the token lives: its life, by the real clock, is what is tested
        assert served > 100
        assert room.metrics.served_stale > 50
        await eventually(lambda: identity.ready() is None)
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert fault.code == "identity_expired"
    await api.close()


async def test_a_denied_workload_is_served_once_its_entry_exists(tmp_path: Path) -> None:
    api = WorkloadApi(answer_with(Refusal(code="PermissionDenied", text="no identity issued")))
    address = await api.start_unix(str(tmp_path / "api"))
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=address, identity_wait_s=0.1), room) as identity:
        await eventually(lambda: room.metrics.refreshes.get(("error", "PermissionDenied"), 0) >= 2)
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
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=address, identity_wait_s=0.1), room) as identity:
        await eventually(lambda: room.metrics.rejected.get("bad_aud", 0) >= 2)
        fault = await outcome(identity)
        assert isinstance(fault, Fault)
        assert (fault.code, fault.retry_after_s) == ("audience_mismatch", None)
    await api.close()


async def test_closing_during_a_hanging_fetch_leaves_nothing(tmp_path: Path) -> None:
    api = WorkloadApi(answer_never)
    address = await api.start_unix(str(tmp_path / "api"))
    before = len(os.listdir("/proc/self/fd"))
    room = Room(source="jwtsvid")
    async with running(Chosen(spiffe_socket=address), room):
        await eventually(lambda: len(api.requests) == 1)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) == before, what="the descriptors to be let go")
    await api.close()
    assert isinstance(room.tasks, TaskOwner)


async def test_a_request_that_leaves_at_any_await_disturbs_nobody(tmp_path: Path) -> None:
    api = WorkloadApi(issue)
    address = await api.start_unix(str(tmp_path / "api"))
    for turns in range(30):
        room = Room(source="jwtsvid")
        async with running(Chosen(spiffe_socket=address), room) as identity:
            leaving, staying = asyncio.ensure_future(identity.obtain()), asyncio.ensure_future(identity.obtain())
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert await staying is identity.ready()
    assert len(api.requests) == 30
    await api.close()
