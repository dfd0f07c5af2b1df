"""What `robin check` adds to a value: what follows from other settings, and that a setting has no effect."""

from pathlib import Path

import pytest

from robin.config.load import Loaded, load
from robin.config.table import SETTINGS

SVID = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a", "ROBIN_SPIFFE_SOCKET": "unix:///run/agent.sock"}


def notes(**environ: str) -> dict[str, str]:
    """The notes that are not empty, by key."""
    outcome = load({}, {"ROBIN_UPSTREAM_URL": "https://broker.example", **environ})
    assert isinstance(outcome, Loaded), [str(error) for error in outcome]
    return {source.key: source.note for source in outcome.sources if source.note}


BY_DEFAULT = {
    "ROBIN_LISTEN_ADDR": "and [::1]:4000 where there is IPv6",
    "ROBIN_ADMIN_ADDR": "every interface; on a host use 127.0.0.1:4001",
}


def test_defaults_that_listen_say_where() -> None:
    assert notes() == BY_DEFAULT
    assert notes(ROBIN_LISTEN_ADDR="127.0.0.1:4000", ROBIN_ADMIN_ADDR=":4001") == {}


def test_a_list_of_headers_names_those_of_the_default_that_it_leaves_out() -> None:
    listed = "X_API_KEY,api-key,x-goog-api-key,private-token,x-vault-token,x-mine"
    note = "no longer removed: x-warden-token, x-warden-agent-token"
    assert notes(ROBIN_STRIP_HEADERS=listed) == {**BY_DEFAULT, "ROBIN_STRIP_HEADERS": note}


UNUSED = [
    ("ROBIN_SPIFFE_SOCKET", "unix:///run/agent.sock", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_SPIFFE_ID", "spiffe://example.org/app", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_SVID_HINT", "internal", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_SVID_REFRESH_BEFORE", "60s", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_SVID_FETCH_TIMEOUT", "10s", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_SVID_ON_DENIED", "stop", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_IDENTITY_WAIT", "5s", {}, "ROBIN_TOKEN_SOURCE=file"),
    ("ROBIN_TOKEN_FILE", "/token", SVID, "ROBIN_TOKEN_SOURCE=jwtsvid"),
    ("ROBIN_TOKEN_FILE_GRACE", "1s", SVID, "ROBIN_TOKEN_SOURCE=jwtsvid"),
    ("ROBIN_TOKEN_MIN_VALIDITY", "1s", {"ROBIN_TOKEN_FORMAT": "opaque"}, "ROBIN_TOKEN_FORMAT=opaque"),
    ("ROBIN_UPSTREAM_CA_FILE", "/ca.pem", {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:9"}, "ROBIN_UPSTREAM_URL is http"),
    ("ROBIN_UDS_MODE", "0600", {}, "Robin makes no Unix socket for callers"),
    ("ROBIN_UDS_MODE", "0600", {"ROBIN_LISTEN_UDS": "systemd:robin"}, "Robin makes no Unix socket for callers"),
    ("ROBIN_ALLOWED_HOSTS", "robin", {"ROBIN_UNSAFE_ANY_HOST": "true"}, "ROBIN_UNSAFE_ANY_HOST=true"),
    ("ROBIN_ALLOWED_ORIGINS", "https://a.example", {"ROBIN_UNSAFE_ANY_HOST": "true"}, "ROBIN_UNSAFE_ANY_HOST=true"),
]


@pytest.mark.parametrize(("key", "text", "others", "reason"), UNUSED)
def test_what_was_set_and_has_no_effect_is_said(key: str, text: str, others: dict[str, str], reason: str) -> None:
    assert notes(**others, **{key: text})[key] == f"not used: {reason}"
    assert not notes(**others).get(key, "").startswith("not used"), "a default needs no such note"


def test_every_setting_of_one_source_is_noted_under_the_other() -> None:
    assert {key for key, setting in SETTINGS.items() if setting.only_source} <= {key for key, *_ in UNUSED}


def test_what_has_an_effect_gets_no_such_note() -> None:
    used = {**SVID, "ROBIN_IDENTITY_WAIT": "5s", "ROBIN_SVID_HINT": "internal", "ROBIN_UPSTREAM_CA_FILE": "/ca.pem"}
    assert notes(**used) == BY_DEFAULT
    file = {"ROBIN_TOKEN_FILE": "/token", "ROBIN_TOKEN_FILE_GRACE": "1s", "ROBIN_TOKEN_MIN_VALIDITY": "1s", "ROBIN_ALLOWED_HOSTS": "robin"}
    assert notes(**file) == BY_DEFAULT


def test_a_unix_listener_says_what_follows_from_it() -> None:
    uds = {"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_ADMIN_ADDR": "off"}
    assert notes(**uds) == {
        "ROBIN_LISTEN_ADDR": "replaced by ROBIN_LISTEN_UDS",
        "ROBIN_ALLOWED_HOSTS": "not judged on a Unix socket unless set",
        "ROBIN_UDS_MODE": "0600",
    }
    assert notes(**uds, ROBIN_PEERCRED_ALLOW_UIDS="1000")["ROBIN_UDS_MODE"] == "0666"


def test_a_sign_of_a_comment_in_the_file_is_said_to_be_part_of_the_value(tmp_path: Path) -> None:
    config = tmp_path / "robin.env"
    config.write_text("ROBIN_AUDIENCE=broker.test # ours\nROBIN_TOKEN_FILE=/a#b\n")
    config.chmod(0o600)
    said = notes(ROBIN_CONFIG=str(config), ROBIN_SVID_HINT="a # b")
    assert said["ROBIN_AUDIENCE"] == "all of it, the # too: there are no inline comments"
    assert "ROBIN_TOKEN_FILE" not in said
    assert said["ROBIN_SVID_HINT"] == "not used: ROBIN_TOKEN_SOURCE=file"
