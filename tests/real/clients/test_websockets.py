"""The websockets library on both sides of Robin: 64 MiB in one message, compression, pings both ways, fifty at once, a rotation between."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.real.clients.stand import identity, rotate, sidecar
from tests.real.clients.websocket_echo import WebSocketEcho
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.sidecar import RealSidecar
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from robin.testing.authority import IdentityAuthority
from robin.testing.projected import ProjectedDirectory
from robin.testing.waiting import eventually

pytestmark = pytest.mark.real

LARGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    robin: RealSidecar
    echo: WebSocketEcho
    authority: IdentityAuthority
    volume: ProjectedDirectory

    def connect(self, **choices: object) -> connect:
        """A client that knows nothing but the URL, and holds a placeholder."""
        key = {"Authorization": f"Bearer {PLACEHOLDER}"}
        url = self.robin.url.replace("http:", "ws:") + "/socket"
        return connect(url, additional_headers=key, max_size=80 << 20, proxy=None, ping_interval=None, **choices)  # type: ignore[arg-type]


@asynccontextmanager
async def sockets(folder: Path) -> AsyncIterator[Sockets]:
    authority, volume = identity(folder)
    async with WebSocketEcho(authority) as echo, sidecar(echo.url, volume, {}) as robin:
        yield Sockets(robin=robin, echo=echo, authority=authority, volume=volume)


async def echoed(client: ClientConnection, message: str | bytes) -> None:
    await client.send(message)
    assert await client.recv() == message


async def test_a_message_of_64_mib_comes_back_whole_plain_and_compressed(tmp_path: Path) -> None:
    large = os.urandom(1 << 20) * (LARGE_BYTES >> 20)
    digest = hashlib.sha256(large).digest()
    async with sockets(tmp_path) as opened:
        async with opened.connect(compression=None) as client:
            await client.send(large)
            back = await client.recv()
            assert isinstance(back, bytes)
            assert hashlib.sha256(back).digest() == digest
            assert not client.protocol.extensions
        async with opened.connect() as client:
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            await echoed(client, "words " * 1_000_000)
            await client.send([b"in", b"many", b"fragments"])
            assert await client.recv() == b"inmanyfragments"
        await eventually(lambda: opened.echo.closes == [1000, 1000], what="both ends to see the close")


async def test_pings_go_both_ways(tmp_path: Path) -> None:
    async with sockets(tmp_path) as opened, opened.connect() as client:
        assert await (await client.ping(b"are you there")) >= 0
        await echoed(client, "are you there?")  # the echo pings us and waits for our pong before it answers


async def test_a_rotation_leaves_open_sockets_alone_and_new_ones_get_the_new_token(tmp_path: Path) -> None:
    async with sockets(tmp_path) as opened:
        async with opened.connect() as before:
            await echoed(before, "before")
            rotate(opened.authority, opened.volume)
            async with opened.connect() as after:
                await echoed(after, "new")
                await echoed(before, "old")
        assert len(opened.echo.tokens) == len(set(opened.echo.tokens)) == 2


async def test_fifty_at_once_keep_their_messages_apart(tmp_path: Path) -> None:
    async with sockets(tmp_path) as opened:

        async def talk(number: int) -> None:
            async with opened.connect() as client:
                for turn in range(10):
                    await echoed(client, f"{number}:{turn}")

        await asyncio.gather(*(talk(number) for number in range(50)))
        await eventually(lambda: opened.echo.closes == [1000] * 50, what="every close")


async def test_a_refused_handshake_is_the_upstreams_own_answer(tmp_path: Path) -> None:
    async with sockets(tmp_path) as opened:
        opened.volume.write({"token": opened.authority.service_account_token(audience=["broker.test"], iss="https://somebody.else")})
        with pytest.raises(InvalidStatus) as refused:
            async with opened.connect():
                pass
        assert (refused.value.response.status_code, refused.value.response.body) == (401, b"issuer")
