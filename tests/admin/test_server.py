"""The admin listener in the pod network: it answers probes, outlives hostile bytes, and keeps a place for the kubelet."""

import asyncio
import json
import random
import socket

import pytest

from robin.admin.readiness import Readiness
from robin.admin.server import CONNECTIONS
from robin.model.identity import IdentityState, IdentityStatus
from robin.testing.waiting import eventually

EXPIRED = IdentityStatus(source="file", state=IdentityState.EXPIRED, expires_in_s=-3.0, usable=False, reasons=("identity_expired",))


async def test_a_probe_gets_a_whole_response(stand):
    stand.start()
    status, fields, body = await stand.ask("/healthz")
    assert (status, body) == (200, b"ok\n")
    assert fields == {
        "date": "Thu, 28 May 2026 20:26:40 GMT",
        "content-type": "text/plain; charset=utf-8",
        "content-length": "3",
        "cache-control": "no-store",
        "connection": "keep-alive",
    }


async def test_probes_follow_the_state_of_the_moment_on_one_connection(stand):
    stand.start()
    connection = await stand.connect()
    assert (await connection.ask("/readyz"))[0] == 200
    stand.readiness = Readiness(started=True, draining=False, identities=(EXPIRED,))
    status, fields, body = await connection.ask("/readyz")
    assert (status, fields["content-type"], fields["cache-control"]) == (503, "application/json", "no-store")
    assert json.loads(body)["reasons"] == ["identity_expired"]
    assert (await connection.ask("/startupz"))[0] == 200
    assert (await connection.ask("/healthz"))[0] == 200


async def test_head_has_the_fields_of_get_and_no_body(stand):
    stand.start()
    connection = await stand.connect()
    _, get_fields, _ = await connection.ask("/metrics")
    _, head_fields, body = await connection.ask("/metrics", "HEAD")
    assert (head_fields, body) == (get_fields, b"")
    assert (await connection.ask("/healthz"))[0] == 200  # nothing of a body came between


async def test_405_says_what_is_allowed_and_the_connection_goes_on(stand):
    stand.start()
    connection = await stand.connect()
    status, fields, _ = await connection.ask("/readyz", "POST", "Content-Length: 0")
    assert (status, fields["allow"], fields["connection"]) == (405, "GET, HEAD", "keep-alive")
    assert (await connection.ask("/healthz"))[0] == 200


async def test_a_path_of_the_upstream_is_unknown_here(stand):
    stand.start()
    for path in ("/", "/v1/chat/completions", "http://127.0.0.1:4000/v1/models"):
        assert (await stand.ask(path))[0] == 404


async def test_ten_thousand_readiness_probes_ask_for_nothing(stand):
    stand.start()
    connection = await stand.connect()
    for _ in range(100):
        connection.send(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        for _ in range(100):
            assert (await connection.receive())[0] == 200
    assert stand.scraped == []


async def test_metrics_pass_accept_on(stand):
    stand.start()
    status, fields, body = await stand.ask("/metrics", "GET", "Accept: application/openmetrics-text")
    assert (status, fields["content-type"], body) == (200, "text/plain; version=0.0.4", b"robin_x_total 1\n")
    assert stand.scraped == ["application/openmetrics-text"]


SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_peers_that_scrape_at_the_same_time_share_one_text_and_the_next_one_is_new(stand):
    stand.start()
    peers = [await stand.connect() for _ in range(20)]
    for peer in peers:
        assert (await peer.ask("/healthz"))[0] == 200
    for number in (1, 2):
        stand.metrics_text = b"robin_x_total %d\n" % number
        for at, peer in enumerate(peers):  # all of it is in the kernel before the server has its turn
            peer.send(SCRAPE.replace(b"\r\n\r\n", b"\r\nAccept: text/plain;q=0.%d\r\n\r\n" % (at + 1)))
        assert {(await peer.receive())[2] for peer in peers} == {stand.metrics_text}
        assert len(stand.scraped) == number


async def test_pipelined_scrapes_leave_turns_to_others(stand):
    stand.start()
    connection = await stand.connect()
    connection.send(SCRAPE * 50)
    for _ in range(50):
        assert (await connection.receive())[0] == 200
    assert len(stand.scraped) == 50, "several were answered in one turn"


async def test_a_scrape_that_fails_is_a_500_and_is_logged_without_its_message(stand):
    stand.start()
    stand.broken = ValueError("canary")
    assert (await stand.ask("/metrics"))[0] == 500
    assert (await stand.ask("/healthz"))[0] == 200
    log = json.loads(await stand.close())
    assert (log["event"], log["code"]) == ("admin_failed", "ValueError")
    assert "canary" not in str(log)


async def test_quit_from_loopback_and_from_a_unix_socket(stand):
    stand.start()
    for unix in (False, True):
        assert (await stand.ask("/quitquitquit", "POST", "Content-Length: 0", unix=unix))[2] == b'{"status":"draining"}\n'
    assert stand.quits == 2


async def test_quit_over_ipv4_to_a_listener_on_every_interface_is_from_loopback(stand):
    stand.listen_everywhere()
    stand.start()
    assert (await stand.ask("/quitquitquit", "POST", "Content-Length: 0"))[0] == 200


async def test_quit_from_another_address_is_forbidden_though_probes_are_answered(stand):
    stand.listen_everywhere()
    stand.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        try:
            finder.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address would be ours
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = finder.getsockname()[0]
    connection = await stand.connect(host=own)
    assert (await connection.ask("/healthz"))[0] == 200
    assert (await connection.ask("/quitquitquit", "POST", "Content-Length: 0"))[0] == 403
    assert stand.quits == 0


async def test_quit_that_is_not_enabled_is_unknown(stand):
    stand.start(may_quit=False)
    assert (await stand.ask("/quitquitquit", "POST", "Content-Length: 0"))[0] == 404


async def test_a_small_body_is_passed_over_and_a_large_or_chunked_one_ends_the_connection(stand):
    stand.start()
    connection = await stand.connect()
    connection.send(
        b"POST /quitquitquit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert [(await connection.receive())[0] for _ in range(2)] == [200, 200]
    for framing in ("Content-Length: 100000", "Transfer-Encoding: chunked"):
        connection = await stand.connect()
        status, fields, _ = await connection.ask("/metrics", "POST", framing)
        assert (status, fields["connection"]) == (405, "close")
        assert await connection.rest() == b""


async def test_connection_close_and_http_1_0_end_after_the_answer(stand):
    stand.start()
    for raw in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n"):
        connection = await stand.connect()
        connection.send(raw)
        assert (await connection.receive())[1]["connection"] == "close"
        assert await connection.rest() == b""


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET  /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /health\xffz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 canary \r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 405),
        (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 8300 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 200_000, 431),
    ],
)
async def test_a_bad_head_is_refused_without_an_echo_and_closed(stand, raw, status):
    stand.start()
    connection = await stand.connect()
    connection.send(raw)
    connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    told, fields, body = await connection.receive()
    assert (told, fields["connection"]) == (status, "close")
    assert b"canary" not in body
    assert await connection.rest() == b""
    assert (await stand.ask("/healthz"))[0] == 200
    assert await stand.close() == ""


