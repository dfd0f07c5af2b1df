"""Loading (items I1, I3): precedence for each kind of value, unknown keys, service links, and every error in one run."""

import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config.layers import Layer, ResolvedValue, SettingError
from robin.config.load import Loaded, environment, load, load_identity, load_value
from robin.config.table import SETTINGS
from robin.identity.settings import JwtSvidSettings
from robin.model.address import ActivatedAddress, TcpAddress, UnixAddress

URL = {"ROBIN_UPSTREAM_URL": "https://broker.example"}

# One key of each kind: its place in SidecarSettings, then text and value for flag, environment, file and default.
LAYERS = [
    ("ROBIN_ADMIN_QUIT", "listeners.admin_quit", ("true", True), ("0", False), ("1", True), False),
    ("ROBIN_TOKEN_FILE_GRACE", "identity.grace_s", ("1s", 1.0), ("1500ms", 1.5), ("0", 0.0), 10.0),
    ("ROBIN_MAX_HEAD_SIZE", "limits.head_bytes", ("1MiB", 1048576), ("8KiB", 8192), ("4096", 4096), 65536),
    ("ROBIN_MAX_FIELDS", "limits.fields", ("10", 10), ("11", 11), ("12", 12), 100),
    ("ROBIN_LOG_LEVEL", "telemetry.log_level", ("debug", "debug"), ("warning", "warning"), ("error", "error"), "info"),
    ("ROBIN_TOKEN_FILE", "identity.token_file", ("/a", "/a"), ("/b", "/b"), ("/c", "/c"), "/var/run/secrets/tokens/token"),
    ("ROBIN_AUDIENCE", "identity.audience", ("a,b", "a,b"), ("b", "b"), ("c", "c"), None),
    ("ROBIN_ALLOWED_HOSTS", "guards.allowed_hosts", ("a", ("a",)), ("none", ()), ("c,d", ("c", "d")), ("localhost", "127.0.0.1", "[::1]")),
    ("ROBIN_UPSTREAM_IDLE_TIMEOUT", "deadlines.upstream_idle_s", ("1s", 1.0), ("auto", None), ("3s", 3.0), None),
    (
        "ROBIN_LISTEN_ADDR",
        "listeners.proxy",
        ("127.0.0.1:1", (TcpAddress(host="127.0.0.1", port=1),)),
        ("systemd:x", (ActivatedAddress(name="x"),)),
        ("[::1]:3", (TcpAddress(host="::1", port=3),)),
        (TcpAddress(host="127.0.0.1", port=4000), TcpAddress(host="::1", port=4000, best_effort=True)),
    ),
]


def settings_file(folder: Path, *lines: str) -> str:
    path = folder / "robin.env"
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return str(path)


def loaded(flags: dict[str, str], environ: dict[str, str]) -> Loaded:
    outcome = load(flags, {**URL, **environ})
    assert isinstance(outcome, Loaded), [str(error) for error in outcome]
    return outcome


def errors(flags: dict[str, str], environ: dict[str, str]) -> list[str]:
    outcome = load(flags, environ)
    assert isinstance(outcome, tuple)
    return [str(error) for error in outcome]


def source_of(outcome: Loaded, key: str) -> ResolvedValue:
    return next(source for source in outcome.sources if source.key == key)


@pytest.mark.parametrize(("key", "field", "flag", "env", "file", "default"), LAYERS)
def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, key: str, field: str, flag: tuple[str, object], env: tuple[str, object], file: tuple[str, object], default: object
) -> None:
    config = {"ROBIN_CONFIG": settings_file(tmp_path, "# first", f"{key}={file[0]}")}
    steps = [
        (loaded({key: flag[0]}, {key: env[0], **config}), flag[1], Layer.FLAG),
        (loaded({}, {key: env[0], **config}), env[1], Layer.ENV),
        (loaded({}, config), file[1], Layer.FILE),
        (loaded({}, {}), default, Layer.DEFAULT),
    ]
    for outcome, value, layer in steps:
        assert attrgetter(field)(outcome.settings) == value
        assert source_of(outcome, key).layer is layer
    assert source_of(steps[2][0], key).line == 2


