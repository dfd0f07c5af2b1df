"""Field lines, Host, what is stripped and what is kept: A1, A2, A6, C1-C9, L4 of the sidecar spec."""

from tests.corpus.cases import Either, Fields, Forwarded, Refused, RequestCase
from tests.corpus.short import HOST, served, wrong

GET = b"GET / HTTP/1.1\r\n"


def field(id: str, raw_lines: bytes, item: str = "A1") -> RequestCase:
    """Bad field lines between a good request line with Host and the end of the head."""
    return wrong(id, item, GET + HOST + raw_lines + b"\r\n")


def host(id: str, raw_lines: bytes, code: str = "bad_request", word: str = "bad_host") -> RequestCase:
    """A head whose only fields are these Host lines."""
    return wrong(id, "A6", GET + raw_lines + b"\r\n", code, word)


def kept(id: str, item: str, raw_lines: bytes, *fields: tuple[bytes, bytes], via: bytes = b"") -> RequestCase:
    """Field lines, and which of them U must see, in order."""
    return served(id, item, GET + HOST + raw_lines + b"\r\n", Forwarded(fields=fields, via=via))


SYNTAX = (
    field("field-bare-lf", b"A: 1\nB: 2\r\n"),
    field("field-bare-cr", b"A: 1\rB: 2\r\n"),
    field("field-cr-at-end-of-value", b"A: 1\r\r\n"),
    field("field-lf-only-end-of-head", b"A: 1\r\n\n"),
    field("field-cr-x-instead-of-end", b"A: 1\r\n\rX"),
    wrong("field-cr-x-at-once", "A1", GET + HOST + b"\rX" + b"\r\n\r\n"),
    field("field-smuggled-by-lf", b"A: 1\nTransfer-Encoding: chunked\r\n"),
    field("field-smuggled-by-cr", b"A: 1\rTransfer-Encoding: chunked\r\n"),
    field("field-fold-space", b"A: 1\r\n 2\r\n"),
    field("field-fold-tab", b"A: 1\r\n\t2\r\n"),
    field("field-fold-empty", b"A: 1\r\n \r\n"),
    field("field-fold-of-host", b" evil.example\r\n"),
    wrong("field-space-before-first", "A1", GET + b" " + HOST + b"\r\n"),
    wrong("field-tab-before-first", "A1", GET + b"\tA: 1\r\n" + HOST + b"\r\n"),
    wrong("field-space-line-first", "A1", GET + b" \r\n" + HOST + b"\r\n"),
    field("field-space-before-colon", b"A : 1\r\n"),
    field("field-tab-before-colon", b"A\t: 1\r\n"),
    field("field-empty-name", b": 1\r\n"),
    field("field-no-colon", b"novalue\r\n"),
    field("field-space-in-name", b"A B: 1\r\n"),
    *(field(f"field-name-with-{byte:02x}", b"A" + bytes([byte]) + b"B: 1\r\n") for byte in b'"(),/;<=>?@[\\]{}'),
    field("field-name-utf8", b"\xc3\xa9: 1\r\n"),
    field("field-name-latin1", b"A\xe9: 1\r\n"),
    field("field-name-nul", b"A\x00: 1\r\n"),
    field("field-name-del", b"A\x7f: 1\r\n"),
    *(field(f"field-value-with-{byte:02x}", b"A: x" + bytes([byte]) + b"y\r\n") for byte in b"\x00\x01\x07\x08\x0b\x0c\x0e\x1b\x1f\x7f"),
    field("field-value-vertical-tab-edge", b"A: \x0b1\r\n", "A2"),
    field("field-value-nul-at-end", b"A: 1\x00\r\n"),
    field("field-http2-pseudo", b":path: /x\r\n"),
)

