"""The table of settings: bounds, and names that mean one thing."""

import re

import pytest

from robin.config.load import SERVICE_LINK, load
from robin.config.table import BY_PATH, SECTIONS, SETTINGS

# Bounds: (lowest, highest) accepted, (below, above) refused.
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


def test_no_key_and_no_path_stands_twice() -> None:
    assert sum(len(settings) for _title, settings in SECTIONS) == len(SETTINGS) == len(BY_PATH) + 1, "all but ROBIN_CONFIG have a path"


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_the_bounds_hold(key: str) -> None:
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
