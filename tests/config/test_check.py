"""Rules between settings (items I4, L3, C5): each clash is one error that names the fix; what is allowed passes."""

import pytest

from robin.config.check import RULES, warnings
from robin.config.load import Loaded, load
from robin.config.table import SETTINGS

URL = {"ROBIN_UPSTREAM_URL": "https://broker.example"}


def errors(environ: dict[str, str]) -> list[str]:
    outcome = load({}, {**URL, **environ})
    return [] if isinstance(outcome, Loaded) else [str(error) for error in outcome]


CLASHES = [
    (
        {"ROBIN_UPSTREAM_URL": "http://broker.example"},
        "robin: ROBIN_UPSTREAM_URL (from env): http to a host that is not loopback; "
        "use https, or set ROBIN_UNSAFE_UPSTREAM_HTTP=true to send the identity in clear text",
    ),
    (
        {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:4000"},
        "robin: ROBIN_UPSTREAM_URL (from env): http://127.0.0.1:4000 is Robin itself, at 127.0.0.1:4000 "
        "of ROBIN_LISTEN_ADDR (from default); "
        "name the broker that requests should go to",
    ),
    (
        {"ROBIN_UPSTREAM_URL": "http://localhost:4001/base"},
        "robin: ROBIN_UPSTREAM_URL (from env): http://localhost:4001 is Robin itself, at :4001 of ROBIN_ADMIN_ADDR (from default); "
        "name the broker that requests should go to",
    ),
    (
        {"ROBIN_UPSTREAM_URL": "https://10.0.0.1:8080", "ROBIN_LISTEN_ADDR": "10.0.0.1:8080", "ROBIN_UNSAFE_LISTEN": "true"},
        "robin: ROBIN_UPSTREAM_URL (from env): https://10.0.0.1:8080 is Robin itself, at 10.0.0.1:8080 of ROBIN_LISTEN_ADDR (from env); "
        "name the broker that requests should go to",
    ),
    (
        {"ROBIN_LISTEN_ADDR": "0.0.0.0:4000"},
        "robin: ROBIN_LISTEN_ADDR (from env): 0.0.0.0:4000 is not a loopback address; "
        "use 127.0.0.1 or [::1], or set ROBIN_UNSAFE_LISTEN=true to let the network use the identity",
    ),
    (
        {"ROBIN_LISTEN_ADDR": ":4000"},
        "robin: ROBIN_LISTEN_ADDR (from env): :4000 is not a loopback address; "
        "use 127.0.0.1 or [::1], or set ROBIN_UNSAFE_LISTEN=true to let the network use the identity",
    ),
    (
        {"ROBIN_LISTEN_ADDR": "127.0.0.1:1", "ROBIN_LISTEN_UDS": "/run/r.sock"},
        "robin: ROBIN_LISTEN_UDS (from env): set together with ROBIN_LISTEN_ADDR (from env); keep one of them",
    ),
    (
        {"ROBIN_PEERCRED_ALLOW_UIDS": "1000"},
        "robin: ROBIN_PEERCRED_ALLOW_UIDS (from env): set without a Unix listener, where alone a caller's UID is known; "
        "set ROBIN_LISTEN_UDS, or remove the list",
    ),
    (
        {"ROBIN_PEERCRED_ALLOW_UIDS": "none"},
        "robin: ROBIN_PEERCRED_ALLOW_UIDS (from env): set without a Unix listener, where alone a caller's UID is known; "
        "set ROBIN_LISTEN_UDS, or remove the list",
    ),
    (
        {"ROBIN_ADMIN_ADDR": "127.0.0.1:4000"},
        "robin: ROBIN_ADMIN_ADDR (from env): 127.0.0.1:4000 is also where the proxy listens; use another port, path or name",
    ),
    (
        {"ROBIN_ADMIN_ADDR": "unix:/run/r.sock", "ROBIN_LISTEN_UDS": "/run/r.sock"},
        "robin: ROBIN_ADMIN_ADDR (from env): unix:/run/r.sock is also where the proxy listens; use another port, path or name",
    ),
    (
        {"ROBIN_ADMIN_ADDR": "off", "ROBIN_ADMIN_QUIT": "true"},
        "robin: ROBIN_ADMIN_QUIT (from env): true without an admin listener, ROBIN_ADMIN_ADDR (from env); "
        "set ROBIN_ADMIN_ADDR, or remove it",
    ),
    (
        {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_SPIFFE_SOCKET": "unix:///a"},
        "robin: ROBIN_AUDIENCE is required for ROBIN_TOKEN_SOURCE=jwtsvid: set it to the audience that the upstream expects",
    ),
    (
        {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a"},
        "robin: ROBIN_SPIFFE_SOCKET is required for ROBIN_TOKEN_SOURCE=jwtsvid: set it to unix:///path/to/agent.sock, "
        "or set SPIFFE_ENDPOINT_SOCKET",
    ),
    (
        {"ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a", "SPIFFE_ENDPOINT_SOCKET": "/run/agent.sock"},
        'robin: SPIFFE_ENDPOINT_SOCKET (from env): "/run/agent.sock" has no scheme; write unix:///run/agent.sock',
    ),
    (
        {"ROBIN_TOKEN_FORMAT": "opaque", "ROBIN_AUDIENCE": "a"},
        "robin: ROBIN_TOKEN_FORMAT (from env): opaque with ROBIN_AUDIENCE (from env), which could not be checked; "
        "unset ROBIN_AUDIENCE, or use ROBIN_TOKEN_FORMAT=jwt",
    ),
    (
        {"ROBIN_DRAIN_MIN": "30s"},
        "robin: ROBIN_DRAIN_MAX (from default): shorter than ROBIN_DRAIN_MIN (from env); "
        "make ROBIN_DRAIN_MAX at least as long as ROBIN_DRAIN_MIN",
    ),
]


@pytest.mark.parametrize(("environ", "message"), CLASHES)
def test_a_clash_is_one_error_that_names_the_fix(environ: dict[str, str], message: str) -> None:
    assert errors(environ) == [message]


def test_an_opaque_jwtsvid_is_two_clashes() -> None:
    environ = {"ROBIN_TOKEN_FORMAT": "opaque", "ROBIN_TOKEN_SOURCE": "jwtsvid", "ROBIN_AUDIENCE": "a", "ROBIN_SPIFFE_SOCKET": "unix:///a"}
    assert [error.partition(";")[0] for error in errors(environ)] == [
        "robin: ROBIN_TOKEN_FORMAT (from env): opaque with ROBIN_TOKEN_SOURCE (from env) jwtsvid, which is a JWT",
        "robin: ROBIN_TOKEN_FORMAT (from env): opaque with ROBIN_AUDIENCE (from env), which could not be checked",
    ]


@pytest.mark.parametrize(
    "environ",
    [
        {"ROBIN_UPSTREAM_URL": "http://localhost:9"},
        {"ROBIN_UPSTREAM_URL": "http://[::1]:9"},
        {"ROBIN_UPSTREAM_URL": "http://[::ffff:127.0.0.1]:9"},
        {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:4000", "ROBIN_LISTEN_ADDR": "127.0.0.1:4002"},
        {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:4000", "ROBIN_LISTEN_UDS": "/run/r.sock"},
        {"ROBIN_UPSTREAM_URL": "http://127.0.0.1:4001", "ROBIN_ADMIN_ADDR": "off"},
        {"ROBIN_UPSTREAM_URL": "http://broker.example", "ROBIN_UNSAFE_UPSTREAM_HTTP": "true"},
        {"ROBIN_LISTEN_ADDR": "0.0.0.0:4000", "ROBIN_UNSAFE_LISTEN": "1"},
        {"ROBIN_LISTEN_ADDR": "127.0.0.1:0", "ROBIN_ADMIN_ADDR": "127.0.0.1:0"},
        {"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_PEERCRED_ALLOW_UIDS": "0", "ROBIN_ADMIN_ADDR": "127.0.0.1:4000"},
        {"ROBIN_LISTEN_UDS": "systemd:robin", "ROBIN_PEERCRED_ALLOW_UIDS": "0"},
        {"ROBIN_DRAIN_MIN": "25s"},
        {"ROBIN_TOKEN_FORMAT": "opaque"},
        {"SPIFFE_ENDPOINT_SOCKET": "nonsense that nobody reads with source file"},
    ],
)
def test_what_is_meant_is_allowed(environ: dict[str, str]) -> None:
    assert errors(environ) == []


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "[::ffff:10.0.0.1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "x.localhost", "localhost.example"]
)
def test_cleartext_to_what_only_looks_like_this_machine_is_refused(host: str) -> None:
    (error,) = errors({"ROBIN_UPSTREAM_URL": f"http://{host}:9"})
    assert error.startswith("robin: ROBIN_UPSTREAM_URL (from env): http to a host that is not loopback; ")


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.0.0.1", "0.0.0.0", "[::ffff:0.0.0.0]"])
def test_robins_own_address_is_known_by_each_of_its_names(host: str) -> None:
    (error,) = errors({"ROBIN_UPSTREAM_URL": f"https://{host}:4000"})
    assert " is Robin itself, at 127.0.0.1:4000 of ROBIN_LISTEN_ADDR" in error


def test_rules_do_not_judge_what_did_not_parse() -> None:
    assert errors({"ROBIN_DRAIN_MIN": "30"}) == ['robin: ROBIN_DRAIN_MIN (from env): "30" has no unit; write 30s or 30ms']


def test_every_rule_names_keys_that_exist() -> None:
    assert [key for rule in RULES for key in rule.keys if key not in SETTINGS] == []


def warned(environ: dict[str, str]) -> list[str]:
    loaded = load({}, {**URL, **environ})
    assert isinstance(loaded, Loaded)
    return [" ".join((event, *([fields["switch"]] if "switch" in fields else []))) for event, fields in warnings(loaded.settings)]


def test_unsafe_switches_and_an_open_socket_are_warned_of() -> None:
    assert warned({}) == []
    switches = {f"ROBIN_UNSAFE_{name}": "true" for name in ("LISTEN", "UPSTREAM_HTTP", "ANY_HOST")}
    assert warned(switches) == ["unsafe listen", "unsafe upstream_http", "unsafe any_host"]
    assert warned({"ROBIN_LISTEN_UDS": "/run/r.sock"}) == ["any_local_peer"]
    assert warned({"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_PEERCRED_ALLOW_UIDS": "none"}) == []
    assert warned({"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_PEERCRED_ALLOW_UIDS": "65533"}) == []
    assert warned({"ROBIN_LISTEN_UDS": "/run/r.sock", "ROBIN_PEERCRED_ALLOW_UIDS": "1000,65534"}) == ["unmapped_uids_listed"]
