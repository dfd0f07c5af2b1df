"""SidecarSettings: of the types that its parts declare, and without loss from the texts."""

import dataclasses
import types
import typing

import pytest

from robin.config.load import Loaded, load
from robin.config.settings import SidecarSettings
from robin.config.table import SETTINGS
from robin.identity.settings import FileIdentitySettings, JwtSvidSettings
from robin.model.limits import Deadlines, Limits
from robin.model.message import RequiredField

EVERYTHING = {
    "ROBIN_UPSTREAM_URL": "https://broker.example/v1",
    "ROBIN_TOKEN_SOURCE": "jwtsvid",
    "ROBIN_LISTEN_UDS": "/run/robin.sock",
    "ROBIN_UDS_MODE": "0660",
    "ROBIN_ADMIN_ADDR": "unix:/run/admin.sock,127.0.0.1:4001",
    "ROBIN_AUDIENCE": "a, b",
    "ROBIN_SPIFFE_SOCKET": "tcp://127.0.0.1:8081",
    "ROBIN_UPSTREAM_CA_FILE": "ca.pem",
    "ROBIN_PEERCRED_ALLOW_UIDS": "0,1000",
    "ROBIN_SPIFFE_ID": "spiffe://td/x",
    "ROBIN_SVID_HINT": "internal",
    "ROBIN_ALLOWED_HOSTS": "robin",
    "ROBIN_ALLOWED_ORIGINS": "https://app.example",
    "ROBIN_REQUIRE_HEADER": "x-robin: yes",
    "ROBIN_UPSTREAM_IDLE_TIMEOUT": "3s",
    "ROBIN_UNSAFE_ANY_HOST": "1",
    "ROBIN_ADMIN_QUIT": "true",
}


def settings(environ: dict[str, str]) -> SidecarSettings:
    loaded = load({}, environ)
    assert isinstance(loaded, Loaded), [str(error) for error in loaded]
    return loaded.settings


def _fits(value: object, hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is typing.Literal:
        return value in arguments
    if dataclasses.is_dataclass(hint):
        return type(value) is hint and all(_fits(getattr(value, name), inner) for name, inner in typing.get_type_hints(hint).items())
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if hint is None or hint is type(None):
        return value is None
    assert isinstance(hint, type), hint
    return type(value) is hint


@pytest.mark.parametrize("environ", [{"ROBIN_UPSTREAM_URL": "http://127.0.0.1:9"}, EVERYTHING])
def test_every_field_of_every_part_holds_the_type_it_declares(environ: dict[str, str]) -> None:
    chosen = settings(environ)
    assert [name for name, hint in typing.get_type_hints(SidecarSettings).items() if not _fits(getattr(chosen, name), hint)] == []


def test_every_setting_reaches_a_field() -> None:
    """A row whose field name does not exist would be read, checked and dropped."""
    parts = {"timeouts": "deadlines"}
    chosen = settings(EVERYTHING)
    identity = {field.name for kind in (FileIdentitySettings, JwtSvidSettings) for field in dataclasses.fields(kind)}
    lost = {
        key
        for key, setting in SETTINGS.items()
        if setting.path
        and setting.field not in identity
        and not hasattr(getattr(chosen, parts.get(setting.group, setting.group)), setting.field)
    }
    assert lost == {"ROBIN_TOKEN_SOURCE", "ROBIN_SVID_ON_DENIED", "ROBIN_LISTEN_UDS", "ROBIN_UDS_MODE"}, "each of these gives another field"


def test_limits_and_deadlines_are_taken_over() -> None:
    texts = {
        "ROBIN_MAX_HEAD_SIZE": "5KiB",
        "ROBIN_MAX_TARGET_SIZE": "2KiB",
        "ROBIN_MAX_FIELDS": "11",
        "ROBIN_MAX_CONNECTIONS": "12",
        "ROBIN_UPSTREAM_MAX_CONNECTIONS": "13",
        "ROBIN_HEADER_TIMEOUT": "1s",
        "ROBIN_KEEPALIVE_TIMEOUT": "2s",
        "ROBIN_STREAM_IDLE_TIMEOUT": "3s",
        "ROBIN_UPSTREAM_RESPONSE_TIMEOUT": "4s",
        "ROBIN_UPSTREAM_CONNECT_TIMEOUT": "5s",
        "ROBIN_UPSTREAM_QUEUE_TIMEOUT": "6s",
        "ROBIN_UPSTREAM_IDLE_TIMEOUT": "7s",
    }
    chosen = settings({"ROBIN_UPSTREAM_URL": "https://broker.example", **texts})
    assert chosen.limits == Limits(head_bytes=5120, target_bytes=2048, fields=11, connections=12, upstream_connections=13)
    expected = Deadlines(head_s=1, keepalive_s=2, stream_idle_s=3, response_s=4, connect_s=5, queue_s=6, upstream_idle_s=7)
    assert chosen.deadlines == expected


def test_the_unsafe_switches_in_force_are_named_as_the_metric_names_them() -> None:
    assert settings({"ROBIN_UPSTREAM_URL": "https://broker.example"}).unsafe.names == ()
    on = {f"ROBIN_UNSAFE_{name}": "true" for name in ("LISTEN", "UPSTREAM_HTTP", "ANY_HOST")}
    assert settings({"ROBIN_UPSTREAM_URL": "https://broker.example", **on}).unsafe.names == ("listen", "upstream_http", "any_host")


def test_the_required_header_is_a_value_of_its_own() -> None:
    assert settings(EVERYTHING).guards.require_header == RequiredField(name=b"x-robin", value=b"yes")
