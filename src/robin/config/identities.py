"""The key `identities` of the section `gateway`: by name, where proof of this workload comes from for the issuers of provider profiles."""

from collections.abc import Callable
from typing import Final

from robin.config import file_modes
from robin.config.addresses import ENDPOINT
from robin.config.diagnostic import Position
from robin.config.names import SPIFFE_ID
from robin.config.parse import TEXT, choice
from robin.config.schema import Entries, Field, Mapping, Scalar
from robin.config.yaml_reader import Located
from robin.identity.settings import FileIdentitySettings, IdentitySettings, JwtSvidSettings

IDENTITIES: Final = Entries(
    longest=16,
    value=Mapping(
        fields=(
            Field(name="source", schema=Scalar(kind=choice("file", "jwtsvid")), help="where it comes from", required=True),
            Field(name="token_file", schema=Scalar(kind=TEXT), help="of `file`: a projected token"),
            Field(name="audience", schema=Scalar(kind=TEXT), help="of `file`: what its tokens are for, one issuer"),
            Field(name="spiffe_socket", schema=Scalar(kind=ENDPOINT), help="of `jwtsvid`: unix:///path or tcp://IP:port"),
            Field(name="spiffe_id", schema=Scalar(kind=SPIFFE_ID), help="of `jwtsvid`: which identity of several"),
            Field(name="hint", schema=Scalar(kind=TEXT), help="of `jwtsvid`: which identity of several"),
        )
    ),
)
_KEYS: Final = {"file": ("token_file", "audience"), "jwtsvid": ("spiffe_socket", "spiffe_id", "hint")}
_MIN_VALIDITY_S: Final = 5.0
_GRACE_S: Final = 10.0
_REFRESH_BEFORE_S: Final = 60.0
_FETCH_TIMEOUT_S: Final = 10.0
_WAIT_S: Final = 2.0

Report = Callable[[Position | None, str, str, str], None]
"""Notes an error: where, code, message, fix."""


def build_identities(section: Located, report: Report) -> dict[str, IdentitySettings]:
    """The settings of each source; what is wrong is reported, and such an entry is left out."""
    built = {}
    for name, entry in section.value.items():
        settings = _build(name, entry, report)
        if settings is not None:
            built[name] = settings
    return built


def fixed_audience(settings: IdentitySettings) -> str | None:
    """The one audience of its tokens; None where they are asked for by audience, or may have any."""
    return settings.audience if isinstance(settings, FileIdentitySettings) else None


def _build(name: str, entry: Located, report: Report) -> IdentitySettings | None:
    values, place = entry.plain(), entry.value
    source = values["source"]
    for key in (key for kind, keys in _KEYS.items() if kind != source for key in keys):
        if values.get(key) is not None:
            report(place[key].at, "value_invalid", f"{key} is not for source {source}", f"use {', '.join(_KEYS[source])}")
            return None
    needed = _KEYS[source][0]
    if values.get(needed) is None:
        report(entry.at, "key_missing", f"the identity {name} has no {needed}", f"add {needed}")
        return None
    if source == "file":
        if _others_may_write(values["token_file"]):
            fix = "chmod 0640 it, or mount it read-only"
            report(place["token_file"].at, "secret_file_writable", f"others can write the token file of {name}", fix)
        return FileIdentitySettings(
            token_file=values["token_file"],
            token_format="jwt",  # noqa: S106 - a word, not a token
            audience=values.get("audience"),
            min_validity_s=_MIN_VALIDITY_S,
            grace_s=_GRACE_S,
        )
    return JwtSvidSettings(
        audience="",
        spiffe_socket=values["spiffe_socket"],
        spiffe_id=values.get("spiffe_id"),
        hint=values.get("hint"),
        min_validity_s=_MIN_VALIDITY_S,
        refresh_before_s=_REFRESH_BEFORE_S,
        fetch_timeout_s=_FETCH_TIMEOUT_S,
        wait_s=_WAIT_S,
        stop_when_denied=False,
    )


def _others_may_write(path: str) -> bool:
    """Whether it is there, and any user can write it; one that is not there yet makes only its own requests fail."""
    try:
        return file_modes.others_may(path, file_modes.WRITE)
    except OSError:
        return False
