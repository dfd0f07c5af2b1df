"""curl through Robin: both versions of HTTP/1, uploads of each kind, expectations, ranges, a Unix socket, and offers of HTTP/2."""

import asyncio
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.everything import LARGE, Everything
from tests.real.clients.stand import Stand, identity, sidecar
from tests.real.parts import debian
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.program import Ended, run
from tests.real.parts.webservers import nginx

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def _curl_is_there() -> None:
    debian.find("curl")


async def curl(stand: Stand, *arguments: str, feed: bytes = b"", codes: tuple[int, ...] = (0,)) -> Ended:
    """curl as it comes, no .curlrc; `-sS` keeps its progress away and lets it complain."""
    return await run([debian.find("curl"), "-q", "-sS", *arguments], home=stand.home, feed=feed, codes=codes)


async def document(stand: Stand, *arguments: str, feed: bytes = b"") -> dict[str, Any]:
    """The JSON that /echo gave."""
    found: dict[str, Any] = json.loads((await curl(stand, *arguments, feed=feed)).stdout)
    return found


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
async def test_both_versions_get_the_whole_answer(stand_of: Stands, version: str) -> None:
    async with stand_of(Everything().route) as stand:
        key = ("-H", f"Authorization: Bearer {PLACEHOLDER}", "-H", f"X-Api-Key: {PLACEHOLDER}")
        seen = await document(stand, version, *key, f"{stand.url}/echo?x=%2F#fragment")
        assert (seen["method"], seen["target"]) == ("GET", "/echo?x=%2F")
        assert (await curl(stand, version, f"{stand.url}/large")).stdout == LARGE
        assert (await curl(stand, version, f"{stand.url}/until-close")).stdout == LARGE
        assert (await curl(stand, version, f"{stand.url}/trailers")).stdout == b"summed"
        told = (await curl(stand, version, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{stand.url}/hints")).stdout
        assert told == b"1.1 200"
        assert {head.head.version for head in stand.server.seen} == {b"HTTP/1.1"}


async def test_one_connection_serves_many_urls(stand_of: Stands) -> None:
    async with stand_of(Everything().route) as stand:
        urls = [f"{stand.url}/echo?{number}" for number in range(20)]
        told = (await curl(stand, "-o", "/dev/null", "-w", "%{num_connects} %{http_code}\\n", *interleaved(urls))).stdout.decode()
        assert told.split("\n")[:20] == ["1 200"] + ["0 200"] * 19


def interleaved(urls: list[str]) -> list[str]:
    """Each further URL needs its own -o."""
    return [urls[0], *(part for url in urls[1:] for part in ("-o", "/dev/null", url))]


async def test_uploads_of_each_kind_arrive_whole(stand_of: Stands) -> None:
    async with stand_of(Everything().route) as stand:
        upload = stand.home / "upload.bin"
        upload.write_bytes(LARGE)
        whole = {"bytes": len(LARGE), "sha256": sha256(LARGE)}
        put = await document(stand, "-T", str(upload), f"{stand.url}/echo")
        assert (put["method"], put["body"]) == ("PUT", whole)
        assert ["Expect", "100-continue"] in put["fields"]
        chunked = await document(stand, "-T", "-", f"{stand.url}/echo", feed=LARGE)
        assert chunked["body"] == whole
        assert ["Transfer-Encoding", "chunked"] in chunked["fields"]
        old = await document(stand, "--http1.0", "--data-binary", f"@{upload}", f"{stand.url}/echo")
        assert (old["method"], old["body"]) == ("POST", whole)
        form = await document(stand, "-F", f"f=@{upload}", "-F", "x=y", f"{stand.url}/echo")
        assert form["body"]["bytes"] > len(LARGE)
        small = await document(stand, "-d", "a=b", f"{stand.url}/echo")
        assert small["body"] == {"bytes": 3, "sha256": sha256(b"a=b")}
        patched = await document(stand, "-X", "PATCH", "-d", "", f"{stand.url}/echo")
        assert (patched["method"], patched["body"]["bytes"]) == ("PATCH", 0)


async def test_an_expected_100_comes_at_once_and_a_refusal_spares_the_body(stand_of: Stands) -> None:
    async with stand_of(Everything().route) as stand:
        upload = stand.home / "upload.bin"
        upload.write_bytes(LARGE)
        spoken = await curl(stand, "-v", "--expect100-timeout", "30", "-T", str(upload), f"{stand.url}/echo")
        assert "< HTTP/1.1 100 Continue" in spoken.stderr
        refused = await curl(stand, "-v", "--expect100-timeout", "30", "-T", str(upload), f"{stand.url}/refuse-early")
        assert refused.stdout == b"too large for us"
        assert "< HTTP/1.1 413" in refused.stderr
        assert (await stand.robin.recorded(2))[-1]["bytes_in"] == 0, "the body was asked for, or sent unasked"
        unasked = await curl(stand, "-H", "Expect:", "-T", str(upload), f"{stand.url}/refuse-early")
        assert unasked.stdout == b"too large for us"


async def test_ranges_heads_redirects_and_compression(stand_of: Stands) -> None:
    async with stand_of(Everything().route) as stand:
        assert (await curl(stand, "-r", "100-199", f"{stand.url}/large")).stdout == LARGE[100:200]
        assert (await curl(stand, "-r", "-7", f"{stand.url}/large")).stdout == LARGE[-7:]
        partly = stand.home / "large"
        partly.write_bytes(LARGE[:1_000_000])
        await curl(stand, "-C", "-", "-o", str(partly), f"{stand.url}/large")
        assert partly.read_bytes() == LARGE
        head = (await curl(stand, "-I", f"{stand.url}/large")).stdout.decode()
        assert f"Content-Length: {len(LARGE)}\r\n" in head
        assert (await curl(stand, "--compressed", f"{stand.url}/gzip")).stdout == b"plain words " * 1000
        followed = await document(stand, "-L", f"{stand.url}/redirect?to=/echo%3Fmoved")
        assert followed["target"] == "/echo?moved"
        codes = await curl(stand, "-o", "/dev/null", "-w", "%{http_code}", f"{stand.url}/status?is=204")
        assert codes.stdout == b"204"


async def test_offers_of_http2_end_in_http_1_1_or_a_clear_no(stand_of: Stands) -> None:
    async with stand_of(Everything().route) as stand:
        told = await curl(stand, "--http2", "-w", "%{http_version}", "-o", "/dev/null", f"{stand.url}/echo")
        assert told.stdout == b"1.1"
        posted = await document(stand, "--http2", "-d", "with a body", f"{stand.url}/echo")
        assert posted["body"]["bytes"] == len("with a body")
        fields = {name.lower() for name, _ in posted["fields"]}
        assert not fields & {"upgrade", "http2-settings", "connection"}
        insisting = await curl(stand, "--http2-prior-knowledge", f"{stand.url}/echo", codes=(16, 52, 56, 92))
        assert insisting.stdout == b""
        assert (await stand.outcomes(3))[2] == "version_not_supported"


async def test_a_unix_socket(stand_of: Stands) -> None:
    with tempfile.TemporaryDirectory() as short:
        path = f"{short}/robin.sock"
        async with stand_of(Everything().route, ROBIN_LISTEN_UDS=path) as stand:
            seen = await document(stand, "--unix-socket", path, "-d", "@-", "http://any.name/echo?here", feed=b"by socket")
            assert seen["target"] == "/echo?here"
            assert seen["body"] == {"bytes": 9, "sha256": sha256(b"by socket")}
            assert (await curl(stand, "--unix-socket", path, "http://any.name/large")).stdout == LARGE


async def test_a_download_survives_a_rotation_and_a_slow_reader(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(curl(stand, "--limit-rate", "4M", f"{stand.url}/large"))
            streaming = group.create_task(curl(stand, "-N", f"{stand.url}/paused"))
            await everything.half_way.wait()
            stand.rotate()
            assert (await curl(stand, f"{stand.url}/large")).stdout == LARGE
            everything.go_on.set()
        assert slow.result().stdout == LARGE
        assert streaming.result().stdout == b"data: first\n\ndata: second\n\n"
        assert len(stand.server.tokens) == 2


async def test_a_caller_that_has_had_enough_ends_the_stream_upstream(stand_of: Stands) -> None:
    everything = Everything()
    async with stand_of(everything.route) as stand:
        pipe = f"'{debian.find('curl')}' -q -sSN {stand.url}/endless | head -c 100000"
        assert len((await run(["sh", "-c", pipe], home=stand.home)).stdout) == 100_000
        assert await stand.outcomes(1) == ["client_closed"]


async def test_nginx_serves_its_files_and_ranges_to_curl(tmp_path: Path) -> None:
    """nginx knows several ranges at once, conditional requests and resumption."""

    def http(port: int, folder: Path) -> str:
        (folder / "large").write_bytes(LARGE)
        return f"server {{ listen 127.0.0.1:{port}; root {folder}; }}"

    _, volume = identity(tmp_path)
    with nginx(http) as upstream:
        async with sidecar(upstream.url, volume, {}) as robin:

            async def ask(*arguments: str) -> bytes:
                return (await run([debian.find("curl"), "-q", "-sS", *arguments, f"{robin.url}/large"], home=tmp_path)).stdout

            assert await ask() == LARGE
            several = await ask("-r", "0-9,100-109")
            assert LARGE[:10] in several
            assert LARGE[100:110] in several
            assert b"Content-Range: bytes 100-109/" in several
            head = (await ask("-I")).decode()
            etag = next(line.partition(": ")[2] for line in head.split("\r\n") if line.startswith("ETag"))
            assert await ask("-w", "%{http_code}", "-H", f"If-None-Match: {etag}") == b"304"
            assert (await ask("-r", f"{len(LARGE)}-", "-w", "%{http_code}")).endswith(b"416")
            assert {record["outcome"] for record in await robin.recorded(5)} == {"forwarded"}
