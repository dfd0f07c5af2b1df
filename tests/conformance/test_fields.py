"""Items C1-C9 of the sidecar spec at socket level: loops, two Robins in a row, names on the wire, proxies in the environment, traces."""

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.corpus.judge import SENTINEL, VIA, check_problem
from tests.corpus.rig import Rig, running, unsigned_token

from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"


async def own_pseudonym(rig: Rig) -> bytes:
    assert (await rig.ask(GET + b"\r\n")).status == 200
    (via,) = rig.seen[-1][1].values(b"via")
    assert VIA.match(via)
    return via.split(b" ")[1]


@pytest.mark.parametrize("form", [b"1.1 %b", b"1.0 fred, 1.1 %b", b"1.1 %b, 1.1 p", b"1.1 p,1.1 %b ,1.0 q", b"2 %b (comment)"])
async def test_c4_own_pseudonym_in_via_is_a_loop(rig: Rig, form: bytes) -> None:
    name = await own_pseudonym(rig)
    before = rig.bytes_seen
    check_problem(await rig.ask(GET + b"Via: " + form % name + b"\r\n\r\n"), "loop")
    check_problem(await rig.ask(GET + b"Via: 1.1 a\r\nvia: " + form % name + b"\r\n\r\n"), "loop")
    assert rig.bytes_seen == before


async def test_c6_host_and_sni_at_the_upstream_are_those_of_the_url(tmp_path: Path, certificates: CertificateAuthority) -> None:
    context = certificates.issue("localhost").server_context()
    names: list[str | None] = []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        names.append(name)

    context.set_servername_callback(note)  # type: ignore[arg-type]
    token_file = tmp_path / "token"
    token_file.write_bytes(unsigned_token())
    async with RecordingUpstream(answer(response(200, b"pong")), tls=context) as upstream:
        settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
        async with SidecarProcess(upstream_url=upstream.url_as("localhost"), settings=settings) as robin:
            await robin.started()
            reader, writer = await asyncio.open_connection("127.0.0.1", int(robin.listen[0].rpartition(":")[2]))
            head = b"GET http://127.0.0.1/x HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: a\r\nForwarded: host=b\r\n"
            writer.write(head + b"Connection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
        (request,) = upstream.requests
    assert request.values(b"host") == [b"localhost:%d" % upstream.port]
    assert request.values(b"x-forwarded-host") == request.values(b"forwarded") == []
    assert names == ["localhost"]


async def test_c8_no_cookie_is_kept_and_no_proxy_variable_is_obeyed(tmp_path: Path) -> None:
    async def baking(connection: ScriptedConnection, request: ReceivedRequest) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nContent-Length: 0\r\n\r\n")

    async with RecordingUpstream(answer(response())) as canary:
        variables = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), canary.url)
        async with running(tmp_path, settings=variables) as rig:
            with rig.replying(baking):
                for _ in range(3):
                    assert (await rig.ask(GET + b"\r\n")).values(b"set-cookie") == [b"a=1; Path=/"]
                    assert rig.seen[-1][1].values(b"cookie") == []
        assert canary.connections == []


async def test_c9_the_trace_id_is_in_the_record_and_the_field_at_the_upstream(rig: Rig) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    parent = f"00-{trace}-b7ad6b7169203331-01".encode()
    assert (await rig.ask(GET + b"traceparent: " + parent + b"\r\n\r\n")).status == 200
    assert rig.seen[-1][1].values(b"traceparent") == [parent]

    def recorded() -> bool:
        return any(entry.get("trace_id") == trace for entry in rig.robin.events)

    await eventually(recorded, what="the record with the trace id")


BAD_PARENTS = (
    b"garbage",
    b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00",
    b"00-XYZ-1-01",
    b"ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
)


@pytest.mark.parametrize("parent", BAD_PARENTS)
async def test_c9_a_malformed_traceparent_is_carried_but_never_recorded_as_a_trace(rig: Rig, parent: bytes) -> None:
    before = len([entry for entry in rig.robin.events if entry.get("event") == "exchange"])
    assert (await rig.ask(GET + b"traceparent: " + parent + b"\r\n\r\n")).status == 200
    assert rig.seen[-1][1].values(b"traceparent") == [parent]
    entry = await rig.robin.event("exchange", after=before)
    assert entry["trace_id"] is None


async def test_c1_te_trailers_alone_stays_of_te(rig: Rig) -> None:
    assert (await rig.ask(GET + b"TE: deflate;q=0.5, TRAILERS\r\n\r\n")).status == 200
    assert [value.lower() for value in rig.seen[-1][1].values(b"te")] == [b"trailers"]
    assert (await rig.ask(SENTINEL)).status == 200