def test_an_empty_value_counts_as_unset_in_every_layer(tmp_path: Path) -> None:
    config = settings_file(tmp_path, "ROBIN_MAX_FIELDS=''", "ROBIN_AUDIENCE=")
    outcome = loaded({"ROBIN_MAX_FIELDS": "", "ROBIN_AUDIENCE": ""}, {"ROBIN_MAX_FIELDS": "", "ROBIN_CONFIG": config})
    assert (outcome.settings.limits.fields, outcome.settings.identity.audience) == (100, None)
    assert source_of(outcome, "ROBIN_MAX_FIELDS").layer is Layer.DEFAULT


def test_an_empty_flag_uncovers_the_environment() -> None:
    assert loaded({"ROBIN_AUDIENCE": ""}, {"ROBIN_AUDIENCE": "from-env"}).settings.identity.audience == "from-env"


def test_the_file_is_named_by_flag_before_environment(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "ROBIN_AUDIENCE=from-file")
    outcome = loaded({"ROBIN_CONFIG": path}, {"ROBIN_CONFIG": "/nonexistent.env"})
    assert (outcome.settings.identity.audience, outcome.settings.config) == ("from-file", path)


def test_the_near_miss_of_an_allow_list_is_refused_with_its_right_name() -> None:
    said = "unknown setting; write ROBIN_PEERCRED_ALLOW_UIDS (the nearest), or remove it"
    assert errors({}, {**URL, "ROBIN_PEERCRED_ALLOW_UID": "0"}) == [f"robin: ROBIN_PEERCRED_ALLOW_UID (from env): {said}"]


def test_unknown_keys_of_the_file_are_refused_with_their_line(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "ROBIN_ALOWED_HOSTS=x", "TOKEN_FILE=/x", "ROBIN_PORT=tcp://10.0.0.1:4000")
    assert errors({"ROBIN_CONFIG": path}, URL) == [
        "robin: ROBIN_ALOWED_HOSTS (from file): line 1: unknown setting; write ROBIN_ALLOWED_HOSTS (the nearest), or remove it",
        "robin: TOKEN_FILE (from file): line 2: unknown setting; write ROBIN_TOKEN_FILE (the nearest), or remove it",
        "robin: ROBIN_PORT (from file): line 3: unknown setting; remove it, or find its name in robin --help",
    ]


@pytest.mark.parametrize("key", ["TOKEN_PATH", "MAX_BODY_SIZE", "UIDS", "DEBUG", "API_KEY"])
def test_a_word_that_is_close_to_none_gets_no_silly_advice(key: str) -> None:
    said = f"robin: ROBIN_{key} (from env): unknown setting; remove it, or find its name in robin --help"
    assert errors({}, {**URL, f"ROBIN_{key}": "x"}) == [said]


SERVICE_LINKS = [
    "ROBIN_PORT",
    "ROBIN_SERVICE_HOST",
    "ROBIN_SERVICE_PORT",
    "ROBIN_SERVICE_PORT_HTTP_ADMIN",
    "ROBIN_X_SERVICE_HOST",
    "ROBIN_X_Y_SERVICE_PORT",
    "ROBIN_PORT_4000_TCP",
    "ROBIN_PORT_4000_TCP_PROTO",
    "ROBIN_X_PORT_4001_TCP_PORT",
    "ROBIN_X_PORT_4001_TCP_ADDR",
    "ROBIN_X_PORT_4001_UDP_ADDR",
    "ROBIN_X_PORT",
]


@pytest.mark.parametrize("key", SERVICE_LINKS)
def test_kubernetes_service_links_are_ignored_in_the_environment(key: str) -> None:
    assert loaded({}, {key: "tcp://10.0.0.1:4001"}).settings == loaded({}, {}).settings


