"""The keys `profiles`, `providers` and `grants` of the section `gateway` of robin.yaml, and the values of `grants`."""

from typing import TYPE_CHECKING, Any, Final

from robin.config.names import parse_field_name
from robin.config.parse import BOOLEAN, PATH, TEXT, InvalidValue, Kind, choice, duration, integer, shown
from robin.config.schema import Entries, Field, Mapping, Scalar, Sequence
from robin.grants.settings import STRIPPED, SUBJECT_FIELD, CacheSettings, GrantsSettings, IssuerSettings

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located


def _parse_strip_item(text: str) -> str:
    """A field name as it is compared, `+` before it where it adds to the built-in list."""
    return "+" + parse_field_name(text[1:]) if text.startswith("+") else parse_field_name(text)


_WORDS: Final = Sequence(item=Scalar(kind=TEXT), longest=256)
_STRIP: Final = Sequence(item=Scalar(kind=Kind(name="header", parse=_parse_strip_item)), longest=64)
_INTEGER_1K: Final = integer("1", "1024")


def _parse_name(text: str) -> str:
    if not text or len(text) > 63 or not all(character in "abcdefghijklmnopqrstuvwxyz0123456789-" for character in text):
        raise InvalidValue(f"{shown(text)} is not a provider name", "use lower-case letters, digits and hyphens, at most 63")
    return text


_FILES_HELP: Final = "by the name of a credential its token file, by that and .key its private key"

PROVIDER: Final = Mapping(
    fields=(
        Field(name="profile", schema=Scalar(kind=TEXT), help="the id of a profile", required=True),
        Field(name="name", schema=Scalar(kind=Kind(name="name", parse=_parse_name)), help="unique; by default the id of the profile"),
        Field(name="callers", schema=_WORDS, help="required: ids, patterns, names of callers, or * for every authenticated caller"),
        Field(name="identity", schema=Scalar(kind=TEXT, default="default"), help="an entry of `identities`"),
        Field(name="stage1_identity", schema=Scalar(kind=TEXT, nullable=True), help="of an exchange in two stages"),
        Field(name="files", schema=Entries(value=Scalar(kind=PATH), name="^[!-~]{1,128}$", longest=64), help=_FILES_HELP),
        Field(name="permit", schema=Scalar(kind=BOOLEAN, default="true"), help="also allow the endpoints for `callers`"),
        Field(name="pin", schema=Scalar(kind=TEXT, nullable=True), help="sha256 of the security fields, as `robin check` prints it"),
        Field(name="unsafe_plaintext", schema=_WORDS, help="exact hosts that may be spoken to over http"),
    )
)

_RATE: Final = Mapping(
    fields=(
        Field(name="per_second", schema=Scalar(kind=_INTEGER_1K, default="5"), help="calls to one issuer each second"),
        Field(name="burst", schema=Scalar(kind=_INTEGER_1K, default="20"), help="calls at once after a pause"),
        Field(name="concurrency", schema=Scalar(kind=_INTEGER_1K, default="8"), help="calls at the same time"),
    )
)

GRANTS: Final = Mapping(
    fields=(
        Field(name="token_timeout", schema=Scalar(kind=duration("100ms", "5m"), default="10s"), help="of one call to an issuer"),
        Field(name="connect_timeout", schema=Scalar(kind=duration("100ms", "5m"), default="3s"), help="of DNS, TCP and TLS to an issuer"),
        Field(name="max_response_bytes", schema=Scalar(kind=integer("1024", "1048576"), default="65536"), help="of an issuer's response"),
        Field(name="max_token_bytes", schema=Scalar(kind=integer("64", "65536"), default="16384"), help="of a token"),
        Field(name="cache_max_entries", schema=Scalar(kind=integer("1", "1000000"), default="4096"), help="tokens that are kept"),
        Field(name="ca_file", schema=Scalar(kind=PATH, nullable=True), help="roots for issuers, beside the system's"),
        Field(name="issuer_rate", schema=_RATE),
        Field(name="default_ttl", schema=Scalar(kind=duration("1s"), default="300s"), help="of a token whose life the issuer does not say"),
        Field(name="max_ttl", schema=Scalar(kind=duration("1s"), default="3600s"), help="the longest life of a token"),
        Field(name="skew", schema=Scalar(kind=duration("0s", "5m"), default="30s"), help="margin for clocks; a tenth of the life at most"),
        Field(name="refresh_on_401", schema=Scalar(kind=choice("any", "invalid_token", "never"), default="any"), help="the 401 rule"),
        Field(
            name="forced_refresh_interval", schema=Scalar(kind=duration("1s", "1h"), default="60s"), help="least time between two of them"
        ),
        Field(name="replay_max_body_bytes", schema=Scalar(kind=integer("0", "16777216"), default="65536"), help="kept for the 401 rule"),
        Field(name="signing_max_body_bytes", schema=Scalar(kind=integer("0", "1073741824"), default="10485760"), help="kept to be signed"),
        Field(name="strip_headers", schema=_STRIP, help="a list replaces the built-in one; +name adds to it"),
        Field(name="strip_cookies", schema=Scalar(kind=BOOLEAN, default="false"), help="also strip Cookie"),
    )
)

FIELDS: Final = (
    Field(name="profiles", schema=_WORDS, help="profile files or one-level globs, relative to robin.yaml"),
    Field(name="providers", schema=Sequence(item=PROVIDER, longest=256), help="which profile is used for which callers"),
    Field(name="grants", schema=GRANTS, help="how issuers are called and tokens are kept"),
)
"""For the section `gateway`."""


def grants_settings(located: "Located") -> GrantsSettings:
    """The settings of a section that was read without errors."""
    values: dict[str, Any] = located.plain()
    rate = values["issuer_rate"]
    listed = values["strip_headers"]
    names = frozenset(name.removeprefix("+") for name in listed)
    if not listed or any(name.startswith("+") for name in listed):
        names |= STRIPPED
    names |= {SUBJECT_FIELD}
    return GrantsSettings(
        issuer=IssuerSettings(
            max_response_bytes=values["max_response_bytes"],
            max_token_bytes=values["max_token_bytes"],
            default_ttl_s=values["default_ttl"],
            max_ttl_s=values["max_ttl"],
            skew_s=values["skew"],
        ),
        cache=CacheSettings(
            token_timeout_s=values["token_timeout"],
            connect_timeout_s=values["connect_timeout"],
            entries_max=values["cache_max_entries"],
            forced_every_s=values["forced_refresh_interval"],
            rate_per_s=float(rate["per_second"]),
            rate_burst=rate["burst"],
            concurrency=rate["concurrency"],
        ),
        refresh_on_401=values["refresh_on_401"],
        replay_max_body_bytes=values["replay_max_body_bytes"],
        signing_max_body_bytes=values["signing_max_body_bytes"],
        strip=names | {"cookie"} if values["strip_cookies"] else names,
        ca_file=values.get("ca_file"),
    )
