"""Calls to issuers through the pool: what is sent, what comes back, and which reason each failure has."""

import asyncio
from pathlib import Path

import pytest
from tests.transport.test_http_client import calling, sending

from robin.app.issuer_client import PooledIssuerClient
from robin.identity.issuer import IssuerRequest, IssuerResponse, IssuerUnreachable
from robin.model.secret import Secret
from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.recording_upstream import RecordingUpstream, answer, response
from robin.testing.server import Script


async def send(script: Script, *, within_s: float = 5.0, ca_file: Path | None = None, path: str = "") -> tuple[IssuerResponse, bytes]:
    """One call: the response, and the request as the issuer received it."""
    async with calling(script) as (calls, plain):
        upstream: RecordingUpstream = plain
        request = IssuerRequest(
            method="POST",
            url=f"{'https' if ca_file else 'http'}://127.0.0.1:{upstream.port}{path}",
            fields=(("Authorization", Secret(b"Bearer t0ken")),),
            body=Secret(b"a=b"),
            ca_file=str(ca_file) if ca_file else None,
            limit_bytes=10,
        )
        got = await PooledIssuerClient(calls.client).send(request, asyncio.get_running_loop().time() + within_s)
        return got, upstream.requests[0].raw


async def test_a_call_carries_its_secrets_and_brings_the_whole_response():
    got, sent = await send(answer(response(400, b'{"e":1}', ("Vary", "a"), ("VARY", "b"))), path="/token?v=1")
    assert (got.status, got.body.reveal(), got.fields["vary"]) == (400, b'{"e":1}', "a, b")
    assert sent.startswith(b"POST /token?v=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t0ken\r\n" in sent
    assert sent.endswith(b"\r\n\r\na=b")
    assert (await send(answer()))[1].startswith(b"POST / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("octets", "ends", "reason", "answered"),
    [
        (b"", True, "closed", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx", True, "closed", True),
        (b"", False, "timeout", False),
        (b"nonsense\r\n\r\n", False, "protocol", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", False, "too_large", True),
    ],
)
async def test_each_failure_has_its_reason(octets: bytes, ends: bool, reason: str, answered: bool):
    with pytest.raises(IssuerUnreachable) as refused:
        await send(sending(octets, ends=ends), within_s=0.3 if reason == "timeout" else 5.0)
    assert (refused.value.reason, refused.value.answered) == (reason, answered)


async def greet(connection: ScriptedConnection) -> None:
    await connection.send(b"220 mail.example ESMTP\r\n")
    await connection.wait_ended()


async def test_an_issuer_that_speaks_no_tls_and_one_that_does_not_listen(tmp_path: Path):
    with pytest.raises(IssuerUnreachable, match="tls"):
        await send(greet, ca_file=CertificateAuthority(tmp_path).ca_file)
    async with calling(answer()) as (calls, upstream):
        await upstream.stop_listening()
        with pytest.raises(IssuerUnreachable, match="connect"):
            await PooledIssuerClient(calls.client).send(
                IssuerRequest(method="GET", url=upstream.url), asyncio.get_running_loop().time() + 5
            )


@pytest.mark.parametrize("url", ["ftp://issuer.test/", "https:///token", "https://user:pass@issuer.test/", "issuer.test"])
async def test_what_is_no_url_of_a_call_is_an_error(url: str):
    async with calling(answer()) as (calls, _):
        with pytest.raises(ValueError, match="http or https"):
            await PooledIssuerClient(calls.client).send(IssuerRequest(method="GET", url=url), 0.0)
