"""Body framing of requests: B1-B7 of the sidecar spec, and the smuggling classics."""

# ruff: noqa: E501 - one case is one line: raw bytes broken over lines are harder to judge

from typing import Any

from tests.corpus.cases import Cut, Either, Forwarded, Refused, RequestCase
from tests.corpus.short import HOST, cut, served, wrong

POST = b"POST /p HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def posted(**seen: Any) -> Forwarded:
    """What U must see of a request that begins with POST."""
    return Forwarded(method=b"POST", target=b"/p", **seen)


def length(id: str, value: bytes, word: str = "") -> RequestCase:
    """A Content-Length that is refused; a second request lies in wait behind it."""
    return wrong(id, "B1", POST + b"Content-Length:" + value + b"\r\n\r\nhello" + NEXT, word=word)


def framing(id: str, lines: bytes, item: str = "B1", word: str = "") -> RequestCase:
    """Contradictory framing lines, with a body that each reading cuts elsewhere."""
    return wrong(id, item, POST + lines + b"\r\n0\r\n\r\n" + NEXT, word=word)


def coding(id: str, value: bytes, version: bytes = b"HTTP/1.1", word: str = "") -> RequestCase:
    """A Transfer-Encoding that is refused, in front of a well-formed chunked body."""
    raw = b"POST /p " + version + b"\r\n" + HOST + b"Transfer-Encoding:" + value + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + NEXT
    return wrong(id, "B2", raw, word=word)


