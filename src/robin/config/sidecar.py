"""The sidecar's settings: its section of robin.yaml, made from the table, and the frozen value that is built from parsed settings."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, TypeVar

from robin.config.check import ParsedSettings
from robin.config.schema import Field, Mapping, Scalar
from robin.config.settings import LifecycleSettings, SidecarSettings, UnsafeSettings
from robin.config.table import BY_PATH, SETTINGS, Setting
from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings
from robin.model.address import Address, UnixAddress
from robin.model.limits import Deadlines, Limits
from robin.planes.sidecar.listener import socket_mode
from robin.policy.settings import GuardSettings
from robin.telemetry.settings import TelemetrySettings
from robin.transport.settings import ListenerSettings, UpstreamSettings

P = TypeVar("P")


_BY_VARIABLE = {setting.flag[2:].replace("-", "_"): f"sidecar.{path}" for path, setting in BY_PATH.items()}


def _elsewhere() -> dict[str, str]:
    """What is tried as a key of the section itself: a variable's name (`token_source`), its first word (`log`), a key's name (`url`)."""
    groups: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for path, setting in BY_PATH.items():
        groups.setdefault(setting.flag[2:].partition("-")[0], set()).add(f"sidecar.{setting.group}")
        names.setdefault(setting.name, set()).add(f"sidecar.{path}")
    alone = {word: places.pop() for guess in (groups, names) for word, places in guess.items() if len(places) == 1}
    return alone | _BY_VARIABLE


def _groups() -> Iterator[Field]:
    for group in dict.fromkeys(setting.group for setting in BY_PATH.values()):
        keys = tuple(_field(setting) for setting in BY_PATH.values() if setting.group == group)
        yield Field(name=group, schema=Mapping(fields=keys, elsewhere=_BY_VARIABLE))


def _field(setting: Setting) -> Field:
    """None is required, since a flag or a variable may give it."""
    default = f"{setting.default}s" if setting.kind.name == "duration" and setting.default == "0" else setting.default
    return Field(name=setting.name, schema=Scalar(kind=setting.kind, default=default), help=setting.help)


SCHEMA = Mapping(fields=tuple(_groups()), elsewhere=_elsewhere())


def build_sidecar(parsed: ParsedSettings) -> SidecarSettings:
    """The settings of `robin sidecar`, from values that parsed and do not clash."""
    values = parsed.values
    on_unix_socket = values["ROBIN_LISTEN_UDS"] is not None
    hosts = values["ROBIN_ALLOWED_HOSTS"] if parsed.explicit("ROBIN_ALLOWED_HOSTS") or not on_unix_socket else None
    return SidecarSettings(
        identity=build_identity(parsed),
        upstream=_part(UpstreamSettings, "upstream", parsed),
        listeners=_part(ListenerSettings, "listeners", parsed, proxy=_proxy_addresses(parsed), on_unix_socket=on_unix_socket),
        guards=_part(GuardSettings, "guards", parsed, allowed_hosts=hosts),
        limits=_part(Limits, "limits", parsed),
        deadlines=_part(Deadlines, "timeouts", parsed),
        lifecycle=_part(LifecycleSettings, "lifecycle", parsed),
        telemetry=_part(TelemetrySettings, "telemetry", parsed),
        unsafe=_part(UnsafeSettings, "unsafe", parsed),
        config=values["ROBIN_CONFIG"],
    )


def build_identity(parsed: ParsedSettings) -> IdentitySettings:
    """The identity alone; only its settings need to be parsed."""
    if parsed.values["ROBIN_TOKEN_SOURCE"] == "file":  # noqa: S105 - a word, not a token
        return _part(FileIdentitySettings, "identity", parsed)
    return _part(JwtSvidSettings, "identity", parsed, stop_when_denied=parsed.values["ROBIN_SVID_ON_DENIED"] == "stop")


def _part(part: type[P], group: str, parsed: ParsedSettings, **derived: Any) -> P:
    """A part from the settings of its group that are its fields, and from those values that several settings give together."""
    names = {field.name for field in fields(part)}  # type: ignore[arg-type]  # each part is a dataclass
    own = {setting.field: parsed.values[key] for key, setting in SETTINGS.items() if setting.group == group and setting.field in names}
    return part(**own | derived)


def _proxy_addresses(parsed: ParsedSettings) -> tuple[Address, ...]:
    """Where the proxy listens, with the mode of the Unix socket."""
    mode = socket_mode(parsed.values["ROBIN_UDS_MODE"], parsed.values["ROBIN_PEERCRED_ALLOW_UIDS"])
    return tuple(replace(address, mode=mode) if isinstance(address, UnixAddress) else address for address in parsed.listen)
