"""Java's HttpClient through Robin with its defaults: it offers h2c with a body first, streams, expects, and opens a WebSocket."""

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.everything import LARGE, Everything
from tests.real.clients.stand import identity, run_while_rotating, sidecar
from tests.real.clients.websocket_echo import WebSocketEcho
from tests.real.parts import javac
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.program import run

pytestmark = pytest.mark.real


def command(*arguments: str) -> list[str]:
    return [str(javac.java()), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", str(javac.find()), "UseHttpClient", *arguments]


async def test_http_client(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        environment = {"BASE_URL": stand.url, "PLACEHOLDER": PLACEHOLDER}
        told = (await run_while_rotating(stand, everything, command(), environment)).told
        assert told["post"]["body"]["bytes"] == 2000
        assert not {name.lower() for name, _ in told["post"]["fields"]} & {"upgrade", "http2-settings", "connection"}
        assert told["get"]["target"] == "/echo?x=%2F"
        assert told["version"] == "HTTP_1_1"
        assert told["chunked"]["body"]["bytes"] == 5_000_000
        assert told["expect"]["body"]["bytes"] == 100_000
        assert dict(told["expect"]["fields"])["Expect"] == "100-continue"
        assert (told["delete"]["method"], told["patch"]["method"]) == ("DELETE", "PATCH")
        assert told["large"] == told["head"] == told["until close"] == len(LARGE)
        assert told["range"] == LARGE[10:20].hex()
        assert told["redirect"]["target"] == "/echo?moved"
        assert told["bodiless"] == 204
        assert told["trailers"] == "summed"
        assert told["refused"] == 413
        assert told["concurrent"] is True
        assert told["paused"] == "data: first||data: second|"
        assert (told["left"], told["last"]["target"]) == (100_000, "/echo?last")
        assert "bad_request" not in await stand.outcomes(len(stand.server.seen))


async def test_its_websocket(stand_of: Stands, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("socket")
    authority, volume = identity(folder)
    async with WebSocketEcho(authority) as echo, sidecar(echo.url, volume, {}) as robin:
        told = (await run(command("socket"), home=folder, environment={"BASE_URL": robin.url, "PLACEHOLDER": PLACEHOLDER})).told
        assert told["socket"] == "word " * 10 + "end pong 3 1000"
        assert len(echo.tokens) == 1
