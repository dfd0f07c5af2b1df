"""The client for calls of our own: every framing, one deadline, one limit, reuse and its one retry, and what hostile servers send."""

import asyncio
import contextlib
import http.server
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.transport.test_dial import dialer

from robin.model.faults import Fault
from robin.model.limits import Deadlines, Limits
from robin.model.route import TlsProfile
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.policy.control import permit_control
from robin.telemetry.metrics import Metrics
from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.server import Script
from robin.testing.waiting import eventually
from robin.transport.deadlines import Sweeper
from robin.transport.http_client import HttpClient
from robin.transport.pool import Pool
from robin.wire.http_call import HttpResponse

OK = b"HTTP/1.1 200 OK\r\n"


class Calls:
    """A client on a pool of its own, and the place that it calls."""

    def __init__(self, permit: Permit) -> None:
        loop = asyncio.get_running_loop()
        self.permit = permit
        self.metrics = Metrics(version="0", unsafe={})
        self.pool = Pool(
            loop, dialer=dialer("127.0.0.1"), sweeper=Sweeper(loop), limits=Limits(), deadlines=Deadlines(), metrics=self.metrics
        )
        self.client = HttpClient(self.pool)

    async def __call__(
        self,
        method: str = "GET",
        target: str = "/",
        *,
        limit_bytes: int = 1000,
        within_s: float = 5.0,
        body: bytes | Secret = b"",
        repeatable: bool = False,
    ) -> HttpResponse:
        deadline_at = asyncio.get_running_loop().time() + within_s
        fields = [("X-Call", "1")]
        return await self.client.request(
            self.permit, method, target, fields, body, limit_bytes=limit_bytes, deadline_at=deadline_at, repeatable=repeatable
        )

    @property
    def kept(self) -> int:
        """Connections that are idle; none may be in use."""
        assert self.metrics.upstream_active == 0
        assert self.pool.open_count == self.metrics.upstream_idle
        return self.metrics.upstream_idle


@contextlib.asynccontextmanager
async def calling(script: Script, certificates: CertificateAuthority | None = None) -> AsyncIterator[tuple[Calls, RecordingUpstream]]:
    async with RecordingUpstream(script, tls=certificates and certificates.issue("broker.test").server_context()) as upstream:
        if certificates is None:
            calls = Calls(permit_control(scheme="http", host="127.0.0.1", port=upstream.port))
        else:
            profile = TlsProfile(ca_file=str(certificates.ca_file))
            calls = Calls(permit_control(scheme="https", host="broker.test", port=upstream.port, tls=profile))
        try:
            yield calls, upstream
        finally:
            calls.pool.begin_closing()
            await asyncio.sleep(0)


def sending(*pieces: bytes, ends: bool = False) -> Script:
    """Answer each request with these bytes; then close, or keep the connection open."""

    async def script(connection: ScriptedConnection) -> None:
        while True:
            await connection.read_request()
            await connection.send(*pieces)
            if ends:
                return

    return script


@pytest.mark.parametrize("secured", [False, True], ids=["tcp", "tls"])
async def test_a_request_says_what_it_must_and_connections_are_reused(certificates: CertificateAuthority, secured: bool):
    script = answer(response(201, b"made", ("Content-Type", "text/plain"), ("X-Twice", "a"), ("x-twice", "b")))
    async with calling(script, certificates if secured else None) as (calls, upstream):
        for _ in range(3):
            made = await calls("POST", "/token?x=1", body=Secret(b"grant=1"))
            assert (made.status, made.body, made.values("x-twice")) == (201, b"made", ["a", "b"])
        host = f"{'broker.test' if secured else '127.0.0.1'}:{upstream.port}".encode()
        sent = b"POST /token?x=1 HTTP/1.1\r\nHost: %b\r\nAccept-Encoding: identity\r\nX-Call: 1\r\nContent-Length: 7\r\n\r\ngrant=1"
        assert [request.raw for request in upstream.requests] == [sent % host] * 3
        assert (len(upstream.connections), calls.kept) == (1, 1)


