"""Identity sources by name: an explicit table, one line each; what a source alone needs is imported only when it is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from robin.identity.identity import Identity
from robin.identity.keeper import Keeper, KeepRules
from robin.identity.source import IdentitySource
from robin.identity.sources.file import FileSource
from robin.identity.surroundings import Surroundings
from robin.identity.watch import FileWatch
from robin.model.address import TcpAddress, UnixAddress
from robin.telemetry.identity_metrics import IdentityMetrics
from robin.wire.jose import SVID_ALGORITHMS, SVID_TYPES, TokenRules


class IdentitySettings(Protocol):
    """The settings that identity reads; `config.settings.Settings` has them all."""

    @property
    def token_source(self) -> str:
        """A key of SOURCES."""
        ...

    @property
    def token_file(self) -> str:
        """An absolute path."""
        ...

    @property
    def token_format(self) -> str:
        """`jwt` or `opaque`."""
        ...

    @property
    def token_min_validity_s(self) -> float:
        """Never inject a token with less left."""
        ...

    @property
    def token_file_grace_s(self) -> float:
        """How long the last good token outlives a failing file."""
        ...

    @property
    def audience(self) -> str | None:
        """The one audience; always set for `jwtsvid`."""
        ...

    @property
    def identity_wait_s(self) -> float:
        """The longest wait of one request for a token."""
        ...

    @property
    def spiffe_socket(self) -> UnixAddress | TcpAddress | None:
        """The Workload API; always set for `jwtsvid`."""
        ...

    @property
    def spiffe_id(self) -> str | None:
        """The SPIFFE ID to ask for."""
        ...

    @property
    def svid_hint(self) -> str | None:
        """The hint of the identity to choose."""
        ...

    @property
    def svid_refresh_before_s(self) -> float:
        """How long before expiry to refresh."""
        ...

    @property
    def svid_fetch_timeout_s(self) -> float:
        """The deadline of one Workload API call."""
        ...

    @property
    def svid_on_denied(self) -> str:
        """`serve` or `stop`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSource:
    """A source that can be asked. `close` lets go of its connections; `landmark` as `Keeper` takes it."""

    source: IdentitySource
    close: Callable[[], None] = lambda: None
    landmark: Callable[[], object] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKind:
    """All that differs between sources: how one is opened, what keeps its token current, and what a token of it must be; None: anything."""

    open: Callable[[IdentitySettings, IdentityMetrics], OpenSource]
    keep: Callable[[IdentitySettings, Surroundings], Identity]
    algorithms: frozenset[str] | None = None
    types: frozenset[str] | None = None


def build_identity(settings: IdentitySettings, room: Surroundings) -> Identity:
    """The identity that the settings ask for, not started."""
    return SOURCES[settings.token_source].keep(settings, room)


def open_source(settings: IdentitySettings) -> OpenSource:
    """The source that the settings ask for, for whoever wants one token and no more; its metrics are nobody's."""
    return SOURCES[settings.token_source].open(settings, IdentityMetrics(settings.token_source))


def token_rules(settings: IdentitySettings) -> TokenRules:
    """What a token of the chosen source must be."""
    kind = SOURCES[settings.token_source]
    return TokenRules(
        decoded=settings.token_format == "jwt",  # noqa: S105 - a word, not a token
        audience=settings.audience,
        min_validity_s=settings.token_min_validity_s,
        algorithms=kind.algorithms,
        types=kind.types,
    )


def _open_file(settings: IdentitySettings, metrics: IdentityMetrics) -> OpenSource:
    return OpenSource(source=FileSource(settings.token_file, metrics))


def _keep_file(settings: IdentitySettings, room: Surroundings) -> Identity:
    return FileWatch(FileSource(settings.token_file, room.metrics), token_rules(settings), grace_s=settings.token_file_grace_s, room=room)


def _open_jwtsvid(settings: IdentitySettings, _: IdentityMetrics) -> OpenSource:
    from robin.identity.sources.jwtsvid import JwtSvidSource  # noqa: PLC0415 - HTTP/2 costs memory that `file` need not pay
    from robin.transport.control import ControlChannel  # noqa: PLC0415 - as above

    assert settings.spiffe_socket is not None
    channel = ControlChannel(settings.spiffe_socket)
    source = JwtSvidSource(channel, spiffe_id=settings.spiffe_id, hint=settings.svid_hint, timeout_s=settings.svid_fetch_timeout_s)
    return OpenSource(source=source, close=channel.close, landmark=channel.landmark)


def _keep_jwtsvid(settings: IdentitySettings, room: Surroundings) -> Identity:
    assert settings.audience is not None
    rules = KeepRules(
        audience=settings.audience,
        refresh_before_s=settings.svid_refresh_before_s,
        wait_s=settings.identity_wait_s,
        fetch_limit_s=settings.svid_fetch_timeout_s + 1,
        stop_when_denied=settings.svid_on_denied == "stop",
    )
    opened = _open_jwtsvid(settings, room.metrics)
    return Keeper(opened.source, token_rules(settings), rules, room, landmark=opened.landmark, release=opened.close)


SOURCES: Final = {
    "file": SourceKind(open=_open_file, keep=_keep_file),
    "jwtsvid": SourceKind(open=_open_jwtsvid, keep=_keep_jwtsvid, algorithms=SVID_ALGORITHMS, types=SVID_TYPES),
}
