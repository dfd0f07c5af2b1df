"""Identity sources by name: an explicit table with one row per source. What only one source needs is imported when it is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from robin.identity.file_identity import FileIdentity
from robin.identity.identity import Dependencies, Identity
from robin.identity.refreshing import RefreshingIdentity
from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings
from robin.identity.source import SourceHandle
from robin.identity.sources.file import FileSource
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jwt_inspection import SVID_ALGORITHMS, SVID_TYPES, TokenRules

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind(Generic[SettingsT]):
    """All that differs between sources: its settings, what a token of it must be, how it is opened, and what keeps its token current."""

    settings: type[SettingsT]
    rules: Callable[[SettingsT], TokenRules]
    open: Callable[[SettingsT, IdentityMetrics], SourceHandle]
    build: Callable[[SettingsT, Dependencies, IdentityMetrics], Identity]


def source_name(settings: IdentitySettings) -> str:
    """Return the name of the source that these settings configure: a key of SOURCES."""
    return next(name for name, kind in SOURCES.items() if kind.settings is type(settings))


def build_identity(settings: IdentitySettings, dependencies: Dependencies, metrics: IdentityMetrics) -> Identity:
    """Return the identity that the settings describe, not started."""
    return SOURCES[source_name(settings)].build(settings, dependencies, metrics)


def open_source(settings: IdentitySettings) -> SourceHandle:
    """Return the source that the settings describe, for callers that need one token and no refresh; it counts in metrics of its own."""
    name = source_name(settings)
    return SOURCES[name].open(settings, IdentityMetrics(name))


def token_rules(settings: IdentitySettings) -> TokenRules:
    """Return what a token of the configured source must be."""
    return SOURCES[source_name(settings)].rules(settings)


def _file_rules(settings: FileIdentitySettings) -> TokenRules:
    return TokenRules(
        decoded=settings.token_format == "jwt",  # noqa: S105 - a word, not a token
        audience=settings.audience,
        min_validity_s=settings.min_validity_s,
    )


def _open_file(settings: FileIdentitySettings, metrics: IdentityMetrics) -> SourceHandle:
    return SourceHandle(source=FileSource(settings.token_file, metrics))


def _build_file(settings: FileIdentitySettings, dependencies: Dependencies, metrics: IdentityMetrics) -> Identity:
    source = FileSource(settings.token_file, metrics)
    return FileIdentity(source, _file_rules(settings), grace_s=settings.grace_s, dependencies=dependencies, metrics=metrics)


def _jwtsvid_rules(settings: JwtSvidSettings) -> TokenRules:
    return TokenRules(audience=settings.audience, min_validity_s=settings.min_validity_s, algorithms=SVID_ALGORITHMS, types=SVID_TYPES)


def _open_jwtsvid(settings: JwtSvidSettings, _: IdentityMetrics) -> SourceHandle:
    from robin.identity.sources.jwtsvid import JwtSvidSource  # noqa: PLC0415 - HTTP/2 costs memory that `file` need not pay
    from robin.transport.control import ControlChannel  # noqa: PLC0415 - as above

    channel = ControlChannel(settings.spiffe_socket)
    source = JwtSvidSource(channel, spiffe_id=settings.spiffe_id, hint=settings.hint, timeout_s=settings.fetch_timeout_s)
    return SourceHandle(source=source, close=channel.close, endpoint_id=channel.endpoint_id)


def _build_jwtsvid(settings: JwtSvidSettings, dependencies: Dependencies, metrics: IdentityMetrics) -> Identity:
    return RefreshingIdentity(_open_jwtsvid(settings, metrics), _jwtsvid_rules(settings), settings, dependencies, metrics)


# The settings of a row are matched by type before they are passed to its functions; a type checker cannot follow that.
SOURCES: Final[dict[str, SourceKind[Any]]] = {
    "file": SourceKind(settings=FileIdentitySettings, rules=_file_rules, open=_open_file, build=_build_file),
    "jwtsvid": SourceKind(settings=JwtSvidSettings, rules=_jwtsvid_rules, open=_open_jwtsvid, build=_build_jwtsvid),
}
