"""The load generator's changing heads change: recorded by a relay that stands where a proxy would."""

import contextlib
import importlib
import os
import re
import select
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
ANSWER_START = re.compile(rb"(?=HTTP/1\.1 \d)")
REQUEST_START = re.compile(rb"(?=(?:GET|POST) /v1/threads/)")

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="NOT TESTED: the load generator needs the Go toolchain"),
    pytest.mark.timeout(900),  # the first build on a machine compiles Go's own library as well
]


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], list[bytes]]:
    """The whole requests and answers of a short run of one connection."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        tools, loads = importlib.import_module("sidebyside.tools"), importlib.import_module("sidebyside.load")
    pki = tmp_path_factory.mktemp("pki")
    program = tools.go_program("load")
    subprocess.run([str(program), "-pki", str(pki)], check=True)
    recorded = bytearray(), bytearray()
    with loads.Load(program, pki, min(os.sched_getaffinity(0))) as load, socket.create_server(("127.0.0.1", 0)) as door:
        relay = threading.Thread(target=_relay, args=(door, load.upstream, recorded))
        relay.start()
        load.order("closed", f"127.0.0.1:{door.getsockname()[1]}", conns=1, seconds=0.2, varied=True, direct=True)
        relay.join(10)
    requests, answers = (pattern.split(bytes(way))[1:] for pattern, way in zip((REQUEST_START, ANSWER_START), recorded, strict=True))
    count = min(len(requests), len(answers)) - 1  # the last may be cut off
    return requests[:count], answers[:count]


def _relay(door: socket.socket, upstream: str, recorded: tuple[bytearray, bytearray]) -> None:
    host, _, port = upstream.rpartition(":")
    door.settimeout(10)
    near, _ = door.accept()
    with near, socket.create_connection((host, int(port))) as far, contextlib.suppress(ConnectionError):
        ways = {near: (far, recorded[0]), far: (near, recorded[1])}
        while ready := select.select([*ways], [], [], 10)[0]:
            for source in ready:
                piece = source.recv(65536)
                if not piece:
                    return
                other, record = ways[source]
                record += piece
                other.sendall(piece)


def _fields(message: bytes) -> dict[bytes, bytes]:
    head = message.partition(b"\r\n\r\n")[0]
    return dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])


def _distinct(messages: list[bytes], name: bytes) -> int:
    return len({_fields(message)[name] for message in messages})


def test_no_request_and_no_answer_repeats_its_head(traffic: tuple[list[bytes], list[bytes]]) -> None:
    requests, answers = traffic

    assert len(requests) >= 8
    assert len({request.partition(b"\r\n")[0] for request in requests}) == len(requests)
    for name in (b"traceparent", b"X-Request-Id"):
        assert _distinct(requests, name) == len(requests)
    assert _distinct(answers, b"X-RateLimit-Remaining-Requests") == min(len(answers), 9000)
    assert [_fields(answer)[b"X-Request-Id"] for answer in answers] == [_fields(request)[b"X-Request-Id"] for request in requests]


def test_what_an_sdk_repeats_stays(traffic: tuple[list[bytes], list[bytes]]) -> None:
    requests, answers = traffic

    for name in (b"Host", b"User-Agent", b"Accept", b"X-Stainless-Package-Version", b"Authorization"):
        assert _distinct(requests, name) == 1
    for name in (b"Server", b"X-RateLimit-Limit-Requests"):
        assert _distinct(answers, name) == 1


def test_one_request_in_four_is_a_post_whose_length_varies(traffic: tuple[list[bytes], list[bytes]]) -> None:
    requests, answers = traffic
    posts = requests[3::4]

    assert [request[:4] for request in requests] == [b"POST" if i % 4 == 3 else b"GET " for i in range(len(requests))]
    assert _distinct(posts, b"Idempotency-Key") == len(posts)
    for messages in (posts, answers):
        lengths = [int(_fields(message)[b"Content-Length"]) for message in messages]
        assert lengths == [len(message.partition(b"\r\n\r\n")[2]) for message in messages]
        assert all(200 <= length < 900 for length in lengths)
        assert len(set(lengths)) > 1