@pytest.mark.parametrize(
    ("method", "octets", "ends", "status", "body", "kept"),
    [
        ("GET", OK + b"Content-Length: 2\r\n\r\nok", False, 200, b"ok", 1),
        ("GET", OK + b"Content-Length: 0\r\n\r\n", False, 200, b"", 1),
        ("GET", OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n", False, 200, b"ok", 1),
        ("GET", OK + b"\r\nok", True, 200, b"ok", 0),
        ("GET", b"HTTP/1.0 200 OK\r\n\r\nok", True, 200, b"ok", 0),
        ("GET", OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", False, 200, b"ok", 0),
        ("HEAD", OK + b"Content-Length: 99\r\n\r\n", False, 200, b"", 1),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", False, 204, b"", 1),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", False, 304, b"", 1),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok", False, 200, b"ok", 1),
        ("GET", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", False, 307, b"", 1),
        ("GET", OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 5\r\n\r\nstray", False, 200, b"ok", 0),
        ("HEAD", OK + b"Content-Length: 2\r\n\r\nok", False, 200, b"", 0),
    ],
    ids="length empty chunked close 1.0 said-close head 204 304 interim redirect stray head-with-body".split(),
)
@pytest.mark.parametrize("split", [False, True], ids=["at-once", "byte-by-byte"])
async def test_each_framing_is_read_to_its_end_and_only_a_clean_connection_is_kept(
    method: str, octets: bytes, ends: bool, status: int, body: bytes, kept: int, split: bool
):
    stray = b"stray" in octets or (method == "HEAD" and octets.endswith(b"ok"))
    pieces = [octets] if not split or stray else [octets[at : at + 1] for at in range(len(octets))]
    async with calling(sending(*pieces, ends=ends)) as (calls, upstream):
        got = await calls(method)
        assert (got.status, got.body) == (status, body)
        assert got.values("location") == (["/y"] if status == 307 else [])
        assert (calls.kept, len(upstream.requests)) == (kept, 1)


@pytest.mark.parametrize(
    ("octets", "ends", "code", "reason"),
    [
        (b"220 mail.example ESMTP\r\n\r\n", False, "upstream_protocol", "bad_response"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", False, "upstream_protocol", "bad_response"),
        (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", False, "upstream_protocol", "bad_response"),
        (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False, "upstream_protocol", "bad_response"),
        (OK + b"Content-Length: -1\r\n\r\n", False, "upstream_protocol", "bad_response"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", False, "upstream_protocol", "bad_response"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", False, "upstream_protocol", "bad_response"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", False, "upstream_protocol", "bad_response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 17, False, "upstream_protocol", "bad_response"),
        (OK + b"X: " + b"x" * 66000, False, "upstream_protocol", "bad_response"),
        (OK + b"X: y\r\n" * 201 + b"\r\n", False, "upstream_protocol", "bad_response"),
        (OK + b"Content-Length: 1001\r\n\r\n", False, "upstream_protocol", "response_too_large"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, False, "upstream_protocol", "response_too_large"),
        (OK + b"\r\n" + b"x" * 1001, False, "upstream_protocol", "response_too_large"),
        (OK + b"Content-Length: 5\r\n\r\nhalf", True, "upstream_closed", "cut"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", True, "upstream_closed", "cut"),
        (OK + b"Content-", True, "upstream_closed", "cut"),
        (b"", True, "upstream_closed", "upstream_closed"),
        (OK + b"Content-Length: 5\r\n\r\nhalf", False, "response_timeout", "response_timeout"),
        (b"", False, "response_timeout", "response_timeout"),
    ],
)
async def test_a_response_that_is_not_whole_and_clean_is_a_fault_and_its_connection_is_closed(
    octets: bytes, ends: bool, code: str, reason: str
):
    async with calling(sending(octets, ends=ends)) as (calls, upstream):
        with pytest.raises(Fault) as refused:
            await calls(within_s=0.3 if code == "response_timeout" else 5.0)
        assert (refused.value.code, refused.value.detail.partition(":")[0]) == (code, reason)
        assert (calls.kept, len(upstream.connections)) == (0, 1)
        await eventually(lambda: upstream.connections[0].ended, what="the connection to be closed")


async def test_a_cleartext_reset_is_no_end_of_a_response():
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK + b"\r\nnot all")
        await gate.wait()
        await connection.reset()

    gate = asyncio.Event()
    async with calling(script) as (calls, upstream):
        call = asyncio.ensure_future(calls())
        await eventually(lambda: upstream.connections and upstream.connections[0].sent_count, what="the response to begin")
        gate.set()
        with pytest.raises(Fault, match="cut"):
            await call


async def test_a_response_that_drips_ends_at_the_deadline_whatever_arrived_last():
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(OK + b"Content-Length: 1000\r\n\r\n")
        while connection.ended is None:
            await connection.send(b"x")
            await asyncio.sleep(0.01)

    loop = asyncio.get_running_loop()
    async with calling(script) as (calls, _):
        began = loop.time()
        with pytest.raises(Fault, match="response_timeout"):
            await calls(within_s=0.3)
        assert 0.29 < loop.time() - began < 2
        assert calls.kept == 0


AGAIN = [("GET", False, 2), ("PUT", False, 2), ("DELETE", False, 2), ("POST", False, 1), ("PATCH", False, 1), ("POST", True, 2)]


@pytest.mark.parametrize(("method", "repeatable", "attempts"), AGAIN)
async def test_only_a_request_that_may_be_repeated_is_sent_again_when_a_reused_connection_was_closed(
    method: str, repeatable: bool, attempts: int
):
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_request()
        await connection.send(response(200, b"ok"))
        await connection.read_request()  # the second one on this connection is not answered

    async with calling(script) as (calls, upstream):
        assert (await calls()).status == 200
        if attempts == 2:
            assert (await calls(method, repeatable=repeatable)).status == 200
        else:
            with pytest.raises(Fault, match="upstream_closed"):
                await calls(method)
        assert len(upstream.requests) == 1 + attempts
        assert len(upstream.connections) == attempts


async def test_a_new_connection_that_closes_is_no_reason_to_try_again():
    async with calling(sending(b"", ends=True)) as (calls, upstream):
        with pytest.raises(Fault, match="upstream_closed"):
            await calls()
        assert len(upstream.connections) == 1


async def test_a_server_may_answer_before_it_has_read_a_large_body():
    async def script(connection: ScriptedConnection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(response(413, b"no"))
        await asyncio.Event().wait()  # until the server closes: the body is never read

    async with calling(script) as (calls, _):
        got = await calls("POST", body=bytes(8 << 20))
        assert (got.status, calls.kept) == (413, 0)


async def test_a_caller_that_leaves_leaves_nothing_behind():
    async with calling(sending(OK + b"Content-Length: 5\r\n\r\nhalf")) as (calls, upstream):
        for turns in range(1, 30):
            call = asyncio.ensure_future(calls())
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert calls.kept == 0
        await eventually(lambda: all(one.ended for one in upstream.connections), what="every connection to be closed")


def post(**changed: object) -> Callable[[HttpClient, Permit], object]:
    arguments = {"method": "POST", "target": "/", "fields": (), "body": b"", **changed}
    return lambda client, permit: client.request(permit, **arguments, limit_bytes=1, deadline_at=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET /x HTTP/1.1\r\nX:"},
        {"target": "http://elsewhere/"},
        {"target": "/a b"},
        {"target": "/é"},
        {"fields": [("X", "a\r\nY: b")]},
        {"fields": [("X", Secret(b"a\nb"))]},
        {"fields": [("X Y", "a")]},
        {"fields": [("Host", "elsewhere")]},
        {"fields": [("transfer-encoding", "chunked")]},
    ],
)
async def test_what_cannot_be_one_request_is_not_sent(changed: dict[str, object]):
    async with calling(answer()) as (calls, upstream):
        with pytest.raises(ValueError, match=r"valid|codec"):
            await post(**changed)(calls.client, calls.permit)  # type: ignore[misc]
        assert upstream.connections == []


async def test_a_response_does_not_show_what_the_peer_sent():
    async with calling(answer(response(200, b"t0ken", ("Set-Cookie", "s3cret")))) as (calls, _):
        assert repr(await calls()) == "HttpResponse(status=200)"


@contextlib.contextmanager
def python_server(folder: Path, protocol: str) -> Iterator[int]:
    """Python's own server of files, which speaks HTTP/1.0 unless set to 1.1."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = protocol

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("protocol", "kept"), [("HTTP/1.0", 0), ("HTTP/1.1", 1)])
async def test_it_speaks_with_pythons_own_server(tmp_path: Path, protocol: str, kept: int):
    (tmp_path / "jwks.json").write_bytes(b'{"keys": []}')
    with python_server(tmp_path, protocol) as port:
        calls = Calls(permit_control(scheme="http", host="127.0.0.1", port=port))
        for _ in range(2):
            got = await calls("GET", "/jwks.json")
            assert (got.status, got.body, got.values("content-type")) == (200, b'{"keys": []}', ["application/json"])
            assert calls.kept == kept
        assert (await calls("HEAD", "/jwks.json")).body == b""
        assert (await calls("GET", "/none")).status == 404
        calls.pool.begin_closing()