async def test_pipelined_requests_are_answered_in_order_and_a_bad_one_ends_them(stand):
    stand.start()
    connection = await stand.connect()
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.send(good + b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /no HTTP/1.1\r\nHost: x\r\n\r\n" + b"nonsense\r\n\r\n" + good)
    assert [(await connection.receive())[0] for _ in range(4)] == [200, 200, 404, 400]
    assert await connection.rest() == b""


async def test_a_request_byte_by_byte_is_answered(stand):
    stand.start()
    connection = await stand.connect()
    connection.writer.transport.set_write_buffer_limits(0)
    for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
        connection.send(bytes([byte]))
        await connection.writer.drain()
    assert (await connection.receive())[0] == 200


async def test_a_slow_head_an_idle_and_a_silent_connection_are_ended(stand):
    stand.start(wait_s=0.1)
    silent, slow, idle = [await stand.connect() for _ in range(3)]
    slow.send(b"GET /healthz HT")
    assert (await idle.ask("/healthz"))[0] == 200
    for connection in (silent, slow, idle):
        assert await connection.rest() == b""


async def test_a_body_that_does_not_come_is_not_waited_for_long(stand):
    stand.start(wait_s=0.1)
    connection = await stand.connect()
    connection.send(b"POST /quitquitquit HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
    assert await connection.rest() == b""
    assert stand.quits == 0


async def test_a_reader_that_never_reads_is_ended(stand):
    stand.start(wait_s=0.2)
    stand.metrics_text = b"x" * 20_000_000
    connection = await stand.connect()
    connection.writer.transport.pause_reading()
    connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
    assert stand.server is not None
    await eventually(lambda: stand.scraped, what="the scrape")
    await eventually(lambda: len(stand.server._open) == 0, what="the connection to be ended")
    assert len(stand.scraped) == 1  # no second answer was made while the first was not taken


async def test_idle_strangers_cannot_keep_a_probe_out(stand):
    stand.start()
    strangers = [await stand.connect() for _ in range(CONNECTIONS)]
    await eventually(lambda: len(stand.server._open) == CONNECTIONS, what="every place to be taken")
    assert (await stand.ask("/healthz"))[0] == 200
    assert await strangers[0].rest() == b""  # the oldest left
    assert (await strangers[1].ask("/healthz"))[0] == 200  # the others stayed
    for _ in range(3 * CONNECTIONS):
        assert (await stand.ask("/healthz"))[0] == 200
        assert len(stand.server._open) <= CONNECTIONS
    assert await stand.close() == ""


async def test_peers_that_reset_leave_nothing_behind(stand):
    stand.start()
    for number in range(100):
        connection = await stand.connect()
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[: number % 36])
        connection.writer.transport.abort()
    await eventually(lambda: len(stand.server._open) == 0, what="the connections to end")
    assert (await stand.ask("/healthz"))[0] == 200
    assert await stand.close() == ""


async def test_seeded_garbage_is_answered_or_closed_and_never_logged(stand):
    stand.start()
    chance = random.Random(4001)
    seeds = [
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nAccept: a\r\n\r\n",
        b"POST /quitquitquit HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    ]
    for _ in range(300):
        raw = bytearray(chance.choice(seeds) * chance.randint(1, 3))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(raw))
            raw[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        connection = await stand.connect()
        connection.send(bytes(raw))
        connection.writer.write_eof()
        async with asyncio.timeout(30):
            answered = await connection.rest()
        assert answered == b"" or answered.startswith(b"HTTP/1.1 ")
    assert (await stand.ask("/healthz"))[0] == 200
    assert await stand.close() == ""


async def test_close_ends_open_connections_and_leaves_the_sockets_to_their_owner(stand):
    server = stand.start()
    connection = await stand.connect()
    assert (await connection.ask("/healthz"))[0] == 200
    await server.close()
    assert await connection.rest() == b""
    assert stand.bounds[0].sock.fileno() >= 0
    assert len(server._open) == 0
