"""Raw upstream responses: D4, E1-E3, E8, E9, F3, G3 of the sidecar spec, each to one request on a fresh upstream connection."""

# ruff: noqa: E501 - one case is one line: raw bytes broken over lines are harder to judge

from tests.corpus.cases import Aborted, Faulty, Relayed, ResponseCase, ResponseVerdict

OK = b"HTTP/1.1 200 OK\r\n"
LEN2 = b"Content-Length: 2\r\n"
KIB = 1024


def broken(id: str, raw: bytes, item: str = "E1", code: str = "upstream_protocol", **more: object) -> ResponseCase:
    """A response that C must never see: 502, and the upstream connection is dropped."""
    return ResponseCase(id=id, item=item, raw=raw, verdict=Faulty(code=code), **more)  # type: ignore[arg-type]


def head(id: str, lines: bytes) -> ResponseCase:
    """Bad lines in an otherwise good head."""
    return broken(id, OK + lines + b"\r\nhi")


def relayed(id: str, item: str, raw: bytes, verdict: ResponseVerdict, *, reusable: bool | None = True, **more: object) -> ResponseCase:
    """A response that C gets."""
    return ResponseCase(id=id, item=item, raw=raw, verdict=verdict, reusable=reusable, **more)  # type: ignore[arg-type]