@pytest.mark.parametrize(
    "key", ["ROBIN_PORTS", "ROBIN_PORT_TCP", "ROBIN_SERVICE", "ROBIN_SERVICE_HOSTS", "ROBIN_X_PORT_4001_TCP_X", "ROBIN_"]
)
def test_what_only_resembles_a_service_link_is_an_error(key: str) -> None:
    (error,) = errors({}, {**URL, key: "x"})
    assert error == f"robin: {key} (from env): unknown setting; remove it, or find its name in robin --help"


def test_other_variables_are_nobodys_business() -> None:
    others = {"PATH": "/bin", "robin_audience": "x", "XROBIN_A": "1", "HTTP_PROXY": "http://evil", "NO_PROXY": "*"}
    assert loaded({}, others).settings == loaded({}, {}).settings


def test_every_error_of_every_layer_is_told_in_one_run(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "nonsense", "ROBIN_MAX_FIELDS=5", "ROBIN_X=1")
    flags = {"ROBIN_CONFIG": path, "ROBIN_LOG_LEVEL": "loud"}
    environ = {"ROBIN_DRAIN_MIN": "30s", "ROBIN_HEADER_TIMEOUT": "10", "ROBIN_SVID_HINT": "a\nb"}
    assert errors(flags, environ) == [
        "robin: ROBIN_CONFIG (from flag): line 1: has no =; write KEY=value",
        "robin: ROBIN_X (from file): line 3: unknown setting; remove it, or find its name in robin --help",
        "robin: ROBIN_UPSTREAM_URL is required: set it to https://host[:port][/base], or give --upstream-url",
        "robin: ROBIN_SVID_HINT (from env): holds a control character or is not UTF-8; write it as plain text on one line",
        'robin: ROBIN_MAX_FIELDS (from file): line 2: "5" is below 10; use 10 to 1000',
        'robin: ROBIN_HEADER_TIMEOUT (from env): "10" has no unit; write 10s or 10ms',
        'robin: ROBIN_LOG_LEVEL (from flag): "loud" is not one of its values; use debug, info, warning or error',
        "robin: ROBIN_DRAIN_MAX (from default): shorter than ROBIN_DRAIN_MIN (from env); "
        "make ROBIN_DRAIN_MAX at least as long as ROBIN_DRAIN_MIN",
    ]


def test_a_value_with_a_comment_behind_it_is_told_that_there_are_none(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "ROBIN_LOG_LEVEL=debug # noisy", "ROBIN_MAX_FIELDS=5#")
    assert errors({"ROBIN_CONFIG": path, "ROBIN_LOG_FORMAT": "json # x"}, URL) == [
        'robin: ROBIN_MAX_FIELDS (from file): line 2: "5#" is not a whole number; write decimal digits only',
        'robin: ROBIN_LOG_LEVEL (from file): line 1: "debug # noisy" is not one of its values; use debug, info, warning or error '
        "(there are no inline comments)",
        'robin: ROBIN_LOG_FORMAT (from flag): "json # x" is not one of its values; use json or console',
    ]


def test_a_file_that_cannot_be_used_is_one_error_and_what_it_may_have_set_is_none(tmp_path: Path) -> None:
    assert errors({}, {"ROBIN_CONFIG": str(tmp_path), "ROBIN_LOG_LEVEL": "loud"}) == [
        f"robin: ROBIN_CONFIG (from env): {tmp_path}: the file is not a regular file; name a regular file",
        'robin: ROBIN_LOG_LEVEL (from env): "loud" is not one of its values; use debug, info, warning or error',
    ]


