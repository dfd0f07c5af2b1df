"""Identity sources by name: an explicit table, one line each; what a source alone needs is imported only when it is chosen."""

from collections.abc import Callable
from typing import Final, Protocol

from robin.identity.identity import Identity
from robin.identity.sources.file import FileSource
from robin.identity.surroundings import Surroundings
from robin.identity.watch import FileWatch
from robin.wire.jose import TokenRules


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
        """The one audience."""
        ...


def build_identity(settings: IdentitySettings, room: Surroundings) -> Identity:
    """The identity that the settings ask for, not started."""
    return SOURCES[settings.token_source](settings, room)


def token_rules(settings: IdentitySettings) -> TokenRules:
    """What a token of the `file` source must be."""
    return TokenRules(decoded=settings.token_format != "opaque", audience=settings.audience, min_validity_s=settings.token_min_validity_s)


def _file(settings: IdentitySettings, room: Surroundings) -> Identity:
    return FileWatch(FileSource(settings.token_file, room.metrics), token_rules(settings), grace_s=settings.token_file_grace_s, room=room)


SOURCES: Final[dict[str, Callable[[IdentitySettings, Surroundings], Identity]]] = {
    "file": _file,
}
