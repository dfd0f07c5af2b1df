"""requests, httpx and aiohttp do through Robin what they do without it; the token rotates in the middle of a stream of each."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.everything import LARGE, Everything
from tests.real.clients.stand import Stand, run_while_rotating
from tests.real.parts import pyclients
from tests.real.parts.guarded import PLACEHOLDER

pytestmark = pytest.mark.real

PROGRAMS = Path(__file__).parent / "python"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def used(stand: Stand, everything: Everything, program: str) -> dict[str, Any]:
    """What the program told."""
    environment = {"BASE_URL": stand.url, "PLACEHOLDER": PLACEHOLDER}
    return (await run_while_rotating(stand, everything, [pyclients.find(), PROGRAMS / program], environment)).told


async def test_requests(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        told = await used(stand, everything, "use_requests.py")
        assert told["get"]["target"] == "/echo?a=b+c&d=%C3%A9"
        assert dict(told["get"]["fields"])["Host"] == f"localhost:{stand.server.port}"
        assert told["post json"]["body"]["bytes"] == len('{"x": ""}') + 6000
        assert told["post form"]["body"] == {"bytes": 3, "sha256": sha256(b"x=y")}
        assert told["post files"] > 2_000_000
        assert told["chunked"]["body"] == {"bytes": 5000, "sha256": sha256(b"piece" * 1000)}
        assert ["Transfer-Encoding", "chunked"] in told["chunked"]["fields"]
        assert ["Content-Length", "0"] in told["empty post"]["fields"]
        assert (told["delete"], told["options"]) == ("DELETE", "OPTIONS")
        assert told["head"] == [200, str(len(LARGE)), ""]
        assert told["range"] == [206, LARGE[-32:].hex(), f"bytes {len(LARGE) - 32}-{len(LARGE) - 1}/{len(LARGE)}"]
        assert told["gzip"] == "plain words"
        assert told["redirect"] == ["POST", "/echo?moved", 5, 1]
        assert told["no content"] == [204, 304, 404, 500]
        assert told["cookies"] == "a=1; b=2"
        assert told["left"] == 100
        assert told["until close"] == len(LARGE)
        assert told["paused"] == ["data: first", "", "data: second", ""]
        assert (told["after"], told["last"]) == (200, 200)
        assert told["early"] == [413, "too large for us"]
        assert everything.left_early == 1


async def test_httpx(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        told = await used(stand, everything, "use_httpx.py")
        assert told["get"] == ["/echo?q=1", "HTTP/1.1"]
        assert told["post"] == {"bytes": 1_000_000, "sha256": sha256(b"x" * 1_000_000)}
        assert told["chunked"]["body"] == {"bytes": 70_002, "sha256": sha256(b"a" + b"b" * 70_000 + b"c")}
        assert told["redirect"] == "/echo?moved"
        assert told["paused"] == ["data: first", "data: second"]
        assert told["after"] == 200
        assert told["concurrent"] is True
        assert told["left"] == 100
        assert told["timeout"] == "ReadTimeout"
        assert told["last"] == 200


async def test_aiohttp(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        told = await used(stand, everything, "use_aiohttp.py")
        assert told["get"] == "/echo?x=%25"
        assert told["post"] == 3_000_000
        assert told["chunked"]["body"] == {"bytes": 1_000_000, "sha256": sha256(b"0123456789" * 100_000)}
        assert told["expect"] == [8, "100-continue"]
        assert told["form"] is True
        assert told["concurrent"] is True
        assert told["large"] == len(LARGE)
        assert told["paused"] == ["data: first", "data: second"]
        assert told["left"] == 100
        assert told["last"] == "/echo?last"
