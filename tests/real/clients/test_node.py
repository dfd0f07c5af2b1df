"""Node through Robin: its own fetch, undici with ten requests in flight on one connection, the http module, and two WebSocket clients."""

import hashlib
from pathlib import Path

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.everything import LARGE, Everything
from tests.real.clients.stand import identity, run_while_rotating, sidecar
from tests.real.clients.websocket_echo import WebSocketEcho
from tests.real.parts import nodeclients
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.program import run

pytestmark = pytest.mark.real

PROGRAM = Path(__file__).parent / "node" / "use_fetch.mjs"


def environment(url: str) -> dict[str, str]:
    return {"BASE_URL": url, "PLACEHOLDER": PLACEHOLDER, "PACKAGES": str(nodeclients.find())}


async def test_fetch_undici_and_http(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        told = (await run_while_rotating(stand, everything, [nodeclients.node(), PROGRAM], environment(stand.url))).told
        assert told["fetch get"] == "/echo?x=1"
        assert told["fetch post"] == len('{"a":"é"}'.encode())
        body = b"".join(bytes([number]) * 65536 for number in range(64))
        assert told["fetch streamed"] == [{"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}, "chunked"]
        assert told["fetch form"] is True
        assert told["fetch redirect"] == [True, "/echo?moved"]
        assert told["fetch gzip"] == "plain words"
        assert told["fetch paused"] == "data: first\n\ndata: second\n\n"
        assert told["fetch left"] is True
        assert told["fetch concurrent"] is True
        assert told["undici pipelined"] is True
        assert told["undici large"] == hashlib.sha256(LARGE).hexdigest()
        assert told["undici early"] == [413, "too large for us"]
        assert told["undici after"] == 200
        assert told["undici trailers"] == ["summed", hashlib.sha256(b"summed").hexdigest()]
        assert told["http reused"] == [False, True]
        assert told["http expect"] == [True, 100_000]
        assert told["http trailers up"] == [["X-Sum", "7"]]
        assert told["http trailers down"] == {"x-sum": hashlib.sha256(b"summed").hexdigest()}
        assert told["http hints"] == [103]
        assert told["http head"] == str(len(LARGE))
        assert told["http bodiless"] == 304
        assert told["http until close"] == len(LARGE)


async def test_its_websocket_clients(tmp_path: Path) -> None:
    authority, volume = identity(tmp_path)
    async with WebSocketEcho(authority) as echo, sidecar(echo.url, volume, {}) as robin:
        told = (await run([nodeclients.node(), PROGRAM, "sockets"], home=tmp_path, environment=environment(robin.url))).told
        assert told["undici websocket"] == [1000, 1 << 20, 1000, True]
        pong, size, extensions, code, reason = told["ws websocket"]
        assert (pong, size, code, reason) == ("are you there", 1 << 20, 4000, "enough")
        assert "permessage-deflate" in extensions
        assert (len(echo.tokens), len(set(echo.tokens))) == (2, 1)
