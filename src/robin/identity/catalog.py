"""Identity sources by name: an explicit table, one line each; what a source alone needs is imported only when it is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.identity.identity import Identity
from robin.identity.keeper import Keeper, KeepRules
from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings
from robin.identity.source import IdentitySource
from robin.identity.sources.file import FileSource
from robin.identity.surroundings import Surroundings
from robin.identity.watch import FileWatch
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jose import SVID_ALGORITHMS, SVID_TYPES, TokenRules


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSource:
    """A source that can be asked. `close` lets go of its connections; `landmark` as `Keeper` takes it."""

    source: IdentitySource
    close: Callable[[], None] = lambda: None
    landmark: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """What differs between sources apart from how they are built: what a token of it must be; None: anything."""

    algorithms: frozenset[str] | None = None
    types: frozenset[str] | None = None


def source_name(settings: IdentitySettings) -> str:
    """The key of its source in SOURCES."""
    return "file" if isinstance(settings, FileIdentitySettings) else "jwtsvid"


def build_identity(settings: IdentitySettings, room: Surroundings) -> Identity:
    """The identity that the settings ask for, not started."""
    return _keep_file(settings, room) if isinstance(settings, FileIdentitySettings) else _keep_jwtsvid(settings, room)


def open_source(settings: IdentitySettings) -> OpenSource:
    """The source that the settings ask for, to fetch one token and no more; its metrics are not exposed."""
    metrics = IdentityMetrics(source_name(settings))
    return _open_file(settings, metrics) if isinstance(settings, FileIdentitySettings) else _open_jwtsvid(settings)


def token_rules(settings: IdentitySettings) -> TokenRules:
    """What a token of the chosen source must be."""
    kind = SOURCES[source_name(settings)]
    return TokenRules(
        decoded=isinstance(settings, JwtSvidSettings) or settings.token_format == "jwt",  # noqa: S105 - a word, not a token
        audience=settings.audience,
        min_validity_s=settings.min_validity_s,
        algorithms=kind.algorithms,
        types=kind.types,
    )


def _open_file(settings: FileIdentitySettings, metrics: IdentityMetrics) -> OpenSource:
    return OpenSource(source=FileSource(settings.token_file, metrics))


def _keep_file(settings: FileIdentitySettings, room: Surroundings) -> Identity:
    return FileWatch(FileSource(settings.token_file, room.metrics), token_rules(settings), grace_s=settings.grace_s, room=room)


def _open_jwtsvid(settings: JwtSvidSettings) -> OpenSource:
    from robin.identity.sources.jwtsvid import JwtSvidSource  # noqa: PLC0415 - HTTP/2 costs memory that `file` need not pay
    from robin.transport.control import ControlChannel  # noqa: PLC0415 - as above

    channel = ControlChannel(settings.spiffe_socket)
    source = JwtSvidSource(channel, spiffe_id=settings.spiffe_id, hint=settings.hint, timeout_s=settings.fetch_timeout_s)
    return OpenSource(source=source, close=channel.close, landmark=channel.landmark)


def _keep_jwtsvid(settings: JwtSvidSettings, room: Surroundings) -> Identity:
    rules = KeepRules(
        audience=settings.audience,
        refresh_before_s=settings.refresh_before_s,
        wait_s=settings.wait_s,
        fetch_limit_s=settings.fetch_timeout_s + 1,
        stop_when_denied=settings.stop_when_denied,
    )
    opened = _open_jwtsvid(settings)
    return Keeper(opened.source, token_rules(settings), rules, room, landmark=opened.landmark, release=opened.close)


SOURCES: Final = {
    "file": SourceKind(),
    "jwtsvid": SourceKind(algorithms=SVID_ALGORITHMS, types=SVID_TYPES),
}
