"""Go's net/http through Robin: bodies, trailers both ways, expectations, early answers, connections, streams, cancellation."""

import hashlib

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.everything import LARGE, Everything
from tests.real.clients.stand import run_while_rotating
from tests.real.parts import gobuild
from tests.real.parts.guarded import PLACEHOLDER

pytestmark = pytest.mark.real


async def test_net_http(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        command = [gobuild.find(gobuild.HTTP) / "http-client"]
        environment = {"BASE_URL": stand.url, "PLACEHOLDER": PLACEHOLDER}
        told = (await run_while_rotating(stand, everything, command, environment)).told
        assert told["get"] == "/echo?x=%2F"
        assert told["post"] == [3_000_000, True]
        assert told["chunked"] == 5_000_000
        assert told["trailers up"] == [["X-Sum", "7"]]
        assert told["trailers down"] == ["summed", hashlib.sha256(b"summed").hexdigest()]
        assert told["gzip"] == "plain words"
        assert told["large"] == told["until close"] == len(LARGE)
        assert told["range"] == [206, LARGE[10:20].hex()]
        assert told["head"] == [len(LARGE), 0]
        assert told["redirect"] == "/echo?moved"
        assert told["bodiless"] == 304
        assert told["expect"] == [[100, 100], 100_000]  # net/http tells both of its hooks of a 100
        assert told["hints"] == [103]
        assert told["early"] == [413, "too large for us"]
        assert told["reused"] is True
        assert told["concurrent"] is True
        assert told["paused"] == "data: first\n\ndata: second\n\n"
        assert (told["left"], told["last"]) == (100_000, 200)
