"""The file robin.yaml gives the same settings as KEY=value lines, below flags and environment; its errors name file, line and column."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config.layers import Layer
from robin.config.load import Loaded, load, load_identity, load_value
from robin.config.table import SETTINGS
from robin.model.address import TcpAddress

EVERY_SETTING = """\
version: 1
sidecar:
  upstream: {url: "https://broker.example/v1", ca_file: /etc/ca.pem}
  identity:
    source: jwtsvid
    token_file: /run/token
    token_format: jwt
    min_validity: 7s
    grace: 0s
    audience: a
    wait: 1500ms
    spiffe_socket: unix:///run/agent.sock
    spiffe_id: spiffe://td/x
    hint: internal
    refresh_before: 30s
    fetch_timeout: 4s
    on_denied: stop
  listeners:
    unix_socket: /run/robin.sock
    unix_mode: "0660"
    allow_uids: [0, 1000]
    admin: ["unix:/run/admin.sock", "127.0.0.1:4001"]
    admin_quit: true
  guards:
    allowed_hosts: [robin, "[::1]"]
    allowed_origins: [https://app.example]
    require_header: "x-robin: yes"
    strip_headers: []
    upgrade_protocols: []
  limits: {head: 128KiB, target: 2048, fields: 50, connections: 12, upstream_connections: 13}
  timeouts: {head: 1s, keepalive: 2m, stream_idle: 3h, response: 4s, connect: 5s, queue: 0s, upstream_idle: auto}
  lifecycle: {drain_min: 1s, drain_max: 2s, startup_timeout: 3s, workers: 1}
  telemetry: {log_level: debug, log_format: console, access_log: errors}
  unsafe: {listen: true, upstream_http: true, any_host: true}
"""

THE_SAME_AS_LINES = """\
ROBIN_UPSTREAM_URL=https://broker.example/v1
ROBIN_UPSTREAM_CA_FILE=/etc/ca.pem
ROBIN_TOKEN_SOURCE=jwtsvid
ROBIN_TOKEN_FILE=/run/token
ROBIN_TOKEN_FORMAT=jwt
ROBIN_TOKEN_MIN_VALIDITY=7s
ROBIN_TOKEN_FILE_GRACE=0
ROBIN_AUDIENCE=a
ROBIN_IDENTITY_WAIT=1500ms
ROBIN_SPIFFE_SOCKET=unix:///run/agent.sock
ROBIN_SPIFFE_ID=spiffe://td/x
ROBIN_SVID_HINT=internal
ROBIN_SVID_REFRESH_BEFORE=30s
ROBIN_SVID_FETCH_TIMEOUT=4s
ROBIN_SVID_ON_DENIED=stop
ROBIN_LISTEN_UDS=/run/robin.sock
ROBIN_UDS_MODE=0660
ROBIN_PEERCRED_ALLOW_UIDS=0,1000
ROBIN_ADMIN_ADDR=unix:/run/admin.sock,127.0.0.1:4001
ROBIN_ADMIN_QUIT=true
ROBIN_ALLOWED_HOSTS=robin,[::1]
ROBIN_ALLOWED_ORIGINS=https://app.example
ROBIN_REQUIRE_HEADER=x-robin: yes
ROBIN_STRIP_HEADERS=none
ROBIN_UPGRADE_PROTOCOLS=none
ROBIN_MAX_HEAD_SIZE=128KiB
ROBIN_MAX_TARGET_SIZE=2048
ROBIN_MAX_FIELDS=50
ROBIN_MAX_CONNECTIONS=12
ROBIN_UPSTREAM_MAX_CONNECTIONS=13
ROBIN_HEADER_TIMEOUT=1s
ROBIN_KEEPALIVE_TIMEOUT=2m
ROBIN_STREAM_IDLE_TIMEOUT=3h
ROBIN_UPSTREAM_RESPONSE_TIMEOUT=4s
ROBIN_UPSTREAM_CONNECT_TIMEOUT=5s
ROBIN_UPSTREAM_QUEUE_TIMEOUT=0
ROBIN_UPSTREAM_IDLE_TIMEOUT=auto
ROBIN_DRAIN_MIN=1s
ROBIN_DRAIN_MAX=2s
ROBIN_STARTUP_TIMEOUT=3s
ROBIN_WORKERS=1
ROBIN_LOG_LEVEL=debug
ROBIN_LOG_FORMAT=console
ROBIN_ACCESS_LOG=errors
ROBIN_UNSAFE_LISTEN=true
ROBIN_UNSAFE_UPSTREAM_HTTP=true
ROBIN_UNSAFE_ANY_HOST=true
"""
ENOUGH = "version: 1\nsidecar:\n  upstream: {url: https://broker.example}\n"


def written(folder: Path, text: str) -> str:
    path = folder / "config"  # one name for both formats: the content decides
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def loaded(config: str, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> Loaded:
    outcome = load({**(flags or {}), "ROBIN_CONFIG": config}, environ or {})
    assert isinstance(outcome, Loaded), [str(error) for error in outcome]
    return outcome


def errors(config: str, environ: dict[str, str] | None = None) -> list[str]:
    outcome = load({"ROBIN_CONFIG": config}, environ or {})
    assert isinstance(outcome, tuple)
    return [str(error).replace(config, "robin.yaml") for error in outcome]


def test_yaml_and_lines_give_the_same_settings(tmp_path: Path) -> None:
    lines = loaded(written(tmp_path, THE_SAME_AS_LINES)).settings
    assert loaded(written(tmp_path, EVERY_SETTING)).settings == lines
    assert {line.partition("=")[0] for line in THE_SAME_AS_LINES.splitlines()} == set(SETTINGS) - {"ROBIN_LISTEN_ADDR", "ROBIN_CONFIG"}


def test_flags_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    config = written(tmp_path, ENOUGH + "  limits: {fields: 11}\n  identity: {audience: file}\n  lifecycle: {workers: 1}\n")
    outcome = loaded(config, {"ROBIN_MAX_FIELDS": "13"}, {"ROBIN_MAX_FIELDS": "12", "ROBIN_AUDIENCE": "env"})
    assert (outcome.settings.limits.fields, outcome.settings.identity.audience) == (13, "env")
    chosen = {source.key: (source.layer, source.line) for source in outcome.sources if source.layer is not Layer.DEFAULT}
    assert chosen == {
        "ROBIN_UPSTREAM_URL": (Layer.FILE, 3),
        "ROBIN_MAX_FIELDS": (Layer.FLAG, None),
        "ROBIN_AUDIENCE": (Layer.ENV, None),
        "ROBIN_WORKERS": (Layer.FILE, 6),
        "ROBIN_CONFIG": (Layer.FLAG, None),
    }


def test_a_required_setting_may_come_from_another_layer(tmp_path: Path) -> None:
    config = written(tmp_path, "version: 1\nsidecar: {}\n")
    assert loaded(config, environ={"ROBIN_UPSTREAM_URL": "https://broker.example"}).settings.limits.fields == 100
    assert errors(config) == [
        "robin.yaml:2:1: error: key_missing: sidecar.upstream.url is required. "
        "Fix: set it to https://host[:port][/base], or give --upstream-url."
    ]


def test_a_part_of_it_is_read_alone_too(tmp_path: Path) -> None:
    config = written(tmp_path, "version: 1\nsidecar: {identity: {audience: a}, listeners: {admin: [':9']}}\n")
    identity = load_identity({"ROBIN_CONFIG": config}, {})
    assert not isinstance(identity, tuple)
    assert identity.audience == "a"
    assert load_value("ROBIN_ADMIN_ADDR", {"ROBIN_CONFIG": config}, {}) == ((TcpAddress(host="", port=9),), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "version: 1\nsidcar: {}\n",
            'robin.yaml:2:1: error: unknown_key: "sidcar" is not a key of the file. Fix: write sidecar (the nearest), or remove it.',
        ),
        (
            "sidecar: {}\n",
            "robin.yaml:1:1: error: key_missing: version is required. Fix: add `version:` (the format of this file: 1).",
        ),
        ("version: 1\n", "robin.yaml:1:1: error: key_missing: there is no section `sidecar`. Fix: add `sidecar:` with its settings."),
        (
            "version: 1\ngateway: {}\n",
            "robin.yaml:1:1: error: key_missing: there is no section `sidecar`: this file is for `robin gateway`. "
            "Fix: use `robin check`, `robin doctor egress`, or `--grant` of `robin doctor` and `robin token`.",
        ),
        ("version: 2\nsidecar: {}\n", 'robin.yaml:1:10: error: value_invalid: version: "2" is above 1. Fix: use 1.'),
        (
            "version: 1\nsidecar:\n  identity: {token_fil: /x}\n",
            'robin.yaml:3:14: error: unknown_key: "token_fil" is not a key of sidecar.identity. '
            "Fix: write token_file (the nearest), or remove it.",
        ),
        (
            "version: 1\nsidecar:\n  limits: {fields: 5}\n",
            'robin.yaml:3:20: error: value_invalid: sidecar.limits.fields: "5" is below 10. Fix: use 10 to 1000.',
        ),
        (
            ENOUGH + "  lifecycle:\n    drain_min: 30s\n    drain_max: 5s\n",
            "robin.yaml:6:16: error: settings_conflict: sidecar.lifecycle.drain_max: shorter than sidecar.lifecycle.drain_min "
            "(robin.yaml:5:16). Fix: make sidecar.lifecycle.drain_max at least as long as sidecar.lifecycle.drain_min.",
        ),
        (
            ENOUGH + "  lifecycle:\n    drain_min: 30s\n",  # against the default
            "robin.yaml:5:16: error: settings_conflict: sidecar.lifecycle.drain_max: shorter than sidecar.lifecycle.drain_min "
            "(robin.yaml:5:16). Fix: make sidecar.lifecycle.drain_max at least as long as sidecar.lifecycle.drain_min.",
        ),
        (
            ENOUGH + "  identity: {source: jwtsvid, audience: a}\n",
            "robin.yaml:4:22: error: key_missing: sidecar.identity.spiffe_socket is required for sidecar.identity.source: jwtsvid. "
            "Fix: set it to unix:///path/to/agent.sock, or set SPIFFE_ENDPOINT_SOCKET.",
        ),
        (
            ENOUGH + "  listeners: {proxy: [/run/r.sock]}\n",
            'robin.yaml:4:23: error: value_invalid: sidecar.listeners.proxy[0]: "/run/r.sock" is a path. '
            "Fix: set sidecar.listeners.unix_socket to the path instead.",
        ),
        (
            ENOUGH + "  token_source: file\n",
            'robin.yaml:4:3: error: unknown_key: "token_source" is not a key of sidecar. Fix: its place is sidecar.identity.source; '
            "the keys of sidecar are upstream, limits, timeouts, identity, listeners, guards, lifecycle, telemetry, unsafe.",
        ),
        (
            ENOUGH + "  log: {level: debug}\n",
            'robin.yaml:4:3: error: unknown_key: "log" is not a key of sidecar. Fix: its place is sidecar.telemetry; '
            "the keys of sidecar are upstream, limits, timeouts, identity, listeners, guards, lifecycle, telemetry, unsafe.",
        ),
    ],
)
def test_an_error_names_its_place_a_code_and_the_fix(tmp_path: Path, text: str, message: str) -> None:
    assert errors(written(tmp_path, text)) == [message]


def test_a_conflict_of_a_variable_with_the_file_names_both_by_what_they_are_there(tmp_path: Path) -> None:
    config = written(tmp_path, ENOUGH + "  lifecycle: {drain_min: 30s}\n")
    (error,) = errors(config, {"ROBIN_DRAIN_MAX": "5s"})
    assert error.startswith("robin: ROBIN_DRAIN_MAX (from env): shorter than sidecar.lifecycle.drain_min (robin.yaml:4:26); make ")
    config = written(tmp_path, ENOUGH + "  lifecycle: {drain_max: 5s}\n")
    (error,) = errors(config, {"ROBIN_DRAIN_MIN": "30s"})
    assert "sidecar.lifecycle.drain_max: shorter than ROBIN_DRAIN_MIN (from env). Fix: " in error


def test_errors_of_all_layers_come_in_one_run_and_a_broken_file_causes_no_others(tmp_path: Path) -> None:
    config = written(tmp_path, "version: 1\nsidecar:\n  upstream: {url: ftp://x}\n  lifecycle: {drain_max: 1}\n")
    assert errors(config, {"ROBIN_DRAIN_MIN": "30s", "ROBIN_MAX_FIELDS": "x", "ROBIN_UNKNOWN": "1"}) == [
        'robin.yaml:3:19: error: value_invalid: sidecar.upstream.url: "ftp://x" is neither https nor http. Fix: write https://host[:port][/base].',
        'robin.yaml:4:26: error: value_invalid: sidecar.lifecycle.drain_max: "1" has no unit. Fix: write 1s or 1ms.',
        "robin: ROBIN_UNKNOWN (from env): unknown setting; remove it, or find its name in robin --help",
        'robin: ROBIN_MAX_FIELDS (from env): "x" is not a whole number; write decimal digits only',
    ]


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _open_to_all(path: Path) -> None:
    path.write_text(ENOUGH)
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_pipe, "the file is not a regular file; name a regular file"),
        (Path.mkdir, "the file is not a regular file; name a regular file"),
        (_open_to_all, "the file is world-writable, so anyone could change it; chmod o-w the file"),
        (
            lambda path: path.symlink_to("nothing"),
            "cannot read the file: No such file or directory; name a readable file with --config",
        ),
    ],
    ids=["a FIFO", "a folder", "a world-writable file", "a dangling symlink"],
)
def test_a_file_that_should_not_be_read_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], what: str) -> None:
    make(tmp_path / "robin.yaml")
    found = load({"ROBIN_CONFIG": str(tmp_path / "robin.yaml")}, {"ROBIN_UPSTREAM_URL": "https://broker.example"})
    assert isinstance(found, tuple)
    assert [str(error) for error in found] == [f"robin: ROBIN_CONFIG (from flag): {tmp_path / 'robin.yaml'}: {what}"]


@given(st.text(max_size=200))
def test_any_text_behind_the_version_loads_or_is_refused_in_printable_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    config = written(tmp_path_factory.getbasetemp(), "version: 1\n" + text.encode("utf-8", "ignore").decode())
    outcome = load({"ROBIN_CONFIG": config}, {})
    assert isinstance(outcome, tuple)
    assert all(str(error).isprintable() for error in outcome)
