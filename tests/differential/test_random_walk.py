"""A seeded walk of mixed exchanges through the real process: what the caller sent is what the upstream saw, and the other way round.

Invariant: whatever the method, the framing, the sizes and the cuts on either side, each exchange on a kept connection is whole, in step and
ends; nothing of one exchange is ever seen in another.
"""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.corpus.rig import Caller, Rig, running, unsigned_token

from robin.testing.certificates import CertificateAuthority
from robin.testing.connection import ScriptedConnection
from robin.testing.message import ReceivedRequest
from robin.testing.process import SidecarProcess
from robin.testing.recording_upstream import RecordingUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZES = (0, 0, 1, 100, 4096, 16_000, 65_536, 200_000, 300_000)
WALKERS, STEPS = 6, 150


def body_of(name: bytes, size: int) -> bytes:
    """Bytes that belong to this exchange alone."""
    seed = hashlib.sha256(name).digest()
    return (seed * (size // 32 + 1))[:size]


def framed(body: bytes, framing: str, draw: random.Random) -> tuple[bytes, bytes]:
    """The framing line, and the body as it goes on the wire."""
    if framing == "length":
        return b"Content-Length: %d\r\n" % len(body), body
    if framing != "chunked":
        return b"", body
    wire, at = b"", 0
    while at < len(body):
        size = min(draw.choice((1, 100, 5000, 70_000) if len(body) < 20_000 else (5000, 70_000)), len(body) - at)
        wire += b"%x\r\n" % size + body[at : at + size] + b"\r\n"
        at += size
    return b"Transfer-Encoding: chunked\r\n", wire + b"0\r\n\r\n"


def pieces(wire: bytes, draw: random.Random) -> list[bytes]:
    """The bytes in one to six pieces."""
    ends = sorted(draw.randrange(len(wire) + 1) for _ in range(draw.choice((0, 0, 1, 2, 5))))
    return [piece for piece in (wire[start:end] for start, end in zip([0, *ends], [*ends, len(wire)], strict=True)) if piece]


async def answer_in_kind(connection: ScriptedConnection, request: ReceivedRequest) -> None:
    """The answer is drawn from the target alone: status, framing, size, cuts, interim answers, and whether the connection ends."""
    name = request.target
    draw = random.Random(name)
    framing = draw.choice(("length", "length", "chunked", "close"))
    body = body_of(b"down" + name, draw.choice(SIZES))
    line, wire = framed(body, framing, draw)
    digest = hashlib.sha256(request.body).hexdigest().encode()
    head = b"HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n" * draw.choice((0, 0, 0, 1))
    head += b"HTTP/1.1 %d Fine\r\nX-Saw: %b\r\nX-Name: %b\r\n" % (draw.choice((200, 201, 404, 503)), digest, name) + line
    head += b"Connection: close\r\n" if framing == "close" or draw.random() < 0.1 else b""
    for piece in pieces(head + b"\r\n" + (b"" if request.method == b"HEAD" else wire), draw):
        await connection.send(piece)
        await asyncio.sleep(0)
    if b"Connection: close" in head:
        await connection.close()


async def walk(rig: Rig, walker: int) -> None:
    """One caller's steps, each compared on both sides."""
    draw, caller = random.Random(f"walker-{walker}"), None
    for step in range(STEPS):
        name = b"/%d-%d" % (walker, step)
        method = draw.choice((b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"))
        framing = draw.choice(("none", "length", "length", "chunked")) if method != b"HEAD" else "none"
        body = body_of(b"up" + name, draw.choice(SIZES)) if framing != "none" else b""
        line, wire = framed(body, framing, draw)
        raw = method + b" " + name + b" HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n" + wire
        if caller is None:
            caller = await rig.caller()
        sending = asyncio.ensure_future(caller.send_pieces(pieces(raw, draw)))
        found = await caller.answer(method, deadline_s=20.0)
        await sending
        expected = random.Random(name)
        down_framing = expected.choice(("length", "length", "chunked", "close"))
        down = body_of(b"down" + name, expected.choice(SIZES))
        assert found.whole, (name, down_framing)
        assert found.value(b"X-Name") == name, "the answer to another exchange"
        assert found.value(b"X-Saw") == hashlib.sha256(body).hexdigest().encode(), f"{name!r}: the upstream saw another body"
        assert found.body == (b"" if method == b"HEAD" else down), (name, down_framing)
        caller = await _go_on(caller, ends=found.value(b"Connection") == b"close" or draw.random() < 0.1)


async def _go_on(caller: Caller, *, ends: bool) -> Caller | None:
    if ends:
        await caller.leave()
        return None
    return caller


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tls(tmp_path_factory: pytest.TempPathFactory, certificates: CertificateAuthority) -> AsyncIterator[Rig]:
    """The same rig with a TLS upstream."""
    folder: Path = tmp_path_factory.mktemp("tls")
    token_file = folder / "token"
    token_file.write_bytes(unsigned_token())
    context = certificates.issue("127.0.0.1").server_context()
    async with RecordingUpstream(tls=context, patience_s=600.0) as upstream:
        settings = {"ROBIN_TOKEN_FILE": str(token_file), "ROBIN_UPSTREAM_CA_FILE": str(certificates.ca_file)}
        async with SidecarProcess(upstream_url=upstream.url, settings=settings) as robin:
            await robin.started()
            rig = Rig(robin, upstream, token_file)
            yield rig
            for caller in rig.callers:
                caller.peer.transport.abort()
            assert not [entry for entry in robin.events if entry.get("level") == "error"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """The usual rig."""
    async with running(tmp_path_factory.mktemp("plain")) as rig:
        yield rig


async def _walk_all(rig: Rig) -> None:
    with rig.replying(answer_in_kind):
        await asyncio.gather(*(walk(rig, walker) for walker in range(WALKERS)))
    assert len(rig.seen) == WALKERS * STEPS, "an exchange was lost or doubled"
    assert not rig.garbage, rig.garbage


async def test_mixed_exchanges_stay_whole_and_in_step(plain: Rig) -> None:
    await _walk_all(plain)


async def test_mixed_exchanges_stay_whole_and_in_step_over_tls(tls: Rig) -> None:
    await _walk_all(tls)