VALUES = (
    kept("value-every-high-byte", "A2", b"A: " + bytes(range(0x80, 0x100)) + b"\r\n", (b"A", bytes(range(0x80, 0x100)))),
    kept("value-inner-tab", "A2", b"A: x\ty \t z\r\n", (b"A", b"x\ty \t z")),
    kept("value-trimmed", "A2", b"A: \t x \t \r\n", (b"A", b"x")),
    kept("value-untrimmed-x85", "A2", b"A: \x85x\x85\r\n", (b"A", b"\x85x\x85")),
    kept("value-untrimmed-xa0", "A2", b"A: \xa0x\xa0 \r\n", (b"A", b"\xa0x\xa0")),
    kept("value-empty", "A2", b"A:\r\nB: \t \r\n", (b"A", b""), (b"B", b"")),
    kept("value-no-space-after-colon", "A2", b"A:1\r\n", (b"A", b"1")),
    kept("value-colons", "A2", b"A: :b: c:\r\n", (b"A", b":b: c:")),
    kept("value-odd-name", "A2", b"!#$%&'*+-.^_`|~09aZ: 1\r\n", (b"!#$%&'*+-.^_`|~09aZ", b"1")),
    kept("value-utf8", "A2", b"A: caf\xc3\xa9 \xf0\x9f\x90\xa6\r\n", (b"A", b"caf\xc3\xa9 \xf0\x9f\x90\xa6")),
    kept("value-looks-like-a-request", "A2", b"A: GET / HTTP/1.1\r\n", (b"A", b"GET / HTTP/1.1")),
    kept("value-8-kib", "A2", b"A: " + b"v" * 8192 + b"\r\n", (b"A", b"v" * 8192)),
)


def hosted(id: str, value: bytes) -> RequestCase:
    """A Host that must be served."""
    return served(id, "A6", GET + b"Host: " + value + b"\r\n\r\n", Forwarded())


HOSTS = (
    hosted("host-localhost-port", b"localhost:9"),
    hosted("host-v6", b"[::1]"),
    hosted("host-v6-port", b"[::1]:4000"),
    hosted("host-v4-port", b"127.0.0.1:4000"),
    hosted("host-upper-case", b"LocalHost:4000"),
    hosted("host-outer-space", b" \tlocalhost\t "),
    host("host-absent", b""),
    host("host-absent-other-fields", b"A: 1\r\n"),
    wrong("host-absent-http10", "A6", b"GET / HTTP/1.0\r\n\r\n", word="bad_host"),
    host("host-twice-equal", b"Host: localhost\r\nHost: localhost\r\n"),
    host("host-twice-different", b"Host: localhost\r\nHost: evil.example\r\n"),
    host("host-twice-mixed-case", b"Host: localhost\r\nA: 1\r\nhOST: localhost\r\n"),
    host("host-empty", b"Host:\r\n"),
    host("host-blank", b"Host: \t \r\n"),
    host("host-list", b"Host: localhost, localhost\r\n"),
    host("host-list-no-space", b"Host: localhost,evil.example\r\n"),
    host("host-userinfo", b"Host: user@localhost\r\n"),
    host("host-userinfo-password", b"Host: a:b@localhost\r\n"),
    host("host-userinfo-reversed", b"Host: localhost@evil.example\r\n"),
    host("host-inner-space", b"Host: local host\r\n"),
    host("host-inner-tab", b"Host: localhost\tevil\r\n"),
    host("host-nul", b"Host: localhost\x00.evil.example\r\n", word=""),
    host("host-port-letters", b"Host: localhost:80a\r\n"),
    host("host-port-negative", b"Host: localhost:-80\r\n"),
    host("host-port-plus", b"Host: localhost:+80\r\n"),
    host("host-port-too-large", b"Host: localhost:65536\r\n"),
    host("host-port-very-long", b"Host: localhost:" + b"0" * 400 + b"80\r\n"),
    host("host-two-ports", b"Host: localhost:80:80\r\n"),
    host("host-port-only", b"Host: :80\r\n"),
    host("host-v6-unclosed", b"Host: [::1\r\n"),
    host("host-v6-bare", b"Host: ::1\r\n"),
    host("host-v6-text-behind", b"Host: [::1]evil\r\n"),
    host("host-v6-empty", b"Host: []\r\n"),
    host("host-path", b"Host: localhost/x\r\n"),
    host("host-query", b"Host: localhost?x\r\n"),
    host("host-fragment", b"Host: localhost#x\r\n"),
    host("host-backslash", b"Host: localhost\\x\r\n"),
    host("host-scheme", b"Host: http://localhost\r\n"),
    host("host-latin1", b"Host: localhost\xe9\r\n"),
    host("host-utf8", b"Host: b\xc3\xbccher.example\r\n"),
    host("host-quotes", b'Host: "localhost"\r\n'),
    host("host-foreign", b"Host: evil.example\r\n", "host_not_allowed", ""),
    host("host-foreign-suffix", b"Host: localhost.evil.example\r\n", "host_not_allowed", ""),
    host("host-foreign-prefix", b"Host: evil-localhost\r\n", "host_not_allowed", ""),
    host("host-metadata-address", b"Host: 169.254.169.254\r\n", "host_not_allowed", ""),
    host("host-all-interfaces", b"Host: 0.0.0.0:4000\r\n", "host_not_allowed", ""),
    host("host-other-loopback", b"Host: 127.0.0.2\r\n", "host_not_allowed", ""),
    host("host-decimal-address", b"Host: 2130706433\r\n", "host_not_allowed", ""),
    host("host-mapped-v4", b"Host: [::ffff:127.0.0.1]\r\n", "host_not_allowed", ""),
    RequestCase(
        id="host-percent-encoded",
        item="A6",
        raw=GET + b"Host: %6cocalhost\r\n\r\n",
        verdicts=(Either(verdicts=(Refused(code="bad_request"), Refused(code="host_not_allowed"))),),
    ),
    RequestCase(
        id="host-underscore-twin",
        item="A6",
        raw=GET + b"H_st: localhost\r\n\r\n",
        verdicts=(Refused(code="bad_request", word="bad_host"),),
    ),
)