LENGTHS = (
    length("length-plus", b" +5"),
    length("length-minus", b" -5"),
    length("length-hex", b" 0x5"),
    length("length-underscore", b" 5_0"),
    length("length-exponent", b" 1e1"),
    length("length-decimal-point", b" 5.0"),
    length("length-empty", b""),
    length("length-blank", b" \t "),
    length("length-list-equal", b" 5, 5"),
    length("length-list-different", b" 5, 6"),
    length("length-list-no-space", b" 5,5"),
    length("length-two-words", b" 5 5"),
    length("length-semicolon", b" 5;"),
    length("length-quoted", b' "5"'),
    length("length-arabic-digit", b" \xd9\xa5"),
    length("length-full-width-digit", b" \xef\xbc\x95"),
    length("length-superscript", b" \xb2"),
    length("length-letters", b" five"),
    length("length-nbsp", b" 5\xa0"),
    length("length-vertical-tab", b" \x0b5"),
    length("length-nul", b" 5\x00"),
    length("length-2-63", b" 9223372036854775808"),
    length("length-2-64-minus-1", b" 18446744073709551615"),
    length("length-2-64", b" 18446744073709551616"),
    length("length-2-64-and-5", b" 18446744073709551621"),
    length("length-40-digits", b" " + b"9" * 40),
    framing("length-then-coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
    framing("coding-then-length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
    framing("coding-with-length-zero", b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
    framing("length-two-equal", b"Content-Length: 5\r\nContent-Length: 5\r\n"),
    framing("length-two-different", b"Content-Length: 5\r\nContent-Length: 6\r\n"),
    framing("length-two-mixed-case", b"Content-Length: 5\r\nA: 1\r\ncONTENT-lENGTH: 5\r\n"),
    framing("length-two-zero-and-five", b"Content-Length: 0\r\nContent-Length: 5\r\n"),
    framing("length-space-before-colon", b"Content-Length : 5\r\n"),
    framing("length-folded", b"Content-Length:\r\n 5\r\n"),
    framing("length-twin", b"Content_Length: 5\r\n", "B1"),
    framing("length-twin-beside", b"Content-Length: 5\r\nCONTENT_LENGTH: 0\r\n", "B1"),
    framing("coding-twin", b"Transfer_Encoding: chunked\r\n", "B2"),
    framing("coding-twin-beside-length", b"Content-Length: 5\r\ntransfer_encoding: chunked\r\n", "B2"),
    framing("coding-space-before-colon-and-length", b"Content-Length: 5\r\nTransfer-Encoding : chunked\r\n", "B2"),
    framing("coding-hidden-by-lf", b"Content-Length: 5\r\nA: 1\nTransfer-Encoding: chunked\r\n", "B2"),
    framing("coding-folded", b"Content-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\n", "B2"),
    framing("coding-identity-and-length", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "B2"),
    framing("coding-bogus-and-length", b"Content-Length: 5\r\nTransfer-Encoding: cow\r\n", "B2"),
)

CODINGS = (
    coding("coding-gzip", b" gzip", word="bad_te"),
    coding("coding-gzip-chunked", b" gzip, chunked", word="bad_te"),
    coding("coding-chunked-gzip", b" chunked, gzip", word="bad_te"),
    coding("coding-chunked-twice", b" chunked, chunked", word="bad_te"),
    coding("coding-leading-comma", b" ,chunked", word="bad_te"),
    coding("coding-trailing-comma", b" chunked,", word="bad_te"),
    coding("coding-identity", b" identity", word="bad_te"),
    coding("coding-identity-chunked", b" identity, chunked", word="bad_te"),
    coding("coding-parameter", b" chunked;x", word="bad_te"),
    coding("coding-parameter-q", b" chunked;q=0.5", word="bad_te"),
    coding("coding-vertical-tab", b" \x0bchunked"),
    coding("coding-nul", b" chunked\x00"),
    coding("coding-prefix", b" xchunked", word="bad_te"),
    coding("coding-suffix", b" chunkedx", word="bad_te"),
    coding("coding-quoted", b' "chunked"', word="bad_te"),
    coding("coding-single-quoted", b" 'chunked'", word="bad_te"),
    coding("coding-two-words", b" chunked chunked", word="bad_te"),
    coding("coding-nbsp", b" chunked\xa0"),
    coding("coding-empty", b"", word="bad_te"),
    coding("coding-two-lines", b" chunked\r\nTransfer-Encoding: chunked"),
    coding("coding-two-lines-gzip-first", b" gzip\r\nTransfer-Encoding: chunked"),
    coding("coding-two-lines-gzip-last", b" chunked\r\nTransfer-Encoding: gzip"),
    coding("coding-two-lines-cow", b" chunked\r\ntransfer-encoding: cow"),
    coding("coding-http10", b" chunked", b"HTTP/1.0", "bad_te"),
    coding("coding-http10-gzip", b" gzip", b"HTTP/1.0"),
    coding("coding-http10-keep-alive", b" chunked\r\nConnection: keep-alive", b"HTTP/1.0", "bad_te"),
)

MADE_AGAIN = (
    served("length-leading-zeros", "B1", POST + b"Content-Length: 005\r\n\r\nhello", posted(length=b"5", body=b"hello")),
    served("length-many-zeros", "B1", POST + b"Content-Length: " + b"0" * 40 + b"5\r\n\r\nhello",
           posted(length=b"5", body=b"hello")),
    served("length-trimmed", "B1", POST + b"Content-Length: \t5\t \r\n\r\nhello", posted(length=b"5", body=b"hello")),
    served("length-zero", "B5", POST + b"Content-Length: 0\r\n\r\n", posted(length=b"0")),
    served("length-zeros", "B5", POST + b"Content-Length: 000\r\n\r\n", posted(length=b"0")),
    served("length-zero-get", "B5", b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", Forwarded(length=b"0")),
    served("length-zero-head", "B5", b"HEAD / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", Forwarded(method=b"HEAD", length=b"0")),
    served("length-zero-delete", "B5", b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", Forwarded(method=b"DELETE", length=b"0")),
    served("length-get-with-body", "B5", b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", Forwarded(length=b"5", body=b"hello")),
    served("length-head-with-body", "B5", b"HEAD / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
           Forwarded(method=b"HEAD", length=b"5", body=b"hello")),
    served("length-delete-with-body", "B5", b"DELETE / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
           Forwarded(method=b"DELETE", length=b"5", body=b"hello")),
    served("length-none-post", "B5", POST + b"\r\n", posted()),
    served("length-http10-post", "B5", b"POST /p HTTP/1.0\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
           posted(length=b"5", body=b"hello", closes=True)),
    served("length-body-looks-like-a-request", "B5", POST + b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT,
           posted(length=b"%d" % len(NEXT), body=NEXT)),
    served("length-bytes-past-it", "B7", POST + b"Content-Length: 5\r\n\r\nhello" + NEXT,
           posted(length=b"5", body=b"hello"), Forwarded(target=b"/smuggled")),
    served("length-garbage-past-it", "B7", POST + b"Content-Length: 5\r\n\r\nhelloXX\r\n\r\n",
           posted(length=b"5", body=b"hello"), Refused(code="bad_request")),
    served("length-body-every-byte", "B5", POST + b"Content-Length: 256\r\n\r\n" + bytes(range(256)),
           posted(length=b"256", body=bytes(range(256)))),
    served("length-body-200-kb", "B5", POST + b"Content-Length: 200000\r\n\r\n" + b"ab" * 100_000,
           posted(length=b"200000", body=b"ab" * 100_000)),
    served("coding-mixed-case", "B2", POST + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
           posted(chunked=True, body=b"hello")),
    served("coding-upper-case-trimmed", "B2", POST + b"TRANSFER-ENCODING:\t CHUNKED \r\n\r\n5\r\nhello\r\n0\r\n\r\n",
           posted(chunked=True, body=b"hello")),
    served("coding-tab-behind", "B2", POST + b"Transfer-Encoding: chunked\t\r\n\r\n5\r\nhello\r\n0\r\n\r\n",  # llhttp itself refuses it
           Either(verdicts=(Refused(code="bad_request"), posted(chunked=True, body=b"hello")))),
    served("coding-get", "B5", b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
           Forwarded(chunked=True, body=b"hello")),
    served("coding-get-empty", "B5", b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Forwarded(chunked=True)),
    served("coding-head", "B5", b"HEAD / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
           Forwarded(method=b"HEAD", chunked=True, body=b"x")),
)  # fmt: skip


def chunks(id: str, body: bytes, item: str = "B3") -> RequestCase:
    """A chunked body that is refused part-way, with a request in wait behind it."""
    return wrong(id, item, CHUNKED + body + NEXT, begun=True)


def good(id: str, body: bytes, seen: bytes, *trailers: tuple[bytes, bytes], item: str = "B3") -> RequestCase:
    """A chunked body that U must see whole."""
    return served(id, item, CHUNKED + body, posted(chunked=True, body=seen, trailers=trailers))


CHUNKS = (
    chunks("chunk-size-hex-prefix", b"0x1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-plus", b"+1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-minus", b"-1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-underscore", b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n"),
    chunks("chunk-size-space-before", b" 1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-space-behind", b"1 \r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-tab-behind", b"1\t\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-empty", b"\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-only-extension", b";x=1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-letter", b"g\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-2-64", b"10000000000000000\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-2-64-and-1", b"10000000000000001\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-20-digits", b"F" * 20 + b"\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-arabic-digit", b"\xd9\xa1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-two-words", b"1 1\r\na\r\n0\r\n\r\n"),
    chunks("chunk-size-nul", b"1\x00\r\na\r\n0\r\n\r\n"),
    chunks("chunk-line-bare-lf", b"1\na\r\n0\r\n\r\n"),
    chunks("chunk-line-bare-cr", b"1\ra\r\n0\r\n\r\n"),
    chunks("chunk-data-without-crlf", b"1\r\nab\r\n0\r\n\r\n"),
    chunks("chunk-data-bare-lf", b"1\r\na\n0\r\n\r\n"),
    chunks("chunk-data-bare-cr", b"1\r\na\r0\r\n\r\n"),
    chunks("chunk-data-no-end", b"1\r\na0\r\n\r\n"),
    chunks("chunk-data-end-other-bytes", b"1\r\naXX0\r\n\r\n"),
    chunks("chunk-data-end-lf-lf", b"1\r\na\n\n0\r\n\r\n"),
    chunks("chunk-data-end-cr-cr", b"1\r\na\r\r0\r\n\r\n"),
    chunks("chunk-data-end-lf-cr", b"1\r\na\n\r0\r\n\r\n"),
    chunks("chunk-data-end-hides-a-size", b"1\r\na0\r5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk-data-too-long", b"5\r\nhello!\r\n0\r\n\r\n"),
    chunks("chunk-data-too-short", b"5\r\nhell\r\n0\r\n\r\n"),
    chunks("chunk-second-size-bad", b"1\r\na\r\nZZ\r\nb\r\n0\r\n\r\n"),
    chunks("chunk-last-bare-lf", b"1\r\na\r\n0\n\r\n"),
    chunks("chunk-end-bare-lf", b"1\r\na\r\n0\r\n\nX\r\n\r\n"),
    chunks("chunk-extension-nul", b"1;a=\x00\r\na\r\n0\r\n\r\n"),
    chunks("chunk-extension-bare-lf", b"1;a\nb\r\na\r\n0\r\n\r\n"),
    chunks("chunk-extension-bare-cr", b"1;a\rb\r\na\r\n0\r\n\r\n"),
    chunks("chunk-extension-lf-in-quotes", b'1;a="\n"\r\na\r\n0\r\n\r\n'),
    chunks("chunk-extension-1-mib", b"1;" + b"a" * (1 << 20) + b"\r\na\r\n0\r\n\r\n", "B4"),
    chunks("chunk-extension-value-1-mib", b"1;a=" + b"a" * (1 << 20) + b"\r\na\r\n0\r\n\r\n", "B4"),
    chunks("chunk-zeros-1-mib", b"0" * (1 << 20) + b"1\r\na\r\n0\r\n\r\n", "B4"),
    chunks("chunk-last-zeros-1-mib", b"1\r\na\r\n" + b"0" * (1 << 20) + b"\r\n\r\n", "B4"),
    chunks("chunk-extensions-many-small", (b"1;" + b"a" * 80 + b"\r\na\r\n") * 2000, "B4"),
    good("chunk-one", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    good("chunk-two", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    good("chunk-hex-upper", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    good("chunk-hex-lower", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    good("chunk-leading-zeros", b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    good("chunk-data-is-crlf", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    good("chunk-data-looks-like-the-end", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    good("chunk-extension", b"5;a=b\r\nhello\r\n0;last\r\n\r\n", b"hello", item="B4"),
    good("chunk-extension-quoted", b'5;a="b;c, d"\r\nhello\r\n0\r\n\r\n', b"hello", item="B4"),
    good("chunk-many-one-byte", b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n", b"x" * 3000, item="B8"),
    RequestCase(
        id="chunk-extension-bad-whitespace",
        item="B4",
        raw=CHUNKED + b"5 ; a = b\r\nhello\r\n0\r\n\r\n",
        verdicts=(
            Either(verdicts=(Refused(code="bad_request", begun=True), posted(chunked=True, body=b"hello"))),
        ),
    ),
    served("chunk-then-next-request", "B7", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n" + NEXT,
           posted(chunked=True, body=b"hello"), Forwarded(target=b"/smuggled")),
    served("chunk-then-garbage", "B7", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n\x00\x01\r\n\r\n",
           posted(chunked=True, body=b"hello"), Refused(code="bad_request")),
)  # fmt: skip

DENIED = (
    b"Host Authorization Proxy-Authorization Proxy-Authenticate Proxy-Anything Cookie Set-Cookie Content-Type Content-Encoding "
    b"Content-Range Connection Upgrade X-Api-Key Private_Token x-vault-token"
).split()


def tail(id: str, lines: bytes) -> RequestCase:
    """Trailer lines that are refused."""
    return chunks(id, b"5\r\nhello\r\n0\r\n" + lines + b"\r\n", "B6")


TRAILERS = (
    good("trailer-one", b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", b"hello", (b"X-Sum", b"1"), item="B6"),
    good("trailer-case-order-repetition", b"5\r\nhello\r\n0\r\nb: 1\r\nA: 2 \r\nB:3\r\n\r\n", b"hello",
         (b"b", b"1"), (b"A", b"2"), (b"B", b"3"), item="B6"),
    good("trailer-high-bytes", b"1\r\nx\r\n0\r\nX: \x80\xff\ty\r\n\r\n", b"x", (b"X", b"\x80\xff\ty"), item="B6"),
    good("trailer-32", b"1\r\nx\r\n0\r\n" + b"".join(b"T-%d: 1\r\n" % n for n in range(32)) + b"\r\n", b"x",
         *((b"T-%d" % n, b"1") for n in range(32)), item="B6"),
    good("trailer-denied-all", b"1\r\nx\r\n0\r\n" + b"".join(name + b": canary-secret\r\n" for name in DENIED) + b"X-Sum: 1\r\n\r\n", b"x",
         (b"X-Sum", b"1"), item="B6"),
    good("trailer-without-body", b"0\r\nX-Sum: 1\r\n\r\n", b"", (b"X-Sum", b"1"), item="B6"),
    served("trailer-announced", "B6", POST + b"Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n",
           posted(chunked=True, body=b"x", trailers=((b"X-Sum", b"1"),))),
    tail("trailer-33", b"".join(b"T-%d: 1\r\n" % n for n in range(33))),
    tail("trailer-9-kib", b"T: " + b"v" * 9216 + b"\r\n"),
    tail("trailer-1-mib", b"T: " + b"v" * (1 << 20) + b"\r\n"),
    tail("trailer-content-length", b"Content-Length: 5\r\n"),
    tail("trailer-transfer-encoding", b"Transfer-Encoding: chunked\r\n"),
    tail("trailer-content-length-mixed-case", b"X: 1\r\ncONTENT-lENGTH: 0\r\n"),
    tail("trailer-bare-lf", b"A: 1\nB: 2\r\n"),
    tail("trailer-bare-cr", b"A: 1\rB: 2\r\n"),
    tail("trailer-fold", b"A: 1\r\n 2\r\n"),
    tail("trailer-space-before-colon", b"A : 1\r\n"),
    tail("trailer-no-colon", b"A\r\n"),
    tail("trailer-empty-name", b": 1\r\n"),
    tail("trailer-nul", b"A: \x00\r\n"),
    tail("trailer-name-not-a-token", b"A(B: 1\r\n"),
    tail("trailer-is-a-request", b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n"),
)  # fmt: skip

LEAVING = (
    cut("leave-in-method", "B7", b"GE"),
    cut("leave-in-head", "B7", b"GET / HTTP/1.1\r\nHost: loc"),
    cut("leave-before-end-of-head", "B7", b"GET / HTTP/1.1\r\n" + HOST),
    cut("leave-before-body", "B7", POST + b"Content-Length: 5\r\n\r\n"),
    cut("leave-in-body", "B7", POST + b"Content-Length: 5\r\n\r\nhell"),
    cut("leave-in-huge-body", "B7", POST + b"Content-Length: 9223372036854775807\r\n\r\nhello"),
    cut("leave-before-chunk", "B7", CHUNKED),
    cut("leave-in-chunk-size", "B7", CHUNKED + b"5"),
    cut("leave-in-chunk-line", "B7", CHUNKED + b"5\r"),
    cut("leave-in-chunk-data", "B7", CHUNKED + b"5\r\nhel"),
    cut("leave-after-chunk-data", "B7", CHUNKED + b"5\r\nhello"),
    cut("leave-after-chunk", "B7", CHUNKED + b"5\r\nhello\r\n"),
    cut("leave-in-last-chunk", "B7", CHUNKED + b"5\r\nhello\r\n0"),
    cut("leave-before-trailers", "B7", CHUNKED + b"5\r\nhello\r\n0\r\n"),
    cut("leave-in-trailers", "B7", CHUNKED + b"5\r\nhello\r\n0\r\nX: 1\r\n"),
    cut("leave-in-half-a-huge-chunk", "B7", CHUNKED + b"7fffffffffffffff\r\nhello"),
    RequestCase(
        id="leave-after-a-good-request",
        item="B7",
        raw=b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + POST + b"Content-Length: 5\r\n\r\nhe",
        verdicts=(Forwarded(target=b"/1"), Cut()),
    ),
)

BAD = b"GET /bad HTTP/1.1\r\nHost: a b\r\n\r\n"
PIPELINES = (
    served("pipeline-two", "A12", b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
           Forwarded(target=b"/1"), Forwarded(target=b"/2")),
    served("pipeline-mixed-framing", "A12",
           POST + b"Content-Length: 5\r\n\r\nhello" + CHUNKED + b"2\r\nhi\r\n0\r\n\r\nHEAD /h HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT,
           posted(length=b"5", body=b"hello"), posted(chunked=True, body=b"hi"),
           Forwarded(method=b"HEAD", target=b"/h"), Forwarded(target=b"/smuggled")),
    served("pipeline-good-then-bad", "A11", b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + BAD + NEXT, Forwarded(target=b"/1"), Refused(code="bad_request")),
    served("pipeline-bad-then-good", "A11", BAD + NEXT, Refused(code="bad_request", word="bad_host")),
    served("pipeline-good-good-bad-chunk", "A11", b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"\r\n" + CHUNKED + b"x\r\n" + NEXT,
           Forwarded(target=b"/1"), Forwarded(target=b"/2"), Refused(code="bad_request", begun=True)),
    served("pipeline-after-close", "A11", b"GET /1 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n" + NEXT, Forwarded(target=b"/1", closes=True)),
    served("pipeline-after-http10", "A11", b"GET /1 HTTP/1.0\r\n" + HOST + b"\r\n" + NEXT, Forwarded(target=b"/1", closes=True)),
    served("pipeline-after-policy-refusal", "A11", b"GET /1 HTTP/1.1\r\nHost: evil.example\r\n\r\n" + NEXT,
           Refused(code="host_not_allowed"), Forwarded(target=b"/smuggled")),
    served("pipeline-after-method-refusal", "A11", b"TRACE /1 HTTP/1.1\r\n" + HOST + b"\r\n" + NEXT, Refused(code="method_refused")),
    served("pipeline-after-version-refusal", "A11", b"GET /1 HTTP/3.0\r\n" + HOST + b"\r\n" + NEXT, Refused(code="version_not_supported")),
    served("pipeline-connect-then-tunnel-bytes", "A11", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n" + NEXT,
           Refused(code="method_refused")),
)  # fmt: skip

CASES: tuple[RequestCase, ...] = LENGTHS + CODINGS + MADE_AGAIN + CHUNKS + TRAILERS + LEAVING + PIPELINES
