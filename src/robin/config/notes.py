"""What `robin check` adds to a setting beyond its text: what follows from others, and that it has no effect."""

import re
from collections.abc import Iterator

from robin.config.layers import Layer, ResolvedValue
from robin.config.settings import SidecarSettings
from robin.config.table import SETTINGS
from robin.identity.settings import FileIdentitySettings
from robin.model.address import UnixAddress
from robin.wire.forwarding import DEFAULT_STRIP

_COMMENT = re.compile("[ \t]#")


def looks_commented(source: ResolvedValue) -> bool:
    """Whether a KEY=value line seems to have a comment behind its value; the grammar has none, so it is part of the value."""
    return source.layer is Layer.FILE and source.at is None and source.text is not None and _COMMENT.search(source.text) is not None


def note(source: ResolvedValue, settings: SidecarSettings) -> str:
    """The notes on one setting; empty: none."""
    return "; ".join(_notes(source, settings))


def _notes(source: ResolvedValue, settings: SidecarSettings) -> Iterator[str]:
    if source.via:
        yield f"from {source.via}"
    if source.layer is Layer.DEFAULT:
        yield from _of_default(source.key, settings)
    elif reason := _unused(source.key, settings):
        yield f"not used: {reason}"
    elif looks_commented(source):
        yield "all of it, the # too: there are no inline comments"
    if source.key == "ROBIN_STRIP_HEADERS" and (kept := [name for name in DEFAULT_STRIP if name not in settings.guards.strip_headers]):
        yield f"no longer removed: {', '.join(kept)}"
    if source.key == "ROBIN_UDS_MODE" and source.text == "auto" and isinstance(settings.listeners.proxy[0], UnixAddress):
        yield f"{settings.listeners.proxy[0].mode:04o}"


def _of_default(key: str, settings: SidecarSettings) -> Iterator[str]:
    if key == "ROBIN_LISTEN_ADDR":
        yield "replaced by ROBIN_LISTEN_UDS" if settings.listeners.on_unix_socket else "and [::1]:4000 where there is IPv6"
    if key == "ROBIN_ADMIN_ADDR":
        yield "every interface; on a host use 127.0.0.1:4001"
    if key == "ROBIN_ALLOWED_HOSTS" and settings.guards.allowed_hosts is None:
        yield "not judged on a Unix socket unless set"


def _unused(key: str, settings: SidecarSettings) -> str:
    """Why a setting that is not a default has no effect; empty: it has one."""
    identity = settings.identity
    source = "file" if isinstance(identity, FileIdentitySettings) else "jwtsvid"
    if SETTINGS[key].only_source not in ("", source):
        return f"ROBIN_TOKEN_SOURCE={source}"
    if key == "ROBIN_TOKEN_MIN_VALIDITY" and isinstance(identity, FileIdentitySettings) and identity.token_format == "opaque":  # noqa: S105 - a word, not a token
        return "ROBIN_TOKEN_FORMAT=opaque"
    if key == "ROBIN_UPSTREAM_CA_FILE" and not settings.upstream.url.origin.tls:
        return "ROBIN_UPSTREAM_URL is http"
    if key == "ROBIN_UDS_MODE" and not isinstance(settings.listeners.proxy[0], UnixAddress):
        return "Robin makes no Unix socket for callers"
    if key in ("ROBIN_ALLOWED_HOSTS", "ROBIN_ALLOWED_ORIGINS") and settings.unsafe.any_host:
        return "ROBIN_UNSAFE_ANY_HOST=true"
    return ""
