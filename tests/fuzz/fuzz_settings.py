"""Invariant: any bytes as a settings file are lines or errors that name their line and quote no value; CRLF means what LF means."""

# ruff: noqa: E501 - a table of words; a check asserts on what was raised, outside of pytest too

import re

from robin.config.file import FileText, parse_settings_file
from robin.config.load import load
from robin.config.parse import InvalidValue

CANARY = "canary-S3CRET"
SEEDS = (
    b"ROBIN_UPSTREAM_URL=https://broker.example:8443\nROBIN_AUDIENCE=broker.example\n",
    b"# comment\n\nexport ROBIN_LISTEN_ADDR='127.0.0.1:4000, [::1]:4000'\r\nROBIN_DRAIN_MAX=\"1h30m\"\r\n",
    b"ROBIN_ALLOWED_HOSTS=localhost,127.0.0.1,[::1]\nROBIN_MAX_HEAD_SIZE=64KiB\nROBIN_UDS_MODE=0600\n",
    b"ROBIN_REQUIRE_HEADER=x-guard:canary-S3CRET\nROBIN_PEERCRED_ALLOW_UIDS=0,65534\nROBIN_LISTEN_UDS=/run/robin.sock\n",
    b"ROBIN_SPIFFE_SOCKET=unix:///run/agent.sock\nROBIN_TOKEN_SOURCE=jwtsvid\nROBIN_SVID_REFRESH_BEFORE=60s\n",
    b"ROBIN_TOKEN_FILE='/a b/token' canary-S3CRET\nROBIN_TOKEN_FILE=/x\nROBIN_TOKEN_FILE=/y\n",
    b"KEY = canary-S3CRET\n=canary-S3CRET\nlower=1\nROBIN_CONFIG=/x\nnothing\n \t\n",
    b"ROBIN_UPSTREAM_URL=https://u:canary-S3CRET@h/\nROBIN_LOG_LEVEL=loud\nROBIN_KEEPALIVE_TIMEOUT=75\n",
)
WORDS = (
    b"\n", b"\r\n", b"\r", b"=", b"'", b'"', b"#", b"export ", b" ", b"\t", b"\x00", b"\xef\xbb\xbf", b"\xff", b"ROBIN_", b"ROBIN_LISTEN_ADDR=",
    b"ROBIN_UPSTREAM_URL=", b"https://", b"http://127.0.0.1", b"none", b"true", b"KiB", b"1h30m", b"0", b"-1", b"[::1]", b"systemd:a", b",", b"${X}",
    b"99999999999999999999", b"\xc2\x85", b"\xe2\x80\xa8", b"1.5s", b"unix:///", b"tcp://127.0.0.1:1",
)  # fmt: skip

_LINE = re.compile(r"line ([0-9]+): ")


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`."""
    text = _parsed(data)
    if isinstance(text, InvalidValue):
        assert CANARY not in text.what + text.fix
        return
    last = data.count(b"\n") + 1
    for error in text.errors:
        number = _LINE.match(error.what)
        assert number, error.what
        assert 1 <= int(number[1]) <= last
        assert CANARY not in error.what + error.fix
    keys = [line.key for line in text.lines]
    assert len(keys) == len(set(keys))
    assert all(re.fullmatch("[A-Z][A-Z0-9_]*", key) for key in keys)
    assert not any(re.search(r"[\x00\r\n]", line.value) for line in text.lines)
    if b"\r" not in data and len(data) < 32768:
        assert _plain(_parsed(data.replace(b"\n", b"\r\n"))) == _plain(text)
    _check_settings({line.key: line.value for line in text.lines if line.key.startswith("ROBIN_")})


def _parsed(data: bytes) -> FileText | InvalidValue:
    try:
        return parse_settings_file(data)
    except InvalidValue as error:
        return error


def _plain(text: FileText | InvalidValue) -> object:
    """Something that compares: an InvalidValue is an exception."""
    if isinstance(text, InvalidValue):
        return text.what
    return text.lines, [(error.what, error.fix) for error in text.errors]


def _check_settings(environ: dict[str, str]) -> None:
    """The values as an environment: settings, or errors that each name a key and a fix."""
    loaded = load({}, environ)
    if not isinstance(loaded, tuple):
        assert loaded.settings.upstream.url.origin.host
        return
    assert loaded
    for error in loaded:
        assert "ROBIN_" in str(error) or "SPIFFE" in str(error), str(error)
