"""The table against sidecar spec section 2: the same keys, the same defaults, and names that mean one thing."""

import re

import pytest

from robin.config.load import SERVICE_LINK, load
from robin.config.table import SECTIONS, SETTINGS

# Typed off sidecar spec section 2, in its order; None: unset. ROBIN_STRIP_HEADERS is the list of section 4.
SPEC: dict[str, str | None] = {
    "ROBIN_UPSTREAM_URL": None,
    "ROBIN_TOKEN_SOURCE": "file",
    "ROBIN_LISTEN_ADDR": "127.0.0.1:4000",
    "ROBIN_LISTEN_UDS": None,
    "ROBIN_ADMIN_ADDR": ":4001",
    "ROBIN_TOKEN_FILE": "/var/run/secrets/tokens/token",
    "ROBIN_AUDIENCE": None,
    "ROBIN_SPIFFE_SOCKET": None,
    "ROBIN_SVID_REFRESH_BEFORE": "60s",
    "ROBIN_UPSTREAM_CA_FILE": None,
    "ROBIN_PEERCRED_ALLOW_UIDS": None,
    "ROBIN_CONFIG": None,
    "ROBIN_LOG_LEVEL": "info",
    "ROBIN_LOG_FORMAT": "json",
    "ROBIN_ACCESS_LOG": "all",
    "ROBIN_TOKEN_FORMAT": "jwt",
    "ROBIN_TOKEN_MIN_VALIDITY": "5s",
    "ROBIN_TOKEN_FILE_GRACE": "10s",
    "ROBIN_IDENTITY_WAIT": "2s",
    "ROBIN_SPIFFE_ID": None,
    "ROBIN_SVID_HINT": None,
    "ROBIN_SVID_FETCH_TIMEOUT": "10s",
    "ROBIN_SVID_ON_DENIED": "serve",
    "ROBIN_UDS_MODE": "auto",
    "ROBIN_ALLOWED_HOSTS": "localhost,127.0.0.1,[::1]",
    "ROBIN_ALLOWED_ORIGINS": "none",
    "ROBIN_REQUIRE_HEADER": None,
    "ROBIN_STRIP_HEADERS": "x-api-key,api-key,x-goog-api-key,private-token,x-vault-token,x-warden-token,x-warden-agent-token",
    "ROBIN_UPGRADE_PROTOCOLS": "websocket",
    "ROBIN_MAX_HEAD_SIZE": "64KiB",
    "ROBIN_MAX_TARGET_SIZE": "16KiB",
    "ROBIN_MAX_FIELDS": "100",
    "ROBIN_MAX_CONNECTIONS": "1024",
    "ROBIN_UPSTREAM_MAX_CONNECTIONS": "256",
    "ROBIN_UPSTREAM_QUEUE_TIMEOUT": "5s",
    "ROBIN_UPSTREAM_CONNECT_TIMEOUT": "10s",
    "ROBIN_UPSTREAM_RESPONSE_TIMEOUT": "15m",
    "ROBIN_UPSTREAM_IDLE_TIMEOUT": "auto",
    "ROBIN_HEADER_TIMEOUT": "10s",
    "ROBIN_KEEPALIVE_TIMEOUT": "75s",
    "ROBIN_STREAM_IDLE_TIMEOUT": "1h",
    "ROBIN_DRAIN_MIN": "0s",
    "ROBIN_DRAIN_MAX": "25s",
    "ROBIN_STARTUP_TIMEOUT": "0",
    "ROBIN_ADMIN_QUIT": "false",
    "ROBIN_WORKERS": "1",
    "ROBIN_UNSAFE_LISTEN": "false",
    "ROBIN_UNSAFE_UPSTREAM_HTTP": "false",
    "ROBIN_UNSAFE_ANY_HOST": "false",
}

# Bounds that the spec writes: (lowest, highest) accepted, (below, above) refused.
BOUNDS = {
    "ROBIN_TOKEN_MIN_VALIDITY": (("0s", "60s"), ("60001ms",)),
    "ROBIN_IDENTITY_WAIT": (("0", "30s"), ("30001ms",)),
    "ROBIN_SVID_FETCH_TIMEOUT": (("1s", "60s"), ("999ms", "60001ms")),
    "ROBIN_SVID_REFRESH_BEFORE": (("1ms",), ("0",)),
    "ROBIN_MAX_HEAD_SIZE": (("4KiB", "1MiB"), ("4095", "1048577")),
    "ROBIN_MAX_TARGET_SIZE": (("1KiB", "64KiB"), ("1023", "65537")),
    "ROBIN_MAX_FIELDS": (("10", "1000"), ("9", "1001")),
    "ROBIN_MAX_CONNECTIONS": (("1", "65536"), ("0", "65537")),
    "ROBIN_WORKERS": (("1",), ("0", "2")),
    "ROBIN_UPSTREAM_RESPONSE_TIMEOUT": (("0",), ()),
    "ROBIN_STREAM_IDLE_TIMEOUT": (("0",), ()),
    "ROBIN_TOKEN_FILE_GRACE": (("0",), ()),
    "ROBIN_UPGRADE_PROTOCOLS": (("none",), ("h2c",)),
}


def test_the_table_has_the_keys_and_defaults_of_the_spec() -> None:
    assert {key: setting.default for key, setting in SETTINGS.items()} == SPEC
    assert [key for key, setting in SETTINGS.items() if setting.required] == ["ROBIN_UPSTREAM_URL"]


def test_no_key_stands_in_two_sections() -> None:
    assert sum(len(settings) for _title, settings in SECTIONS) == len(SETTINGS)


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_the_bounds_are_those_of_the_spec(key: str) -> None:
    accepted, refused = BOUNDS[key]
    url = {"ROBIN_UPSTREAM_URL": "https://broker.example"}
    assert [text for text in accepted if isinstance(load(url, {key: text}), tuple)] == []
    assert [text for text in refused if not isinstance(load(url, {key: text}), tuple)] == []


def test_no_setting_looks_like_a_kubernetes_service_link() -> None:
    assert [key for key in SETTINGS if SERVICE_LINK.fullmatch(key)] == []


def test_a_flag_is_the_key_in_kebab_case() -> None:
    assert SETTINGS["ROBIN_TOKEN_FILE"].flag == "--token-file"
    assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*", setting.flag) for setting in SETTINGS.values())


def test_no_setting_can_hold_a_token() -> None:
    names = " ".join([*SETTINGS, *(setting.path for setting in SETTINGS.values())]).lower()
    for word in ("secret", "password", "credential", "private_key", "token_value", "bearer"):
        assert word not in names


def test_a_setting_of_one_source_says_so() -> None:
    alone = {key: setting for key, setting in SETTINGS.items() if setting.only_source}
    named = {key for key in SETTINGS if key.startswith(("ROBIN_TOKEN_FILE", "ROBIN_SVID_", "ROBIN_SPIFFE_"))}
    assert alone.keys() == named | {"ROBIN_IDENTITY_WAIT"}
    for key, setting in alone.items():
        said = f"{setting.help}. {setting.meaning}".lower().replace("`", "")
        assert f"source {setting.only_source}" in said, key


def test_help_fits_on_one_line() -> None:
    for setting in SETTINGS.values():
        assert 0 < len(setting.help) <= 60, setting.key
        assert setting.help.isprintable(), setting.key
        assert setting.meaning.isprintable(), setting.key
