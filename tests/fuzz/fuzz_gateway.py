"""Invariant: any bytes as a ClientHello, authority, path, pattern, robin.yaml or profile are read in one way, or refused by a code."""

# ruff: noqa: PT017 - a check asserts on what was raised, outside of pytest too

import re
from collections.abc import Callable
from typing import Final

from robin.config.diagnostic import Diagnostic
from robin.config.gateway_load import parse_gateway
from robin.config.profile import read_profile
from robin.policy.gateway import parse_authority
from robin.policy.patterns import (
    NotCanonical,
    PatternError,
    canonical_host,
    canonical_path,
    configured_host,
    parse_host_pattern,
    parse_path_pattern,
)
from robin.wire.client_hello import ClientHelloError, ClientHelloReader

_NAME = b"a.example"
_SNI = b"\x00\x00" + bytes([0, len(_NAME) + 5, 0, len(_NAME) + 3, 0, 0, len(_NAME)]) + _NAME
_ALPN = b"\x00\x10\x00\x0b\x00\x09\x08http/1.1"
_BODY = b"\x03\x03" + bytes(32) + b"\x00\x00\x02\x13\x01\x01\x00" + (len(_SNI + _ALPN)).to_bytes(2, "big") + _SNI + _ALPN
_HELLO = b"\x01" + len(_BODY).to_bytes(3, "big") + _BODY
_RECORD = b"\x16\x03\x01" + len(_HELLO).to_bytes(2, "big") + _HELLO
_SPLIT = b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2, "big") + piece for piece in (_HELLO[:7], _HELLO[7:60], _HELLO[60:]))
_YAML = (
    b"version: 1\ngateway:\n  policy:\n    rules:\n"
    b'      - {name: a, hosts: ["**.a.example", 10.0.0.1], methods: [GET], paths: [/v1/**], ports: [443]}\n'
    b'  callers: {x: ["k8s:a/*"]}\n  timeouts: {head: 1s}\n'
    b'  addresses: {hosts: {a.test: [127.0.0.1]}, unsafe_loopback: ["127.0.0.1:9"]}\n'
)
_PROFILE = (
    b"id: a\ndisplay_name: A\ncredentials:\n  - name: t\n    auth_style: bearer\n"
    b'    token_grant: {grant_type: token_exchange, token_endpoint: "https://i.example/t", audience: b, scopes: [c],\n'
    b"      audience_overrides: [{host: a.example, path: /v1/**, audience: d}]}\n"
    b"endpoints:\n  - {host: '*.a.example', port: 443, protocol: rest, rules: [{allow: {method: GET, path: /x/*}}]}\n"
)
SEEDS = (
    b"hello\n" + _RECORD,
    b"hello\n" + _SPLIT,
    b"authority\nA.Example.COM.:443",
    b"authority\n[::ffff:10.0.0.1]:65535",
    b"authority\n017700000001:80",
    b"path\n/a/%7e/%2E%2e/b;c//%zz\\d",
    b"pattern\n*.a.example /v1/**/x*y",
    b"pattern\n**.co.uk /**",
    b"pattern\nb\xc3\xbccher.example /a?b",
    b"yaml\n" + _YAML,
    b"yaml\n" + _YAML.replace(b"policy:", b"policy: &a\n    <<: *a"),
    b"yaml\nversion: 1\ngateway:\n  profiles: 3\n  providers: []\n",
    b"yaml\nversion: 1\ngateway: x\n",
    b"profile\n" + _PROFILE,
    b"profile\n" + _PROFILE.replace(b"A\n", b"!!python/object:os.system A\n"),
)
WORDS = (
    *b"*. ** /** %2f %2e .. // ; \\ [ ] { } ? & * !! <<: - : , @ xn-- 0x7f [::1] 65536".split(b" "),
    *(b"\xff", b"\x00", b"\x16\x03\x01", b"\xe2\x80\xa8"),
)
_CODE: Final = re.compile(r"[a-z][a-z0-9_]*")


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`: the first line is what the rest is read as."""
    kind, _, rest = data.partition(b"\n")
    _CHECKS.get(kind, _authority)(rest)


def _hello(octets: bytes) -> None:
    found = []
    for size in (len(octets) or 1, 1):  # whole and octet by octet
        reader, outcome = ClientHelloReader(), ""
        try:
            for at in range(0, len(octets), size):
                if (hello := reader.feed(octets[at : at + size])) is not None:
                    outcome = f"{hello}"
                    break
        except ClientHelloError as refused:
            assert _CODE.fullmatch(refused.code)
            outcome = refused.code
        found.append(outcome)
    assert found[0] == found[1]


def _authority(octets: bytes) -> None:
    try:
        host, port = parse_authority(octets, 443)
    except NotCanonical as refused:
        assert _CODE.fullmatch(str(refused))
        return
    assert canonical_host(host) == host
    again = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert parse_authority(again.encode("ascii"), None) == (host, port)


def _path(octets: bytes) -> None:
    try:
        path = canonical_path(octets)
    except NotCanonical as refused:
        assert _CODE.fullmatch(str(refused))
        return
    assert not {"", ".", ".."} & set(path.split("/")[1:-1])
    assert canonical_path(path.encode("ascii")) == path
    assert parse_path_pattern("/**").matches(path)


def _pattern(octets: bytes) -> None:
    host, _, path = octets.decode("utf-8", "replace").partition(" ")
    for in_rule in (False, True):
        try:
            pattern = parse_host_pattern(host, rule=in_rule)
        except PatternError as refused:
            assert _CODE.fullmatch(refused.code)
        else:
            assert in_rule or not pattern.matches("com"), "what a profile says never is of a whole top-level domain"
            assert "*" in host or pattern.matches(configured_host(host))
    try:
        written = parse_path_pattern(path)
    except PatternError as refused:
        assert _CODE.fullmatch(refused.code)
    else:
        assert not written.is_any or written.matches("/x")


def _yaml(octets: bytes) -> None:
    loaded = parse_gateway(octets, "robin.yaml", {})
    _diagnosed(loaded.settings is None, loaded.diagnostics)


def _profile(octets: bytes) -> None:
    profile, diagnostics = read_profile(octets, "p.yaml")
    _diagnosed(profile is None, diagnostics)


def _diagnosed(nothing: bool, diagnostics: tuple[Diagnostic, ...]) -> None:
    assert all(_CODE.fullmatch(one.code) and one.fix for one in diagnostics)
    assert nothing or not [one for one in diagnostics if one.severity == "error"]


_CHECKS: Final[dict[bytes, Callable[[bytes], None]]] = {
    b"hello": _hello,
    b"authority": _authority,
    b"path": _path,
    b"pattern": _pattern,
    b"yaml": _yaml,
    b"profile": _profile,
}