STATUS_LINES = (
    broken("status-line-2-0", b"HTTP/2.0 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-2", b"HTTP/2 200\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-1-2", b"HTTP/1.2 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-0-9", b"HTTP/0.9 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-1-10", b"HTTP/1.10 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-rtsp", b"RTSP/1.0 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-ice", b"ICE/1.0 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-icy", b"ICY 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-lower-case", b"http/1.1 200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-no-version", b"200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-two-spaces", b"HTTP/1.1  200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-line-tab", b"HTTP/1.1\t200\tOK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-099", b"HTTP/1.1 099 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-600", b"HTTP/1.1 600 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-999", b"HTTP/1.1 999 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-000", b"HTTP/1.1 000 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-2000", b"HTTP/1.1 2000 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-20", b"HTTP/1.1 20 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-2x0", b"HTTP/1.1 2x0 Odd\r\n" + LEN2 + b"\r\nhi"),
    broken("status-plus", b"HTTP/1.1 +200 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-arabic-digit", b"HTTP/1.1 20\xd9\xa0 OK\r\n" + LEN2 + b"\r\nhi"),
    broken("status-missing", b"HTTP/1.1\r\n" + LEN2 + b"\r\nhi"),
    broken("status-glued-reason", b"HTTP/1.1 200OK\r\n" + LEN2 + b"\r\nhi"),
    broken("reason-nul", b"HTTP/1.1 200 O\x00K\r\n" + LEN2 + b"\r\nhi"),
    broken("reason-escape", b"HTTP/1.1 200 O\x1bK\r\n" + LEN2 + b"\r\nhi"),
    broken("reason-bare-cr", b"HTTP/1.1 200 O\rK\r\n" + LEN2 + b"\r\nhi"),
    broken("reason-del", b"HTTP/1.1 200 O\x7fK\r\n" + LEN2 + b"\r\nhi"),
    broken("reason-smuggles-a-field", b"HTTP/1.1 200 OK\nSet-Cookie: a=b\r\n" + LEN2 + b"\r\nhi"),
    broken("leading-crlf", b"\r\n" + OK + LEN2 + b"\r\nhi"),
    broken("leading-lf", b"\n" + OK + LEN2 + b"\r\nhi"),
    broken("leading-space", b" " + OK + LEN2 + b"\r\nhi"),
    broken("garbage", b"\x00\x01\x02\x03 not http at all\r\n\r\n"),
    broken("tls-alert", b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n"),
    broken("request-instead", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    broken("html-instead", b"<html><body>502 Bad Gateway</body></html>\r\n\r\n", then="close"),
    ResponseCase(
        id="http2-settings-frame",
        item="E1",
        raw=b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80",
        verdict=(Faulty(), Faulty(code="upstream_closed")),
        then="close",
    ),
)

FIELDS = (
    head("field-bare-cr", b"A: 1\rB: 2\r\n" + LEN2),
    head("field-bare-lf", b"A: 1\nB: 2\r\n" + LEN2),
    head("field-nul", b"A: x\x00y\r\n" + LEN2),
    head("field-vertical-tab", b"A: x\x0by\r\n" + LEN2),
    head("field-fold", b"A: 1\r\n 2\r\n" + LEN2),
    head("field-space-before-colon", b"A : 1\r\n" + LEN2),
    head("field-space-before-first", b" A: 1\r\n" + LEN2),
    head("field-empty-name", b": 1\r\n" + LEN2),
    head("field-no-colon", b"novalue\r\n" + LEN2),
    head("field-name-not-a-token", b"A(B: 1\r\n" + LEN2),
    head("field-name-utf8", b"\xc3\xa9: 1\r\n" + LEN2),
    head("length-plus", b"Content-Length: +2\r\n"),
    head("length-minus", b"Content-Length: -2\r\n"),
    head("length-hex", b"Content-Length: 0x2\r\n"),
    head("length-empty", b"Content-Length:\r\n"),
    head("length-list", b"Content-Length: 2, 2\r\n"),
    head("length-words", b"Content-Length: 2 2\r\n"),
    head("length-letters", b"Content-Length: two\r\n"),
    head("length-2-63", b"Content-Length: 9223372036854775808\r\n"),
    head("length-2-64-and-2", b"Content-Length: 18446744073709551618\r\n"),
    head("length-two-equal", LEN2 + LEN2),
    head("length-two-different", LEN2 + b"Content-Length: 3\r\n"),
    head("length-then-coding", LEN2 + b"Transfer-Encoding: chunked\r\n"),
    head("coding-then-length", b"Transfer-Encoding: chunked\r\n" + LEN2),
    head("coding-gzip", b"Transfer-Encoding: gzip\r\n"),
    head("coding-identity", b"Transfer-Encoding: identity\r\n"),
    head("coding-gzip-chunked", b"Transfer-Encoding: gzip, chunked\r\n"),
    head("coding-chunked-gzip", b"Transfer-Encoding: chunked, gzip\r\n"),
    head("coding-chunked-twice", b"Transfer-Encoding: chunked, chunked\r\n"),
    head("coding-two-lines", b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
    head("coding-parameter", b"Transfer-Encoding: chunked;x\r\n"),
    head("coding-vertical-tab", b"Transfer-Encoding: \x0bchunked\r\n"),
    head("coding-empty", b"Transfer-Encoding:\r\n"),
    broken("coding-http10", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", then="close"),
    broken("head-64-kib-and-more", OK + b"A: " + b"v" * (65 * KIB) + b"\r\n" + LEN2 + b"\r\nhi"),
    broken("head-never-ending", OK + b"A: 1\r\n" * (16 * KIB)),
    broken("head-of-a-204-bad-length", b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n"),
    broken("eof-at-once", b"", "J4", "upstream_closed", then="close"),
    broken("reset-at-once", b"", "J4", "upstream_closed", then="reset"),
    broken("eof-in-status-line", b"HTTP/1.1 20", "J4", "upstream_closed", then="close"),
    broken("eof-in-head", OK + b"Content-Le", "J4", "upstream_closed", then="close"),
    broken("eof-before-end-of-head", OK + LEN2, "J4", "upstream_closed", then="close"),
    broken("reset-in-head", OK + LEN2, "J4", "upstream_closed", then="reset"),
    broken("post-eof-at-once", b"", "J4", "upstream_closed", then="close", method=b"POST"),
)

HI = Relayed(body=b"hi", length=b"2")

GOOD = (
    relayed("good-length", "E2", OK + LEN2 + b"\r\nhi", HI),
    relayed("good-chunked", "E9", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Relayed(body=b"hi", framing="chunked")),
    relayed("good-chunked-mixed-case", "E9", OK + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Relayed(body=b"hi", framing="chunked")),
    relayed("good-length-zeros", "E1", OK + b"Content-Length: 002\r\n\r\nhi", HI),
    relayed("good-length-zero", "E2", OK + b"Content-Length: 0\r\n\r\n", Relayed(length=b"0")),
    relayed("good-no-reason", "E1", b"HTTP/1.1 200 \r\n" + LEN2 + b"\r\nhi", Relayed(reason=b"", body=b"hi", length=b"2")),
    relayed("good-no-reason-no-space", "E1", b"HTTP/1.1 200\r\n" + LEN2 + b"\r\nhi", Relayed(reason=b"", body=b"hi", length=b"2")),
    relayed("good-odd-reason", "E1", b"HTTP/1.1 200 Caf\xe9\tau lait!\r\n" + LEN2 + b"\r\nhi", Relayed(reason=b"Caf\xe9\tau lait!", body=b"hi", length=b"2")),
    relayed("good-odd-status", "D4", b"HTTP/1.1 299 Odd\r\n" + LEN2 + b"\r\nhi", Relayed(status=299, reason=b"Odd", body=b"hi", length=b"2")),
    relayed("good-599", "D4", b"HTTP/1.1 599 Odd\r\n" + LEN2 + b"\r\nhi", Relayed(status=599, reason=b"Odd", body=b"hi", length=b"2")),
    relayed(
        "good-401",
        "D4",
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm="x"\r\nProxy-Status: broker; error=x\r\n' + LEN2 + b"\r\nno",
        Relayed(
            status=401,
            reason=b"Unauthorized",
            fields=((b"WWW-Authenticate", b'Bearer realm="x"'), (b"Proxy-Status", b"broker; error=x")),
            body=b"no",
            length=b"2",
        ),
    ),
    relayed(
        "good-403",
        "D4",
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\n" + LEN2 + b"\r\n{}",
        Relayed(status=403, reason=b"Forbidden", fields=((b"Content-Type", b"application/problem+json"),), body=b"{}", length=b"2"),
    ),
    relayed(
        "good-503",
        "D4",
        b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\n" + LEN2 + b"\r\nno",
        Relayed(status=503, reason=b"Busy", fields=((b"Retry-After", b"120"),), body=b"no", length=b"2"),
    ),
    relayed(
        "good-302",
        "C8",
        b"HTTP/1.1 302 Found\r\nLocation: http://other.example/x\r\nContent-Length: 0\r\n\r\n",
        Relayed(status=302, reason=b"Found", fields=((b"Location", b"http://other.example/x"),), length=b"0"),
    ),
    relayed(
        "good-gzip",
        "C8",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff",
        Relayed(fields=((b"Content-Encoding", b"gzip"),), body=b"\x1f\x8b\x00\xff", length=b"4"),
    ),
    relayed(
        "good-set-cookie-three",
        "C7",
        OK + b"Set-Cookie: a=1\r\nset-cookie: b=2\r\nX: 1\r\nSet-Cookie: a=1\r\n" + LEN2 + b"\r\nhi",
        Relayed(
            fields=((b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"X", b"1"), (b"Set-Cookie", b"a=1")),
            body=b"hi",
            length=b"2",
        ),
    ),
    relayed(
        "good-high-bytes",
        "A2",
        OK + b"A: \x80\xa0\xff\tx\r\nB:\t y \t\r\n" + LEN2 + b"\r\nhi",
        Relayed(fields=((b"A", b"\x80\xa0\xff\tx"), (b"B", b"y")), body=b"hi", length=b"2"),
    ),
    relayed(
        "good-hop-by-hop",
        "C1",
        OK + b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\n"
        b"TE: gzip\r\nTrailer: X\r\nProxy-Authenticate: Basic\r\nX: 1\r\n" + LEN2 + b"\r\nhi",
        Relayed(fields=((b"X", b"1"),), body=b"hi", length=b"2"),
    ),
    relayed("good-connection-names-length", "C2", OK + b"Connection: content-length\r\n" + LEN2 + b"\r\nhi", HI),
    relayed("good-connection-close", "J7", OK + b"Connection: close\r\n" + LEN2 + b"\r\nhi", HI, reusable=False, then="close"),
    relayed("good-http10", "J7", b"HTTP/1.0 200 OK\r\n" + LEN2 + b"\r\nhi", HI, reusable=False, then="close"),
    relayed("good-http10-keep-alive", "J7", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LEN2 + b"\r\nhi", HI, reusable=None),
    relayed("head-60-kib", "E1", OK + b"A: " + b"v" * (60 * KIB) + b"\r\n" + LEN2 + b"\r\nhi",
            Relayed(fields=((b"A", b"v" * (60 * KIB)),), body=b"hi", length=b"2")),
    relayed("body-looks-like-a-response", "E8", OK + b"Content-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Relayed(body=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", length=b"38")),
)  # fmt: skip

NO_BODY = (
    relayed("head-length", "E2", OK + b"Content-Length: 5\r\n\r\n", Relayed(length=b"5", framing="none"), method=b"HEAD"),
    relayed("head-chunked", "E2", OK + b"Transfer-Encoding: chunked\r\n\r\n", Relayed(framing="none"), method=b"HEAD"),
    relayed("head-nothing", "E2", OK + b"\r\n", Relayed(framing="none"), method=b"HEAD"),
    relayed("head-404", "E2", b"HTTP/1.1 404 No\r\nContent-Length: 5\r\n\r\n", Relayed(status=404, reason=b"No", length=b"5", framing="none"), method=b"HEAD"),
    relayed("head-with-body", "E8", OK + b"Content-Length: 5\r\n\r\nhello", Relayed(length=b"5", framing="none"), method=b"HEAD", reusable=False),
    relayed("no-content", "E2", b"HTTP/1.1 204 No Content\r\n\r\n", Relayed(status=204, reason=b"No Content", framing="none")),
    relayed("no-content-with-length", "E2", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            Relayed(status=204, reason=b"No Content", framing="none")),
    relayed("no-content-with-body", "E8", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
            Relayed(status=204, reason=b"No Content", framing="none"), reusable=False),
    relayed("not-modified", "E2", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            Relayed(status=304, reason=b"Not Modified", fields=((b"ETag", b"x"),), framing="none")),
    relayed("not-modified-with-length", "E2", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            Relayed(status=304, reason=b"Not Modified", length=b"5", framing="none")),
    relayed("not-modified-with-body", "E8", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
            Relayed(status=304, reason=b"Not Modified", length=b"5", framing="none"), reusable=False),
    relayed("reset-content-zero", "E2", b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", Relayed(status=205, reason=b"Reset", length=b"0")),
)  # fmt: skip

CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def cut(id: str, raw: bytes, seen: bytes, then: str = "keep", item: str = "E3") -> ResponseCase:
    """A body that breaks part-way: an abort once C has its head; a 502 is as safe while C has nothing. Silence is neither."""
    broken_off = Faulty(code="upstream_closed") if then != "keep" else Faulty()
    return ResponseCase(id=id, item=item, raw=raw, verdict=(Aborted(body=seen), broken_off), then=then)


BODIES = (
    relayed("close-delimited", "E3", OK + b"\r\nhello", Relayed(body=b"hello", framing="chunked"), reusable=False, then="close"),
    relayed("close-delimited-empty", "E3", OK + b"\r\n", Relayed(framing="chunked"), reusable=False, then="close"),
    relayed("close-delimited-http10-upstream", "E3", b"HTTP/1.0 200 OK\r\n\r\nhello", Relayed(body=b"hello", framing="chunked"), reusable=False, then="close"),
    relayed("close-delimited-http10-caller", "E3", OK + b"\r\nhello", Relayed(body=b"hello", framing="close", again=False),
            reusable=False, then="close", version=b"HTTP/1.0"),
    relayed("close-delimited-http10-caller-keep-alive", "E3", OK + b"\r\nhello", Relayed(body=b"hello", framing="close", again=False),
            reusable=False, then="close", version=b"HTTP/1.0", asks=((b"Connection", b"keep-alive"),)),
    relayed("length-http10-caller", "E9", OK + LEN2 + b"\r\nhi", Relayed(body=b"hi", length=b"2", again=False), version=b"HTTP/1.0"),
    relayed("length-http10-caller-keep-alive", "E9", OK + LEN2 + b"\r\nhi", Relayed(body=b"hi", length=b"2"),
            version=b"HTTP/1.0", asks=((b"Connection", b"keep-alive"),)),
    relayed("chunked-http10-caller", "E9", CHUNKED + b"2\r\nhi\r\n0\r\nX: 1\r\n\r\n", Relayed(body=b"hi", framing="close", again=False), version=b"HTTP/1.0"),
    relayed("chunked-trailers", "E9", CHUNKED + b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nb:2\r\n\r\n",
            Relayed(body=b"hi", framing="chunked", trailers=((b"X-Sum", b"1"), (b"b", b"2")))),
    relayed("chunked-trailers-announced", "E9", OK + b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n",
            Relayed(body=b"hi", framing="chunked", trailers=((b"X-Sum", b"1"),))),
    relayed("chunked-extensions", "B4", CHUNKED + b'2;a=b;c="d"\r\nhi\r\n0;x\r\n\r\n', Relayed(body=b"hi", framing="chunked")),
    relayed("chunked-empty", "E9", CHUNKED + b"0\r\n\r\n", Relayed(framing="chunked")),
    relayed("chunked-many", "E9", CHUNKED + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n", Relayed(body=b"x" * 3000, framing="chunked")),
    relayed("surplus-after-length", "E8", OK + LEN2 + b"\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", HI, reusable=False),
    relayed("surplus-after-chunks", "E8", CHUNKED + b"2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            Relayed(body=b"hi", framing="chunked"), reusable=False),
    relayed("surplus-one-byte", "E8", OK + LEN2 + b"\r\nhi!", HI, reusable=False),
    relayed("surplus-crlf", "E8", OK + LEN2 + b"\r\nhi\r\n", HI, reusable=False),
    relayed("surplus-after-head", "E8", OK + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            Relayed(framing="none", length=b"0"), reusable=False, method=b"HEAD"),
    cut("length-short-eof", OK + b"Content-Length: 5\r\n\r\nhel", b"hel", "close"),
    cut("length-short-reset", OK + b"Content-Length: 5\r\n\r\nhel", b"hel", "reset"),
    cut("length-no-body-eof", OK + b"Content-Length: 5\r\n\r\n", b"", "close"),
    cut("length-huge-eof", OK + b"Content-Length: 9223372036854775807\r\n\r\nhel", b"hel", "close"),
    cut("close-delimited-reset", OK + b"\r\nhel", b"hel", "reset"),
    cut("chunked-eof-before-chunk", CHUNKED, b"", "close"),
    cut("chunked-eof-in-size", CHUNKED + b"2", b"", "close"),
    cut("chunked-eof-in-data", CHUNKED + b"5\r\nhel", b"hel", "close"),
    cut("chunked-eof-after-chunk", CHUNKED + b"3\r\nhel\r\n", b"hel", "close"),
    cut("chunked-eof-in-last-chunk", CHUNKED + b"3\r\nhel\r\n0\r\n", b"hel", "close"),
    cut("chunked-eof-in-trailers", CHUNKED + b"3\r\nhel\r\n0\r\nX: 1\r\n", b"hel", "close"),
    cut("chunked-reset", CHUNKED + b"3\r\nhel\r\n", b"hel", "reset"),
    cut("chunked-bad-size", CHUNKED + b"3\r\nhel\r\nzz\r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-size-plus", CHUNKED + b"3\r\nhel\r\n+2\r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-size-space", CHUNKED + b"3\r\nhel\r\n2 \r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-size-2-64", CHUNKED + b"3\r\nhel\r\n10000000000000002\r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-bare-lf", CHUNKED + b"3\r\nhel\r\n2\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-data-without-crlf", CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", b"hel"),
    cut("chunked-data-end-other-bytes", CHUNKED + b"3\r\nhelXX0\r\n\r\n", b"hel"),
    cut("chunked-data-end-lf-lf", CHUNKED + b"3\r\nhel\n\n0\r\n\r\n", b"hel"),
    cut("chunked-zeros", CHUNKED + b"3\r\nhel\r\n" + b"0" * 70_000 + b"2\r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-extension-huge", CHUNKED + b"3\r\nhel\r\n2;" + b"x" * 70_000 + b"\r\nlo\r\n0\r\n\r\n", b"hel"),
    cut("chunked-trailer-length", CHUNKED + b"3\r\nhel\r\n0\r\nContent-Length: 5\r\n\r\n", b"hel"),
    cut("chunked-trailer-huge", CHUNKED + b"3\r\nhel\r\n0\r\nX: " + b"v" * 9216 + b"\r\n\r\n", b"hel"),
    cut("chunked-trailers-33", CHUNKED + b"3\r\nhel\r\n0\r\n" + b"".join(b"T-%d: 1\r\n" % n for n in range(33)) + b"\r\n", b"hel"),
    cut("chunked-trailer-bare-lf", CHUNKED + b"3\r\nhel\r\n0\r\nA: 1\nB: 2\r\n\r\n", b"hel"),
)  # fmt: skip

FINAL = OK + LEN2 + b"\r\nhi"


def after(id: str, item: str, interim: bytes, *statuses: int, **more: object) -> ResponseCase:
    """Interim responses in front of a good final one."""
    return relayed(id, item, interim + FINAL, Relayed(body=b"hi", length=b"2", interim=statuses), **more)  # type: ignore[arg-type]


INTERIM = (
    after("interim-103", "F3", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 103),
    after("interim-100-unasked", "F3", b"HTTP/1.1 100 Continue\r\n\r\n", 100),
    after("interim-102-103-199", "F3", b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n", 102, 103, 199),
    after("interim-16", "F3", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 16, *(103,) * 16),
    relayed("interim-http10-caller", "E9", b"HTTP/1.1 103 Early Hints\r\n\r\n" + FINAL, Relayed(body=b"hi", length=b"2", again=False), version=b"HTTP/1.0"),
    broken("interim-then-bad", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/2.0 200 OK\r\n\r\n", "F3"),
    broken("interim-then-eof", b"HTTP/1.1 103 Early Hints\r\n\r\n", "J4", "upstream_closed", then="close"),
    broken("interim-17", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + FINAL, "F3"),
    broken("interim-64-kib", (b"HTTP/1.1 103 Early Hints\r\nA: " + b"v" * 8000 + b"\r\n\r\n") * 9 + FINAL, "F3"),
    broken("switching-unasked", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "G3", "upgrade_failed"),
    broken("switching-unasked-bare", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "G3", "upgrade_failed"),
    broken("switching-after-103", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
           "G3", "upgrade_failed"),
)  # fmt: skip

CASES: tuple[ResponseCase, ...] = STATUS_LINES + FIELDS + GOOD + NO_BODY + BODIES + INTERIM
