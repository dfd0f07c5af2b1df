"""Identity sources by name: an explicit table, one line each; what a source alone needs is imported only when it is chosen."""

from collections.abc import Callable
from typing import Final, Protocol

from robin.identity.identity import Identity
from robin.identity.keeper import Keeper, KeepRules
from robin.identity.sources.file import FileSource
from robin.identity.surroundings import Surroundings
from robin.identity.watch import FileWatch
from robin.model.address import TcpAddress, UnixAddress
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


def build_identity(settings: IdentitySettings, room: Surroundings) -> Identity:
    """The identity that the settings ask for, not started."""
    return SOURCES[settings.token_source](settings, room)


def token_rules(settings: IdentitySettings) -> TokenRules:
    """What a token of the chosen source must be."""
    svid = settings.token_source == "jwtsvid"  # noqa: S105 - a word, not a token
    return TokenRules(
        decoded=settings.token_format == "jwt",  # noqa: S105 - a word, not a token
        audience=settings.audience,
        min_validity_s=settings.token_min_validity_s,
        algorithms=SVID_ALGORITHMS if svid else None,
        types=SVID_TYPES if svid else None,
    )


def _file(settings: IdentitySettings, room: Surroundings) -> Identity:
    return FileWatch(FileSource(settings.token_file, room.metrics), token_rules(settings), grace_s=settings.token_file_grace_s, room=room)


def _jwtsvid(settings: IdentitySettings, room: Surroundings) -> Identity:
    from robin.identity.sources.jwtsvid import JwtSvidSource  # noqa: PLC0415 - HTTP/2 costs memory that `file` need not pay
    from robin.transport.control import ControlChannel  # noqa: PLC0415 - as above

    assert settings.spiffe_socket is not None
    assert settings.audience is not None
    channel = ControlChannel(settings.spiffe_socket)
    timeout_s = settings.svid_fetch_timeout_s
    source = JwtSvidSource(channel, spiffe_id=settings.spiffe_id, hint=settings.svid_hint, timeout_s=timeout_s)
    rules = KeepRules(
        audience=settings.audience,
        refresh_before_s=settings.svid_refresh_before_s,
        wait_s=settings.identity_wait_s,
        fetch_limit_s=timeout_s + 1,
        stop_when_denied=settings.svid_on_denied == "stop",
    )
    return Keeper(source, token_rules(settings), rules, room, landmark=channel.landmark, release=channel.close)


SOURCES: Final[dict[str, Callable[[IdentitySettings, Surroundings], Identity]]] = {
    "file": _file,
    "jwtsvid": _jwtsvid,
}
