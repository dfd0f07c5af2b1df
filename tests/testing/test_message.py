"""read_request: the exact bytes beside their meaning, and a refusal of anything that is not one well-framed request."""

import pytest

from robin.testing.message import BODY_LIMIT_BYTES, HEAD_LIMIT_BYTES, MalformedRequest, read_body, read_request


class Bytes:
    """A ByteSource over bytes that are all there; `endless`: zeros follow them."""

    def __init__(self, text: bytes, *, endless: bool = False) -> None:
        self.rest = text
        self.endless = endless

    async def read_until(self, marker: bytes, *, limit_bytes: int = HEAD_LIMIT_BYTES) -> bytes:
        at = self.rest.find(marker)
        if at < 0:
            raise ConnectionError(f"{marker!r} never came")
        return await self.read_exactly(at + len(marker))

    async def read_exactly(self, size: int) -> bytes:
        if self.endless:
            self.rest += bytes(max(0, size - len(self.rest)))
        if len(self.rest) < size:
            raise ConnectionError("too short")
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken


async def test_a_sized_body_is_read_to_its_length_and_no_further():
    source = Bytes(b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-A: 1 \r\nx-a:2\r\n\r\nabcGET ")
    request = await read_request(source)
    assert (request.method, request.target, request.version, request.body) == (b"POST", b"/a?b", b"HTTP/1.1", b"abc")
    assert request.values(b"X-a") == [b"1", b"2"]
    assert request.raw.endswith(b"\r\n\r\nabc")
    assert source.rest == b"GET "


async def test_a_chunked_body_keeps_its_lines_and_its_trailers():
    framed = b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"
    request = await read_request(Bytes(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + framed))
    assert request.body == b"abcde"
    assert request.framed_body == framed
    assert request.trailers == ((b"X-Sum", b"5"),)


async def test_a_request_without_framing_has_no_body():
    request = await read_request(Bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert (request.body, request.framed_body) == (b"", b"")


@pytest.mark.parametrize(
    "text",
    [
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n",
    ],
)
async def test_anything_else_is_malformed(text: bytes):
    with pytest.raises(MalformedRequest):
        await read_request(Bytes(text))


async def test_a_whole_request_is_kept_only_up_to_the_limit():
    size = BODY_LIMIT_BYTES + 1
    with pytest.raises(MalformedRequest, match="over this server's limit"):
        await read_request(Bytes(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size, endless=True))


async def test_a_body_can_be_read_in_pieces_of_any_total():
    sizes: list[int] = []
    fields = ((b"Content-Length", b"200000"),)
    assert await read_body(Bytes(b"", endless=True), fields, body=lambda piece: sizes.append(len(piece))) == ()
    assert (sum(sizes), max(sizes)) == (200000, 65536)
