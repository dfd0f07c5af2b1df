"""Limits of one caller at a real process: what is over is refused and counted, and other callers are served (gateway.md section 10)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.planes.gateway.caller_limits import GatewayCallerLimits
from robin.planes.gateway.settings import CallerLimitSettings
from robin.telemetry.record import ExchangeRecord
from robin.testing.authority import IdentityAuthority
from robin.testing.manual_clock import ManualClock
from robin.testing.waiting import eventually
from robin.wire.http1 import parse_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHORITY = IdentityAuthority()
RULES = [
    {"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]},
    {"name": "opaque", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["tcp"]},
]


LIMITS = {"connections": 3, "tunnels": 1, "inflight": 1, "rps": 10}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "jwks.json").write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"name": "cluster", "kind": "kubernetes", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    section = {
        "listeners": [
            {"name": "proxy", "listen": "127.0.0.1:0", "auth": "jwt", "issuers": ["cluster"]},
            {"name": "local", "listen": "127.0.0.1:0"},
        ],
        "issuers": [{**issuer, "jwks": {"file": str(folder / "jwks.json")}}],
        "limits": {
            "connections_per_caller": 3,
            "tunnels_per_caller": 1,
            "inflight_per_caller": 1,
            "rps_per_caller": 10,
            "body_bytes": 1000,
        },
        "timeouts": {"tunnel_idle": "2s"},
    }
    async with running(folder, RULES, section=section, bridge=False) as rig:
        yield rig


def token(namespace: str) -> str:
    return f"Proxy-Authorization: Bearer {AUTHORITY.service_account_token(audience='robin-gateway', namespace=namespace).decode()}"


async def get(rig: Rig, namespace: str, client: Client | None = None) -> tuple[int, dict[str, list[str]], bytes]:
    own = f"b.test:{rig.plain.port}"
    return await (client or await rig.client()).ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}", token(namespace))


async def check_refusal(rig: Rig, answer: tuple[int, dict[str, list[str]], bytes], status: int, code: str, limit: str) -> None:
    """The response, its records, the metric."""
    assert code_of(answer) == (status, code)
    assert answer[1]["retry-after"] == ["1"]
    request_id = json.loads(answer[2])["request_id"]
    decision = await rig.record("gateway.decision", id=request_id)
    assert (decision["verdict"], decision["code"], decision["why"]) == ("deny", code, limit)
    assert (await rig.record("gateway.close", id=request_id))["fault"] == code
    assert (await rig.metrics("robin_gateway_limit_hits_total"))[f'limit="{limit}"'] >= 1


async def test_a_caller_at_its_limit_of_tunnels_waits_until_one_is_idle_and_another_connects(rig: Rig) -> None:  # E49
    own = f"a.test:{rig.plain.port}"
    assert (await (await rig.client()).connect(own, token("t-x")))[0] == 200
    dials = rig.dials
    refused = await (await rig.client()).connect(own, token("t-x"))
    assert rig.dials == dials
    await check_refusal(rig, refused, 429, "limit_tunnels", "tunnels_per_caller")
    assert (await (await rig.client()).connect(own, token("t-y")))[0] == 200

    def idle() -> set[tuple[str, str]]:
        return {(one["caller"]["id"], one["fault"]) for one in rig.records if one.get("reason") == "idle"}

    await eventually(lambda: ("k8s:t-x/agent", "") in idle(), what="the idle tunnel")
    assert (await (await rig.client()).connect(own, token("t-x")))[0] == 200


async def test_a_caller_with_a_request_in_flight_waits_and_another_is_served(rig: Rig) -> None:  # E49
    rig.plain.gate, before = asyncio.Event(), len(rig.plain.requests)
    first = asyncio.ensure_future(get(rig, "f-x"))
    await eventually(lambda: len(rig.plain.requests) == before + 1)
    await check_refusal(rig, await get(rig, "f-x"), 503, "limit_inflight", "inflight_per_caller")
    assert len(rig.plain.requests) == before + 1
    other = asyncio.ensure_future(get(rig, "f-y"))
    await eventually(lambda: len(rig.plain.requests) == before + 2)
    rig.plain.gate.set()
    rig.plain.gate = None
    assert ((await first)[0], (await other)[0]) == (200, 200)
    assert (await get(rig, "f-x"))[0] == 200


async def test_one_connection_too_many_is_refused_and_ends_and_another_caller_is_served(rig: Rig) -> None:
    clients = [await rig.client() for _ in range(4)]
    assert [(await get(rig, "c-x", client))[0] for client in clients[:3]] == [200] * 3
    before = rig.plain.octets
    refused = await get(rig, "c-x", clients[3])
    assert (refused[1]["connection"], rig.plain.octets) == (["close"], before)
    await check_refusal(rig, refused, 503, "limit_connections", "connections_per_caller")
    assert await clients[3].rest() == b""
    assert (await get(rig, "c-y", clients[0]))[0] == 200  # the connection is one of c-y from now on
    assert (await get(rig, "c-x"))[0] == 200


async def test_a_caller_that_its_connection_names_is_refused_before_it_sends_anything(rig: Rig) -> None:
    host, _, port = rig.listeners[1].rpartition(":")
    clients = [Client(*await asyncio.open_connection(host, int(port))) for _ in range(4)]
    rig.clients += clients
    await check_refusal(rig, await clients[3].response(), 503, "limit_connections", "connections_per_caller")
    assert await clients[3].rest() == b""
    own = f"b.test:{rig.plain.port}"
    assert (await clients[0].ask(f"GET http://{own}/ HTTP/1.1", f"Host: {own}"))[0] == 200


async def test_requests_over_the_rate_of_a_caller_are_refused_and_another_is_served(rig: Rig) -> None:  # E49
    client, own, before = await rig.client(), f"b.test:{rig.plain.port}", len(rig.plain.requests)
    client.writer.write("".join([f"GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n{token('r-x')}\r\n\r\n"] * 60).encode())
    answers = [await client.response() for _ in range(60)]
    passed = [answer[0] == 200 for answer in answers]
    assert passed[:10] == [True] * 10
    assert not all(passed)
    assert len(rig.plain.requests) == before + sum(passed)
    await check_refusal(rig, next(answer for answer in answers if answer[0] != 200), 429, "limit_rate", "rps_per_caller")
    assert (await get(rig, "r-y"))[0] == 200


async def test_a_body_over_the_limit_is_refused_before_it_is_sent_or_cut_off_while_it_is(rig: Rig) -> None:
    own, before = f"b.test:{rig.plain.port}", len(rig.plain.requests)

    async def post(namespace: str, framing: str, body: bytes) -> tuple[int, dict[str, list[str]], bytes]:
        client = await rig.client()
        return await client.ask(f"POST http://{own}/ HTTP/1.1", f"Host: {own}", token(namespace), framing, body=body)

    assert (await post("b-x", "Content-Length: 1000", bytes(1000)))[0] == 200
    rig.plain.gate = asyncio.Event()
    for framing, body in (
        ("Content-Length: 1001", b""),
        ("Content-Length: 9223372036854775807", b""),
        ("Transfer-Encoding: chunked", b"3e8\r\n" + bytes(1000) + b"\r\n1\r\nx\r\n"),
    ):
        refused = await post(f"b-{len(body)}-{len(framing)}", framing, body)
        assert code_of(refused) == (413, "limit_body")
        assert refused[1]["connection"] == ["close"]
        request_id = json.loads(refused[2])["request_id"]
        assert (await rig.record("gateway.close", id=request_id))["fault"] == "limit_body"
        assert len(rig.plain.requests) <= before + 1 + ("chunked" in framing)
    rig.plain.gate.set()
    rig.plain.gate = None
    assert (await rig.metrics("robin_gateway_limit_hits_total"))['limit="limit_body"'] == 3
    assert (await get(rig, "b-x"))[0] == 200


async def test_a_caller_at_its_default_limits_does_not_take_every_connection_to_an_origin_that_others_use(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps(AUTHORITY.jwks()))
    issuer = {"name": "cluster", "kind": "kubernetes", "issuer": AUTHORITY.issuer, "audiences": ["robin-gateway"], "algorithms": ["ES256"]}
    section = {"issuers": [{**issuer, "jwks": {"file": str(tmp_path / "jwks.json")}}]}
    async with running(tmp_path, RULES, section=section, listener={"auth": "jwt", "issuers": ["cluster"]}, bridge=False) as rig:
        gate = rig.plain.gate = asyncio.Event()
        own, hostile = f"b.test:{rig.plain.port}", token("hostile")
        for _ in range(256):
            (await rig.client()).writer.write(f"GET http://{own}/ HTTP/1.1\r\nHost: {own}\r\n{hostile}\r\n\r\n".encode())
        await eventually(lambda: len(rig.plain.requests) == 256, what="all requests that the caller may have in flight")
        rig.plain.gate = None
        assert (await get(rig, "other"))[0] == 200
        gate.set()


async def test_a_caller_has_its_requests_of_a_second_and_one_that_paused_has_no_more() -> None:
    clock = ManualClock()
    limits = GatewayCallerLimits(CallerLimitSettings(connections=0, in_flight=0, requests_per_s=4), clock.monotonic)

    def allowed(caller: str) -> bool:
        record = ExchangeRecord(Caller(evidence=Evidence.JWT, listener="", id=caller), 0.0)
        record.method = "CONNECT"
        connection = _Connection()
        try:
            limits.enter(connection, HEAD, record)  # type: ignore[arg-type]
        except Fault as fault:
            return fault.code != "limit_rate"
        finally:
            limits.disconnect(connection)  # type: ignore[arg-type]
        return True

    assert [allowed("a") for _ in range(6)] == [True] * 4 + [False] * 2
    assert allowed("b")
    clock.advance(0.25)
    assert [allowed("a") for _ in range(2)] == [True, False]
    clock.advance(3600)
    assert [allowed("a") for _ in range(6)] == [True] * 4 + [False] * 2
    for number in range(10_000):
        clock.advance(0.01)
        allowed(f"caller-{number}")
    assert limits.remembered <= 102
    limits.use(CallerLimitSettings(connections=0, in_flight=0, requests_per_s=0), body_bytes=0)  # a reload
    assert all(allowed("a") for _ in range(50))


HEAD = parse_request(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", target_bytes=100, fields_max=10)


class _Connection:
    counted_for = ""
