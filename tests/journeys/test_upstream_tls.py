"""TLS towards the upstream: what is refused and why, and a CA bundle that changes while connections live (J1, K5)."""

import asyncio
import contextlib
import json
import signal
import socket
import ssl
from pathlib import Path

import pytest
from tests.corpus.judge import check_problem
from tests.corpus.rig import Rig, unsigned_token
from tests.journeys.life import GET, exchanges, metric, serving

from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually


async def outcome_of(folder: Path, context: ssl.SSLContext, ca_file: Path, host: str = "127.0.0.1") -> tuple[str, str]:
    """The code, and its reason word, of one request to an upstream that shows `context`; served is ("forwarded", "")."""
    async with RecordingUpstream(tls=context) as upstream:
        settings = {"ROBIN_UPSTREAM_CA_FILE": str(ca_file)}
        async with serving(folder, upstream=upstream, url=upstream.url_as(host), settings=settings) as rig:
            answer = await rig.ask(GET)
            await eventually(lambda: exchanges(rig), what="its record")
            code = exchanges(rig)[0]["outcome"]
            if code != "forwarded":
                check_problem(answer, code)
                assert rig.bytes_seen == 0
                assert await metric(rig.robin, "robin_upstream_connect_duration_seconds_count", result=code) == 1
            return code, "" if code == "forwarded" else json.loads(answer.body)["detail"].partition(":")[0]


async def test_j1_a_good_certificate_is_served_by_name_and_by_address(tmp_path: Path, certificates: CertificateAuthority):
    context = certificates.issue("localhost", "127.0.0.1").server_context()
    for host in ("localhost", "127.0.0.1"):
        assert await outcome_of(tmp_path, context, certificates.ca_file, host) == ("forwarded", "")


@pytest.mark.parametrize(
    ("names", "starts_in_s", "ends_in_s", "word"),
    [
        (("127.0.0.1",), -3600, -1, "expired"),
        (("127.0.0.1",), 600, 3600, "not_yet_valid"),
        (("broker.example",), -3600, 3600, "name_mismatch"),
        (("127.0.0.2",), -3600, 3600, "name_mismatch"),
        (("*.0.0.1",), -3600, 3600, "name_mismatch"),
    ],
)
async def test_j1_a_wrong_certificate_is_502_with_the_reason(
    tmp_path: Path, certificates: CertificateAuthority, names: tuple[str, ...], starts_in_s: float, ends_in_s: float, word: str
):
    leaf = certificates.issue(*names, starts_in_s=starts_in_s, ends_in_s=ends_in_s)
    assert await outcome_of(tmp_path, leaf.server_context(), certificates.ca_file) == ("upstream_certificate", word)


async def test_j1_an_unknown_ca_is_502_with_the_reason(tmp_path: Path, certificates: CertificateAuthority):
    stranger = CertificateAuthority(tmp_path / "stranger", name="Stranger CA")
    context = stranger.issue("127.0.0.1").server_context()
    assert await outcome_of(tmp_path, context, certificates.ca_file) == ("upstream_certificate", "unknown_ca")


async def test_j1_tls_1_1_is_502_with_the_reason(tmp_path: Path, certificates: CertificateAuthority):
    old = certificates.issue("127.0.0.1").server_context(minimum=ssl.TLSVersion.TLSv1_1, maximum=ssl.TLSVersion.TLSv1_1)
    assert await outcome_of(tmp_path, old, certificates.ca_file) == ("upstream_tls", "alert")


async def test_j1_tls_1_2_is_served(tmp_path: Path, certificates: CertificateAuthority):
    context = certificates.issue("127.0.0.1").server_context(maximum=ssl.TLSVersion.TLSv1_2)
    assert await outcome_of(tmp_path, context, certificates.ca_file) == ("forwarded", "")


