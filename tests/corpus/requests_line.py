"""Request lines, methods, versions and targets: A1, A3, A4, A5, A7, A8, A9 of the sidecar spec."""

from tests.corpus.cases import Answered, Either, Forwarded, Refused, RequestCase
from tests.corpus.short import HOST, served, wrong

KIB = 1024


def line(id: str, item: str, raw_line: bytes, code: str = "bad_request", word: str = "") -> RequestCase:
    """A refused request line in front of an otherwise good head."""
    return wrong(id, item, raw_line + b"\r\n" + HOST + b"\r\n", code, word)


LINES = (
    # A3: the line is exactly TOKEN SP target SP HTTP/1.[01]
    line("line-tab-after-method", "A3", b"GET\t/ HTTP/1.1"),
    line("line-tab-before-version", "A3", b"GET /\tHTTP/1.1"),
    line("line-two-spaces-after-method", "A3", b"GET  / HTTP/1.1"),
    line("line-two-spaces-before-version", "A3", b"GET /  HTTP/1.1"),
    line("line-space-at-end", "A3", b"GET / HTTP/1.1 "),
    line("line-tab-at-end", "A3", b"GET / HTTP/1.1\t"),
    line("line-space-before-method", "A3", b" GET / HTTP/1.1"),
    line("line-vertical-tab-separator", "A3", b"GET\x0b/ HTTP/1.1"),
    line("line-form-feed-separator", "A3", b"GET\x0c/ HTTP/1.1"),
    line("line-nbsp-separator", "A3", b"GET\xa0/ HTTP/1.1"),
    line("line-http09-simple", "A3", b"GET /"),
    line("line-http09-with-space", "A3", b"GET / "),
    line("line-http09-spelled-out", "A3", b"GET / HTTP/0.9"),
    line("line-http-1-10", "A3", b"GET / HTTP/1.10"),
    line("line-http-01-1", "A3", b"GET / HTTP/01.1"),
    line("line-http-1-only", "A3", b"GET / HTTP/1"),
    line("line-http-1-dot", "A3", b"GET / HTTP/1."),
    line("line-http-11-without-dot", "A3", b"GET / HTTP/11"),
    line("line-http-comma", "A3", b"GET / HTTP/1,1"),
    line("line-http-letters-behind", "A3", b"GET / HTTP/1.1x"),
    line("line-http-words-behind", "A3", b"GET / HTTP/1.1 HTTP/1.1"),
    line("line-http-lower-case", "A3", b"GET / http/1.1"),
    line("line-http-mixed-case", "A3", b"GET / Http/1.1"),
    line("line-http-space-in-version", "A3", b"GET / HTTP/ 1.1"),
    line("line-http-minus", "A3", b"GET / HTTP/-1.1"),
    line("line-http-no-slash", "A3", b"GET / HTTP1.1"),
    line("line-http-arabic-digit", "A3", b"GET / HTTP/1.\xd9\xa1"),
    line("line-http-full-width-digit", "A3", b"GET / HTTP/\xef\xbc\x91.1"),
    line("line-http-superscript-digit", "A3", b"GET / HTTP/1.\xb9"),
    line("line-only-method", "A3", b"GET"),
    line("line-no-target", "A3", b"GET HTTP/1.1"),
    line("line-space-in-target", "A3", b"GET /a b HTTP/1.1"),
    line("line-nul-in-target", "A3", b"GET /a\x00b HTTP/1.1"),
    line("line-ctl-in-target", "A3", b"GET /a\x1fb HTTP/1.1"),
    line("line-del-in-target", "A3", b"GET /a\x7fb HTTP/1.1"),
    line("line-cr-in-target", "A1", b"GET /a\rb HTTP/1.1"),
    line("line-utf8-in-target", "A3", b"GET /caf\xc3\xa9 HTTP/1.1"),
    line("line-latin1-in-target", "A3", b"GET /\xe9 HTTP/1.1"),
    line("version-1-2", "A3", b"GET / HTTP/1.2", "version_not_supported"),
    line("version-1-9", "A3", b"GET / HTTP/1.9", "version_not_supported"),
    line("version-2-0", "A3", b"GET / HTTP/2.0", "version_not_supported"),
    line("version-3-0", "A3", b"GET / HTTP/3.0", "version_not_supported"),
    line("version-rtsp", "A3", b"GET / RTSP/1.0", "version_not_supported"),
    line("version-ice", "A3", b"GET / ICE/1.0", "version_not_supported"),
    line("version-http2-preface-line", "A3", b"PRI * HTTP/2.0", "version_not_supported"),
    wrong("http2-preface", "A3", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "version_not_supported"),
    wrong("line-bare-lf", "A1", b"GET / HTTP/1.1\n" + HOST + b"\r\n"),
    wrong("line-bare-cr", "A1", b"GET / HTTP/1.1\r" + HOST + b"\r\n"),
    wrong("line-cr-cr-lf", "A1", b"GET / HTTP/1.1\r\r\n" + HOST + b"\r\n"),
    wrong("line-all-bare-lf", "A1", b"GET / HTTP/1.1\nHost: localhost\n\n"),
    wrong("line-tls-client-hello", "A1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\n\r\n"),
    wrong("line-ssh-banner", "A1", b"SSH-2.0-Client_9.0\r\n\r\n"),
    wrong("line-proxy-protocol", "A1", b"PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("line-json", "A1", b'{"method": "GET"}\r\n\r\n'),
    wrong("line-response-instead", "A1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
)

METHODS = (
    line("method-lower-case", "A4", b"get / HTTP/1.1", "method_unknown"),
    line("method-mixed-case", "A4", b"Get / HTTP/1.1", "method_unknown"),
    line("method-unknown", "A4", b"BREW / HTTP/1.1", "method_unknown"),
    line("method-with-known-prefix", "A4", b"GETX / HTTP/1.1", "method_unknown"),
    line("method-very-long", "A4", b"A" * 200 + b" / HTTP/1.1", "method_unknown"),
    line("method-odd-token", "A4", b"!#$%&'*+-.^_`|~ / HTTP/1.1", "method_unknown"),
    line("method-not-a-token", "A3", b"G@T / HTTP/1.1"),
    line("method-with-nul", "A3", b"GE\x00T / HTTP/1.1"),
    line("method-empty", "A3", b" / HTTP/1.1"),
    line("method-connect-authority", "A4", b"CONNECT evil.example:443 HTTP/1.1", "method_refused"),
    line("method-connect-path", "A4", b"CONNECT / HTTP/1.1", "method_refused"),
    line("method-trace", "A4", b"TRACE / HTTP/1.1", "method_refused"),
    wrong("method-trace-max-forwards", "A4", b"TRACE / HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\n\r\n", "method_refused"),
    RequestCase(
        id="method-webdav",
        item="A4",
        raw=b"PROPFIND / HTTP/1.1\r\n" + HOST + b"\r\n",
        verdicts=(Either(verdicts=(Forwarded(method=b"PROPFIND"), Refused(code="method_refused"), Refused(code="method_unknown"))),),
    ),
    *(
        served(f"method-{name.decode().lower()}", "A4", name + b" /x HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(method=name, target=b"/x"))
        for name in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")
    ),
    served("options-star", "A4", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", Answered()),
    served("options-star-base", "A4", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", Answered(), base=b"/b"),
    served("options-max-forwards-0", "A4", b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\n\r\n", Answered()),
    served(
        "options-max-forwards-5",
        "A4",
        b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"Max-Forwards: 5\r\n\r\n",
        Forwarded(method=b"OPTIONS", target=b"/x", fields=((b"Max-Forwards", b"4"),)),
    ),
    served(
        "options-max-forwards-00",
        "A4",
        b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"Max-Forwards: 00\r\n\r\n",
        Either(verdicts=(Answered(), Refused(code="bad_request"))),
    ),
    served(
        "options-max-forwards-twice",
        "A4",
        b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\nMax-Forwards: 5\r\n\r\n",
        Either(verdicts=(Answered(), Refused(code="bad_request"))),
    ),
    served(
        "options-max-forwards-twin",
        "A4",
        b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"max_forwards: 0\r\nMax-Forwards: 5\r\n\r\n",
        Either(
            verdicts=(
                Answered(),
                Refused(code="bad_request"),
                Forwarded(method=b"OPTIONS", target=b"/x", fields=((b"max_forwards", b"0"), (b"Max-Forwards", b"4"))),
            )
        ),
    ),
    served(
        "options-max-forwards-10-keeps-its-place",
        "A4",
        b"OPTIONS /x HTTP/1.1\r\n" + HOST + b"A: 1\r\nmax-forwards: 10\r\nB: 2\r\n\r\n",
        Forwarded(method=b"OPTIONS", target=b"/x", fields=((b"A", b"1"), (b"max-forwards", b"9"), (b"B", b"2"))),
    ),
    served(
        "get-max-forwards-untouched",
        "A4",
        b"GET /x HTTP/1.1\r\n" + HOST + b"Max-Forwards: 0\r\n\r\n",
        Forwarded(target=b"/x", fields=((b"Max-Forwards", b"0"),)),
    ),
)

LEADING = (
    served("leading-one-crlf", "A5", b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded()),
    served("leading-four-crlf", "A5", b"\r\n" * 4 + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded()),
    wrong("leading-five-crlf", "A5", b"\r\n" * 5 + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-lf", "A5", b"\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-cr", "A5", b"\rGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-crlf-lf", "A5", b"\r\n\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-cr-cr-lf", "A5", b"\r\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-nul", "A5", b"\x00GET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    wrong("leading-bom", "A5", b"\xef\xbb\xbfGET / HTTP/1.1\r\n" + HOST + b"\r\n"),
    served(
        "leading-crlf-between-requests",
        "A5",
        b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + b"\r\n" * 4 + b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
        Forwarded(target=b"/1"),
        Forwarded(target=b"/2"),
    ),
    served(
        "leading-five-crlf-between-requests",
        "A5",
        b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\n" + b"\r\n" * 5 + b"GET /2 HTTP/1.1\r\n" + HOST + b"\r\n",
        Forwarded(target=b"/1"),
        Refused(code="bad_request"),
    ),
)

ABSOLUTE = (
    served("absolute-own", "A7", b"GET http://127.0.0.1:4000/x HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=b"/x")),
    served(
        "absolute-own-foreign-host",
        "A7",
        b"GET http://127.0.0.1:4000/x?y HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        Forwarded(target=b"/x?y"),
    ),
    served("absolute-no-path", "A7", b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=b"/")),
    served("absolute-query-without-path", "A7", b"GET http://localhost?a=1 HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=b"/?a=1")),
    served("absolute-v6", "A7", b"GET http://[::1]:4000/x HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=b"/x")),
    served(
        "absolute-base",
        "A7",
        b"GET http://localhost/x HTTP/1.1\r\n" + HOST + b"\r\n",
        Forwarded(target=b"/b/x"),
        base=b"/b",
    ),
    served(
        "absolute-url-in-path", "A9", b"GET /http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=b"/http://evil.example/")
    ),
    line("absolute-foreign", "A7", b"GET http://evil.example/x HTTP/1.1", "host_not_allowed"),
    line("absolute-foreign-port-80", "A7", b"GET http://169.254.169.254:80/latest HTTP/1.1", "host_not_allowed"),
    line("absolute-https", "A7", b"GET https://127.0.0.1:4000/x HTTP/1.1"),
    line("absolute-ftp", "A7", b"GET ftp://127.0.0.1/x HTTP/1.1"),
    line("absolute-ws", "A7", b"GET ws://127.0.0.1/x HTTP/1.1"),
    line("absolute-userinfo", "A7", b"GET http://user@127.0.0.1:4000/x HTTP/1.1"),
    line("absolute-userinfo-password", "A7", b"GET http://user:pass@127.0.0.1:4000/x HTTP/1.1"),
    line("absolute-userinfo-confusing", "A7", b"GET http://127.0.0.1:4000@evil.example/x HTTP/1.1"),
    line("absolute-empty-authority", "A7", b"GET http:///x HTTP/1.1"),
    line("absolute-bad-port", "A7", b"GET http://127.0.0.1:99999/x HTTP/1.1"),
    line("absolute-letters-port", "A7", b"GET http://127.0.0.1:80a/x HTTP/1.1"),
    line("absolute-backslash-authority", "A7", b"GET http://127.0.0.1\\@evil.example/x HTTP/1.1"),
    line("absolute-one-slash", "A7", b"GET http:/127.0.0.1/x HTTP/1.1"),
    wrong("absolute-without-host", "A6", b"GET http://127.0.0.1:4000/x HTTP/1.1\r\n\r\n", word="bad_host"),
    line("target-authority-form", "A7", b"GET 127.0.0.1:4000 HTTP/1.1"),
    line("target-relative", "A7", b"GET x HTTP/1.1"),
    line("target-query-only", "A7", b"GET ?x HTTP/1.1"),
    line("target-star-get", "A7", b"GET * HTTP/1.1"),
    line("target-star-and-more", "A7", b"OPTIONS *x HTTP/1.1"),
    line("target-options-star-slash", "A7", b"OPTIONS */ HTTP/1.1"),
)


def target(id: str, sent: bytes, seen: bytes, base: bytes = b"") -> RequestCase:
    """A target and what U must see of it."""
    return served(id, "A9", b"GET " + sent + b" HTTP/1.1\r\n" + HOST + b"\r\n", Forwarded(target=seen), base=base)


def dots(id: str, sent: bytes) -> RequestCase:
    """A dot segment under the base path /b."""
    return wrong(id, "A9", b"GET " + sent + b" HTTP/1.1\r\n" + HOST + b"\r\n", word="dot_segment", base=b"/b")


TARGETS = (
    target("target-verbatim", b'/a%2Fb%2f//../;x?a=%zz&"', b'/a%2Fb%2f//../;x?a=%zz&"'),
    target("target-odd-characters", b"/!$&'()*+,;=:@~-._[]{}|\\^`<>", b"/!$&'()*+,;=:@~-._[]{}|\\^`<>"),
    target("target-percent-nul", b"/%00%0d%0a%20", b"/%00%0d%0a%20"),
    target("target-lone-percent", b"/%", b"/%"),
    target("target-double-slash-host", b"//evil.example/x", b"//evil.example/x"),
    target("target-dots-without-base", b"/./a/../../b", b"/./a/../../b"),
    target("target-encoded-dots-without-base", b"/%2e%2E/x", b"/%2e%2E/x"),
    target("target-query-with-question-marks", b"/?a?b??", b"/?a?b??"),
    target("target-query-with-dots", b"/x?y=/../z", b"/b/x?y=/../z", b"/b"),
    target("target-base", b"/x?y", b"/b/x?y", b"/b"),
    target("target-base-root", b"/", b"/b/", b"/b"),
    target("target-base-double-slash", b"//x", b"/b//x", b"/b"),
    target("target-base-three-dots", b"/.../x", b"/b/.../x", b"/b"),
    target("target-base-hidden-file", b"/.x/..y/z.", b"/b/.x/..y/z.", b"/b"),
    target("target-base-dots-in-name", b"/a..b/c", b"/b/a..b/c", b"/b"),
    dots("base-dot-dot", b"/../x"),
    dots("base-encoded-dot-dot", b"/%2e%2E/x"),
    dots("base-half-encoded", b"/.%2e/x"),
    dots("base-half-encoded-other", b"/%2E./x"),
    dots("base-dot", b"/./x"),
    dots("base-encoded-dot", b"/%2e/x"),
    dots("base-dot-dot-at-end", b"/a/.."),
    dots("base-dot-at-end", b"/a/."),
    dots("base-dot-dot-before-query", b"/..?x=1"),
    dots("base-dot-dot-deep", b"/a/b/c/../../../../etc"),
    dots("base-dot-dot-after-double-slash", b"//../x"),
    dots("base-dot-dot-absolute-form", b"http://localhost/../x"),
    dots("base-dot-dot-path-parameter", b"/..;/x"),
    dots("base-dot-dot-named-parameter", b"/..;a=b/x"),
    dots("base-dot-dot-encoded-parameter", b"/..%3b/x"),
    dots("base-dot-dot-encoded-slash", b"/..%2fx"),
    dots("base-dot-dot-between-encoded-slashes", b"/a%2F..%2Fx"),
    dots("base-dot-dot-encoded-slash-at-end", b"/a%2f%2e%2e"),
    dots("base-dot-dot-backslash", b"/..\\x"),
    dots("base-dot-dot-between-backslashes", b"/a\\..\\x"),
    dots("base-dot-dot-encoded-backslash", b"/%2e%2e%5cx"),
    dots("base-dot-dot-twice-encoded", b"/%252e%252e%252fx"),
    dots("base-dot-dot-encoded-nul", b"/..%00/x"),
    dots("base-dot-dot-encoded-question-mark", b"/..%3fx"),
    target("target-base-encoded-slash", b"/group%2F..name/a%5cb", b"/b/group%2F..name/a%5cb", b"/b"),
    target("target-base-dots-in-parameter", b"/v1;..x/a;b=..", b"/b/v1;..x/a;b=..", b"/b"),
    target("target-encoded-climb-without-base", b"/..;/..%2f..%5c", b"/..;/..%2f..%5c"),
    line("target-fragment", "A9", b"GET /x#y HTTP/1.1"),
    line("target-fragment-only", "A9", b"GET /# HTTP/1.1"),
    line("target-fragment-in-query", "A9", b"GET /?a#b HTTP/1.1"),
    line("target-fragment-absolute", "A9", b"GET http://localhost/#b HTTP/1.1"),
)


def padded(size: int) -> bytes:
    """A good head of exactly `size` bytes, its empty line included."""
    start, end = b"GET /x HTTP/1.1\r\n" + HOST + b"X-Pad: ", b"\r\n\r\n"
    return start + b"p" * (size - len(start) - len(end)) + end


def pad_of(size: int) -> tuple[bytes, bytes]:
    """The padding field of `padded(size)`."""
    return (b"X-Pad", b"p" * padded(size).count(b"p"))


def many(count: int) -> bytes:
    """A head of `count` field lines, Host included."""
    return b"GET /x HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: 1\r\n" % n for n in range(count - 1)) + b"\r\n"


LIMITS = (
    target("target-16-kib", b"/" + b"a" * (16 * KIB - 1), b"/" + b"a" * (16 * KIB - 1)),
    line("target-16-kib-and-1", "A8", b"GET /" + b"a" * (16 * KIB) + b" HTTP/1.1", "target_too_long"),
    line("target-40-kib", "A8", b"GET /" + b"a" * (40 * KIB) + b" HTTP/1.1", "target_too_long"),
    served("head-64-kib", "A8", padded(64 * KIB), Forwarded(target=b"/x", fields=(pad_of(64 * KIB),))),
    wrong("head-64-kib-and-1", "A8", padded(64 * KIB + 1), "head_too_large"),
    wrong("head-200-kib", "A8", padded(200 * KIB), "head_too_large"),
    wrong("head-endless-name", "A8", b"GET / HTTP/1.1\r\n" + HOST + b"X" * (70 * KIB) + b": 1\r\n\r\n", "head_too_large"),
    wrong("head-never-ending", "A8", b"GET / HTTP/1.1\r\n" + HOST + b"X: 1\r\n" * (12 * KIB), "head_too_large"),
    served("head-100-fields", "A8", many(100), Forwarded(target=b"/x", fields=tuple((b"X-%d" % n, b"1") for n in range(99)))),
    wrong("head-101-fields", "A8", many(101), "head_too_large"),
    wrong("head-1000-fields", "A8", many(1000), "head_too_large"),
    RequestCase(
        id="line-70-kib-of-target",
        item="A8",
        raw=b"GET /" + b"a" * (70 * KIB) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        verdicts=(Either(verdicts=(Refused(code="target_too_long"), Refused(code="head_too_large"))),),
    ),
    wrong("line-70-kib-of-method", "A8", b"G" * (70 * KIB) + b" / HTTP/1.1\r\n" + HOST + b"\r\n", "head_too_large"),
)

CASES: tuple[RequestCase, ...] = LINES + METHODS + LEADING + ABSOLUTE + TARGETS + LIMITS