def test_the_workload_api_may_come_from_the_spiffe_variable() -> None:
    svid = {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a", "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spiffe.sock"}
    outcome = loaded({}, svid)
    assert isinstance(outcome.settings.identity, JwtSvidSettings)
    assert outcome.settings.identity.spiffe_socket == UnixAddress(path="/run/spiffe.sock")
    assert source_of(outcome, "ROBIN_SPIFFE_SOCKET").note == "from SPIFFE_ENDPOINT_SOCKET"
    own = loaded({}, {**svid, "ROBIN_SPIFFE_SOCKET": "unix:///run/own.sock"})
    assert isinstance(own.settings.identity, JwtSvidSettings)
    assert own.settings.identity.spiffe_socket == UnixAddress(path="/run/own.sock")


@pytest.mark.parametrize(("uids", "mode", "expected"), [("", "", 0o600), ("1000", "", 0o666), ("1000", "0660", 0o660), ("", "600", 0o600)])
def test_the_socket_mode_follows_the_uid_list_unless_it_is_set(uids: str, mode: str, expected: int) -> None:
    environ = {"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_PEERCRED_ALLOW_UIDS": uids, "ROBIN_UDS_MODE": mode}
    assert loaded({}, environ).settings.listeners.proxy == (UnixAddress(path="/run/r.sock", mode=expected),)


def test_on_a_unix_socket_hosts_are_judged_only_when_set() -> None:
    assert loaded({}, {"ROBIN_LISTEN_UDS": "/run/r.sock"}).settings.guards.allowed_hosts is None
    assert loaded({}, {"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_ALLOWED_HOSTS": "robin"}).settings.guards.allowed_hosts == ("robin",)


def test_one_value_alone_needs_no_other() -> None:
    assert load_value("ROBIN_ADMIN_ADDR", {}, {"ROBIN_NONSENSE": "1"}) == ((TcpAddress(host="", port=4001),), ())
    value, problems = load_value("ROBIN_ADMIN_ADDR", {}, {"ROBIN_ADMIN_ADDR": "x"})
    assert value is None
    assert [str(problem) for problem in problems] == ['robin: ROBIN_ADMIN_ADDR (from env): "x" has no port; write x:4000']


def test_the_identity_alone_needs_no_upstream_and_is_what_the_whole_says(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "ROBIN_AUDIENCE=a", "ROBIN_TOKEN_SOURCE=jwtsvid")
    environ = {"ROBIN_CONFIG": path, "SPIFFE_ENDPOINT_SOCKET": "unix:///run/spiffe.sock", "ROBIN_TOKEN_MIN_VALIDITY": "7s"}
    alone = load_identity({"ROBIN_SVID_HINT": "b"}, environ)
    assert isinstance(alone, JwtSvidSettings)
    assert alone == loaded({"ROBIN_SVID_HINT": "b"}, environ).settings.identity
    assert alone.spiffe_socket == UnixAddress(path="/run/spiffe.sock")


TEXTS = st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=()), max_size=40)


@given(st.dictionaries(st.sampled_from(sorted(set(SETTINGS) - {"ROBIN_CONFIG"})), TEXTS, max_size=8))
def test_any_environment_loads_or_is_refused_in_printable_lines(environ: dict[str, str]) -> None:
    outcome = load({}, environ)
    if isinstance(outcome, tuple):
        assert len(outcome) > 0
        assert all(isinstance(error, SettingError) and str(error).isprintable() for error in outcome)


@given(st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=30))
def test_a_robin_key_is_known_or_a_service_link_or_an_error(suffix: str) -> None:
    key = f"ROBIN_{suffix}"
    if key not in SETTINGS:
        is_link = any(part in key for part in ("SERVICE_HOST", "SERVICE_PORT", "_PORT"))
        outcome = load({}, {**URL, key: "x"})
        assert isinstance(outcome, tuple) or is_link


def test_the_environment_is_this_process() -> None:
    code = "from robin.config.load import environment; print(environment()['ROBIN_AUDIENCE'])"
    done = subprocess.run([sys.executable, "-c", code], env={"ROBIN_AUDIENCE": "seen"}, capture_output=True, text=True, check=True)
    assert done.stdout == "seen\n"
    assert "ROBIN_AUDIENCE" not in environment() or environment()["ROBIN_AUDIENCE"] != "seen"


def test_the_repr_of_what_was_loaded_hides_the_value_that_require_header_demands() -> None:
    outcome = load({}, {"ROBIN_UPSTREAM_URL": "https://broker.example", "ROBIN_REQUIRE_HEADER": "x-key: canary"})
    assert isinstance(outcome, Loaded)
    assert "canary" not in repr(outcome)