async def test_j1_an_upstream_that_speaks_no_tls_is_502(tmp_path: Path, certificates: CertificateAuthority):
    async def plain(connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await connection.wait_ended()

    async with RecordingUpstream(plain) as upstream:
        settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
        url = upstream.url.replace("http:", "https:")
        async with serving(tmp_path, upstream=upstream, url=url, settings=settings) as rig:
            upstream.script = plain
            check_problem(await rig.ask(GET), "upstream_tls", "alert")
            assert rig.token not in upstream.connections[0].received


async def test_j1_a_new_ca_bundle_is_used_within_seconds_and_retires_old_connections(tmp_path: Path):
    first, second = (CertificateAuthority(tmp_path / name, name=name) for name in ("first", "second"))
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(first.ca_pem)
    settings = {"ROBIN_UPSTREAM_CA_FILE": str(bundle), "ROBIN_UPSTREAM_IDLE_TIMEOUT": "1h"}
    async with (
        RecordingUpstream(tls=first.issue("127.0.0.1").server_context()) as upstream,
        serving(tmp_path, upstream=upstream, settings=settings) as rig,
    ):
        for _ in range(2):
            assert (await rig.ask(GET)).status == 200
        assert len(upstream.connections) == 1, "kept and reused within one generation"
        bundle.write_bytes(first.ca_pem + second.ca_pem)
        await rig.robin.event("upstream_ca_reloaded")
        await eventually(lambda: upstream.connections[0].ended, what="the idle connection to be retired")
        assert await metric(rig.robin, "robin_upstream_ca_reloads_total", result="loaded") == 1
        assert (await rig.ask(GET)).status == 200
        assert len(upstream.connections) == 2
        bundle.write_bytes(second.ca_pem)
        await rig.robin.event("upstream_ca_reloaded", after=1)
        check_problem(await rig.ask(GET), "upstream_certificate", "unknown_ca")


async def test_j1_a_connection_in_use_ends_with_its_exchange_when_the_roots_change(tmp_path: Path, certificates: CertificateAuthority):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(certificates.ca_pem)
    settings = {"ROBIN_UPSTREAM_CA_FILE": str(bundle), "ROBIN_UPSTREAM_IDLE_TIMEOUT": "1h"}
    async with (
        RecordingUpstream(tls=certificates.issue("127.0.0.1").server_context()) as upstream,
        serving(tmp_path, upstream=upstream, settings=settings) as rig,
    ):

        async def reload_within(connection, _request) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npo")
            rig.robin.send_signal(signal.SIGHUP)
            await rig.robin.event("upstream_ca_reloaded")
            await connection.send(b"ng")

        rig.reply = reload_within
        answer = await rig.ask(GET)
        assert (answer.status, answer.body, answer.whole) == (200, b"pong", True)
        await eventually(lambda: upstream.connections[0].ended, what="the old connection to end after its exchange")


async def test_k5_sighup_with_a_broken_ca_keeps_the_old_logs_and_counts(tmp_path: Path, certificates: CertificateAuthority):
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(certificates.ca_pem)
    async with (
        RecordingUpstream(tls=certificates.issue("127.0.0.1").server_context()) as upstream,
        serving(tmp_path, upstream=upstream, settings={"ROBIN_UPSTREAM_CA_FILE": str(bundle)}) as rig,
    ):
        assert (await rig.ask(GET)).status == 200
        failures = 0.0
        for number, broken in enumerate((b"-----BEGIN CERTIFICATE-----\nnonsense", b"\xff\xfe", b"", None)):
            if broken is None:
                bundle.unlink()
            else:
                bundle.write_bytes(broken)
            rig.robin.send_signal(signal.SIGHUP)
            await rig.robin.event("reload", after=number)
            before = failures
            failures = await eventually(lambda before=before: _failures(rig, before), what="the failed reload to be counted")
            assert (await rig.ask(GET)).status == 200
        assert not [event for event in rig.robin.events if event["event"] == "upstream_ca_reloaded"]
        for event in rig.robin.events:
            if event["event"] == "upstream_ca_failed":
                assert event["level"] == "error"
                assert event["detail"].startswith("ROBIN_UPSTREAM_CA_FILE ")
        bundle.write_bytes(certificates.ca_pem)
        await rig.robin.event("upstream_ca_reloaded")
        assert (await rig.ask(GET)).status == 200


async def _failures(rig: Rig, before: float) -> float:
    """The count, once it has grown; 0 until then."""
    count = await metric(rig.robin, "robin_upstream_ca_reloads_total", result="failed")
    return count if count > before else 0


async def test_sighup_rereads_the_token_at_once(tmp_path: Path):
    async with serving(tmp_path) as rig:
        assert (await rig.ask(GET)).status == 200
        old = rig.token
        rig.token_file.write_bytes(unsigned_token())
        rig.robin.send_signal(signal.SIGHUP)
        await rig.robin.event("reload")
        assert (await rig.ask(GET)).status == 200
        assert rig.seen[0][1].values(b"authorization") == [b"Bearer " + old]
        assert rig.seen[1][1].values(b"authorization") == [b"Bearer " + rig.token]


async def test_j1_a_hundred_exchanges_over_tls_share_one_connection(tmp_path: Path, certificates: CertificateAuthority):
    """With a write buffer of size 0 uvloop's TLS took an empty one for a full one, and one connection in twelve was thrown away."""
    settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
    async with (
        RecordingUpstream(tls=certificates.issue("127.0.0.1").server_context()) as upstream,
        serving(tmp_path, upstream=upstream, settings=settings) as rig,
    ):
        caller = await rig.caller()
        for size in range(100):
            caller.send(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            assert (await caller.answer(b"POST")).status == 200
        assert len(upstream.connections) == 1


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_j1_a_large_body_over_tls_arrives_whole_though_the_upstream_reads_late(
    tmp_path: Path, certificates: CertificateAuthority, maximum: ssl.TLSVersion
):
    context = certificates.issue("127.0.0.1").server_context(maximum=maximum)
    settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file), "ROBIN_STREAM_IDLE_TIMEOUT": "5s"}
    body = bytes(range(256)) * 64 * 1024  # 16 MiB
    read_now = asyncio.Event()

    async def late(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await read_now.wait()
        assert await connection.read_exactly(len(body)) == body
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")

    async with RecordingUpstream(tls=context) as upstream, serving(tmp_path, upstream=upstream, settings=settings) as rig:
        upstream.script = late
        caller = await rig.caller()
        caller.send(b"PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        origin = await upstream.connection(0)
        await eventually(lambda: origin.received_count > 200_000, what="the upstream's own window to fill")
        read_now.set()
        assert (await caller.answer(b"PUT")).status == 200


@pytest.mark.parametrize("notified", [True, False])
async def test_e3_a_close_delimited_answer_over_tls_is_whole_only_with_close_notify(
    tmp_path: Path, certificates: CertificateAuthority, notified: bool
):
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
        if notified:
            return
        connection.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)  # a FIN below TLS, as an attacker on the path can send
        await connection.wait_ended()

    async with RecordingUpstream(tls=certificates.issue("127.0.0.1").server_context()) as upstream:
        settings = {"ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
        async with serving(tmp_path, upstream=upstream, url=upstream.url_as("127.0.0.1"), settings=settings) as rig:
            rig.upstream.script = script
            reader, writer = await asyncio.open_connection(*rig.address)
            writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            seen = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := await reader.read(4096):
                    seen += piece
            writer.close()
            assert seen.endswith(b"0\r\n\r\n") is notified
            await eventually(lambda: exchanges(rig), what="its record")
            assert exchanges(rig)[0]["outcome"] == ("forwarded" if notified else "upstream_aborted")
