"""What a person reading `robin check` should know of a setting beyond its text: what follows from others, and that it has no effect."""

import re
from collections.abc import Iterator

from robin.config.layers import Layer, ResolvedValue
from robin.config.settings import Settings
from robin.config.table import SETTINGS
from robin.model.address import UnixAddress

_COMMENT = re.compile("[ \t]#")


def looks_commented(source: ResolvedValue) -> bool:
    """Whether a line of the file seems to have a comment behind its value; the grammar has none, so it is part of the value."""
    return source.layer is Layer.FILE and source.text is not None and _COMMENT.search(source.text) is not None


def note(source: ResolvedValue, settings: Settings) -> str:
    """All that is to be said of one setting; empty: nothing."""
    return "; ".join(_notes(source, settings))


def _notes(source: ResolvedValue, settings: Settings) -> Iterator[str]:
    if source.via:
        yield f"from {source.via}"
    if source.layer is Layer.DEFAULT:
        yield from _of_default(source.key, settings)
    elif reason := _unused(source.key, settings):
        yield f"not used: {reason}"
    elif looks_commented(source):
        yield "all of it, the # too: there are no inline comments"
    if source.key == "ROBIN_UDS_MODE" and source.text == "auto" and isinstance(settings.listen[0], UnixAddress):
        yield f"{settings.listen[0].mode:04o}"


def _of_default(key: str, settings: Settings) -> Iterator[str]:
    if key == "ROBIN_LISTEN_ADDR":
        yield "replaced by ROBIN_LISTEN_UDS" if settings.peercred else "and [::1]:4000 where there is IPv6"
    if key == "ROBIN_ADMIN_ADDR":
        yield "every interface; on a host use 127.0.0.1:4001"
    if key == "ROBIN_ALLOWED_HOSTS" and settings.allowed_hosts is None:
        yield "not judged on a Unix socket unless set"


def _unused(key: str, settings: Settings) -> str:
    """Why a setting that somebody made has no effect; empty: it has one."""
    if SETTINGS[key].only_source not in ("", settings.token_source):
        return f"ROBIN_TOKEN_SOURCE={settings.token_source}"
    if key == "ROBIN_TOKEN_MIN_VALIDITY" and settings.token_format == "opaque":  # noqa: S105 - a word, not a token
        return "ROBIN_TOKEN_FORMAT=opaque"
    if key == "ROBIN_UPSTREAM_CA_FILE" and not settings.upstream.origin.tls:
        return "ROBIN_UPSTREAM_URL is http"
    if key == "ROBIN_UDS_MODE" and not isinstance(settings.listen[0], UnixAddress):
        return "Robin makes no Unix socket for callers"
    if key in ("ROBIN_ALLOWED_HOSTS", "ROBIN_ALLOWED_ORIGINS") and settings.unsafe_any_host:
        return "ROBIN_UNSAFE_ANY_HOST=true"
    return ""