GUARDS = (
    wrong("origin-foreign", "L4", GET + HOST + b"Origin: http://evil.example\r\n\r\n", "origin_refused"),
    wrong("origin-null", "L4", GET + HOST + b"Origin: null\r\n\r\n", "origin_refused"),
    wrong("origin-own", "L4", GET + HOST + b"Origin: http://localhost\r\n\r\n", "origin_refused"),
    wrong("origin-empty", "L4", GET + HOST + b"Origin:\r\n\r\n", "origin_refused"),
    wrong("origin-mixed-case", "L4", GET + HOST + b"oRIGIN: http://evil.example\r\n\r\n", "origin_refused"),
    wrong("fetch-site-cross", "L4", GET + HOST + b"Sec-Fetch-Site: cross-site\r\n\r\n", "origin_refused"),
    wrong("fetch-site-same-site", "L4", GET + HOST + b"Sec-Fetch-Site: same-site\r\n\r\n", "origin_refused"),
    wrong("fetch-site-twice", "L4", GET + HOST + b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n\r\n", "origin_refused"),
    kept("fetch-site-none", "L4", b"Sec-Fetch-Site: none\r\n", (b"Sec-Fetch-Site", b"none")),
    kept("fetch-site-same-origin", "L4", b"Sec-Fetch-Site: same-origin\r\n", (b"Sec-Fetch-Site", b"same-origin")),
    RequestCase(
        id="origin-with-body",
        item="L4",
        raw=b"POST / HTTP/1.1\r\n" + HOST + b"Origin: null\r\nContent-Length: 5\r\n\r\nhello",
        verdicts=(Refused(code="origin_refused", may_close=True),),
    ),
    wrong("expect-unknown", "F4", GET + HOST + b"Expect: 200-ok\r\n\r\n", "expectation_failed"),
    wrong("expect-two", "F4", GET + HOST + b"Expect: 100-continue, x\r\n\r\n", "expectation_failed"),
    served("expect-http10", "F4", b"GET / HTTP/1.0\r\n" + HOST + b"Expect: 200-ok\r\n\r\n", Forwarded(closes=True)),
)

X = (b"X", b"1")
STRIPPED_NAMES = (
    b"X-Api-Key Api-Key X-Goog-Api-Key Private-Token X-Vault-Token X-Warden-Token X-Warden-Agent-Token "
    b"Authorization Proxy-Authorization Forwarded X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto X-Forwarded-Anything X-Real-IP"
).split()


def _twins(style: str) -> bytes:
    names = {
        "plain": STRIPPED_NAMES,
        "lower": [name.lower() for name in STRIPPED_NAMES],
        "upper": [name.upper() for name in STRIPPED_NAMES],
        "underscore": [name.replace(b"-", b"_") for name in STRIPPED_NAMES],
        "mixed": [name.replace(b"-", b"_", 1).swapcase() for name in STRIPPED_NAMES],
    }[style]
    return b"".join(name + b": canary-secret\r\n" for name in names)


def hop(id: str, raw_lines: bytes, *fields: tuple[bytes, bytes]) -> RequestCase:
    """Hop-by-hop lines around one end-to-end field."""
    return kept(id, "C1", raw_lines + b"X: 1\r\n", *fields, X)


FORWARDING = (
    hop("hop-keep-alive", b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"),
    hop("hop-named", b"Connection: a, B\r\nA: 1\r\nb: 2\r\n"),
    hop("hop-named-on-two-lines", b"Connection: a\r\nA: 1\r\nConnection: b\r\nB: 2\r\n"),
    hop("hop-named-after", b"A: 1\r\nConnection: ,, a ,\r\n"),
    hop("hop-proxy-connection", b"Proxy-Connection: keep-alive\r\n"),
    hop("hop-te", b"TE: gzip\r\n"),
    hop("hop-te-trailers", b"TE: trailers\r\n", (b"TE", b"trailers")),
    hop("hop-te-trailers-among-others", b"TE: gzip, trailers;q=0.5, trailers\r\n", (b"TE", b"trailers")),
    hop("hop-te-trailers-named", b"Connection: TE\r\nTE: trailers\r\n", (b"TE", b"trailers")),
    hop("hop-trailer", b"Trailer: X-Checksum\r\n"),
    hop("hop-proxy-authenticate", b"Proxy-Authenticate: Basic\r\n"),
    hop("hop-http2-settings", b"Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
    hop("hop-http2-settings-unnamed", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
    hop("hop-upgrade-unnamed", b"Upgrade: websocket\r\n"),
    hop("hop-named-cookie", b"Connection: cookie\r\nCookie: a=b\r\n"),
    kept("connection-names-injected", "C2", b"Connection: authorization, host, content-length, via\r\nX: 1\r\n", X),
    kept("connection-names-transfer-encoding", "C2", b"Connection: transfer-encoding, Authorization\r\nX: 1\r\n", X),
    served(
        "connection-names-length-with-body",
        "C2",
        b"POST / HTTP/1.1\r\n" + HOST + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        Forwarded(method=b"POST", length=b"5", body=b"hello"),
    ),
    served("connection-close", "C1", GET + HOST + b"Connection: close\r\n\r\n", Forwarded(closes=True)),
    served("connection-close-among", "C1", GET + HOST + b"Connection: keep-alive, Close\r\n\r\n", Forwarded(closes=True)),
    served("http10", "E9", b"GET / HTTP/1.0\r\n" + HOST + b"\r\n", Forwarded(closes=True)),
    served("http10-keep-alive", "E9", b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n", Forwarded()),
    *(kept(f"stripped-{style}", "C3", _twins(style) + b"X: 1\r\n", X) for style in ("plain", "lower", "upper", "underscore", "mixed")),
    kept("authorization-three-times", "C3", b"Authorization: Bearer a\r\nauthorization: Basic b\r\nAUTHORIZATION:\r\nX: 1\r\n", X),
    kept("stripped-lookalikes-stay", "C3", b"X-Api-Keys: 1\r\nXApiKey: 1\r\nX-Forwarded: 1\r\n",
         (b"X-Api-Keys", b"1"), (b"XApiKey", b"1"), (b"X-Forwarded", b"1")),
    kept("via-appended", "C4", b"Via: 1.0 fred, 1.1 example.net\r\nX: 1\r\n", X, via=b"1.0 fred, 1.1 example.net"),
    kept("via-two-lines", "C4", b"Via: 1.0 fred\r\nX: 1\r\nvia: 1.1 p\r\n", X, via=b"1.0 fred, 1.1 p"),
    kept("via-other-robin", "C4", b"Via: 1.1 robin-00000000\r\n", via=b"1.1 robin-00000000"),
    kept("fields-order-case-repetition", "C7", b"B: 1\r\na: 2\r\nB: 3\r\nA: 4\r\nb: 1\r\n",
         (b"B", b"1"), (b"a", b"2"), (b"B", b"3"), (b"A", b"4"), (b"b", b"1")),
    kept("fields-end-to-end", "C9",
         b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1\r\nbaggage: k=v\r\n"
         b"Cookie: a=b; c=d\r\nReferer: http://localhost/x?y\r\nUser-Agent: probe/1\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nDate: x\r\n",
         (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), (b"tracestate", b"a=1"), (b"baggage", b"k=v"),
         (b"Cookie", b"a=b; c=d"), (b"Referer", b"http://localhost/x?y"), (b"User-Agent", b"probe/1"), (b"Accept", b"*/*"),
         (b"Accept-Encoding", b"gzip"), (b"Date", b"x")),
    kept("fields-none-added", "C8", b""),
)  # fmt: skip

WEBSOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
WEBSOCKET_KEPT: Fields = ((b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="))


def plain(id: str, raw: bytes, item: str = "G1", **seen: object) -> RequestCase:
    """An upgrade that is not one: served plainly, without Upgrade."""
    return served(id, item, raw, Forwarded(fields=WEBSOCKET_KEPT, **seen))  # type: ignore[arg-type]


UPGRADES = (
    served(
        "upgrade-h2c",
        "G2",
        GET + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        Forwarded(),
    ),
    served("upgrade-unlisted", "G1", GET + HOST + b"Connection: upgrade\r\nUpgrade: TLS/1.3\r\n\r\n", Forwarded()),
    served("upgrade-two-protocols", "G1", GET + HOST + b"Connection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", Forwarded()),
    served("upgrade-two-lines", "G1", GET + HOST + b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n", Forwarded()),
    served("upgrade-empty", "G1", GET + HOST + b"Connection: upgrade\r\nUpgrade:\r\n\r\n", Forwarded()),
    served("upgrade-only-in-connection", "G1", GET + HOST + b"Connection: upgrade\r\n\r\n", Forwarded()),
    plain("upgrade-not-in-connection", GET + HOST + WEBSOCKET + b"\r\n"),
    plain("upgrade-by-proxy-connection", GET + HOST + b"Proxy-Connection: upgrade\r\n" + WEBSOCKET + b"\r\n", "G2"),
    plain("upgrade-http10", b"GET / HTTP/1.0\r\n" + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"\r\n", closes=True),
    plain("upgrade-head", b"HEAD / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"\r\n", method=b"HEAD"),
    plain("upgrade-post-without-body", b"POST / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"\r\n", method=b"POST"),
    wrong("upgrade-with-length", "G1", GET + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"Content-Length: 5\r\n\r\nhello"),
    wrong(
        "upgrade-with-chunks", "G1", GET + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    wrong(
        "upgrade-post-with-length",
        "G1",
        b"POST / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\n" + WEBSOCKET + b"Content-Length: 5\r\n\r\nhello",
    ),
    RequestCase(
        id="upgrade-h2c-with-body",
        item="G2",
        raw=b"POST / HTTP/1.1\r\n"
        + HOST
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nContent-Length: 2\r\n\r\nhi",
        verdicts=(Forwarded(method=b"POST", length=b"2", body=b"hi"),),  # curl --http2 and Java's HttpClient send just this
    ),
    RequestCase(
        id="upgrade-with-empty-body",
        item="G1",
        raw=b"POST / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
        verdicts=(Either(verdicts=(Refused(code="bad_request"), Forwarded(method=b"POST", length=b"0"))),),
    ),
)

CASES: tuple[RequestCase, ...] = SYNTAX + VALUES + HOSTS + GUARDS + FORWARDING + UPGRADES
