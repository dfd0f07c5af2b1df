"""The keys of a provider profile file. The names are those of OpenShell's provider profiles, so that its files load as they are."""

from typing import Final

from robin.config.parse import BOOLEAN, TEXT, Form, Kind, duration, integer, parse_text
from robin.config.schema import Anything, Entries, Field, Mapping, Scalar, Schema, Sequence

FREE: Final = Kind(name="text", parse=parse_text, form=Form(pattern=""))
PORT: Final = integer("1", "65535")
SECONDS: Final = integer("0", "604800")
ANYTHING: Final = Anything()


def _text(name: str, help_text: str = "", *, required: bool = False) -> Field:
    """Required: some plain text on one line; else any text, "" by default."""
    schema = Scalar(kind=TEXT) if required else Scalar(kind=FREE, default="", free=True)
    return Field(name=name, schema=schema, help=help_text, required=required)


def _flag(name: str, help_text: str = "") -> Field:
    return Field(name=name, schema=Scalar(kind=BOOLEAN, default="false"), help=help_text)


def _list(name: str, item: Schema, help_text: str = "", *, longest: int = 256) -> Field:
    return Field(name=name, schema=Sequence(item=item, longest=longest), help=help_text)


def _ignored(*names: str) -> tuple[Field, ...]:
    return tuple(Field(name=name, schema=ANYTHING, help="no effect") for name in names)


_WORD: Final = Scalar(kind=TEXT)
_NAMED: Final = Entries(value=ANYTHING, name="^[!-~]{1,64}$", longest=64)

_OVERRIDE: Final = Mapping(
    fields=(
        _text("host", "which part of the endpoints: a host pattern", required=True),
        Field(name="port", schema=Scalar(kind=PORT), help="default: the endpoint's"),
        _text("path", "a path pattern; empty: the endpoint's"),
        _list("methods", _WORD, "empty: the endpoint's"),
        _text("audience", "the audience for it", required=True),
        _list("scopes", _WORD, "empty: those of the grant"),
        _list("resource", _WORD, "empty: those of the grant"),
    )
)

TOKEN_GRANT_LATER: Final = (
    *("requested_token_type", "subject_token", "actor_token", "stages", "role_arn", "region", "duration_seconds", "role_session_name"),
    *("policy", "policy_arns", "workload_provider", "impersonate", "impersonate_lifetime", "delegates", "quota_project", "tenant"),
    *("authority_host", "preset", "fresh_assertion"),
)
"""Keys of grant kinds and presets that are not built yet: they are refused, and not passed over."""

TOKEN_GRANT: Final = Mapping(
    fields=(
        Field(name="grant_type", schema=Scalar(kind=TEXT, default="client_credentials"), help="client_credentials or forward"),
        _text("token_endpoint", "the URL of the issuer's token endpoint"),
        _text("issuer", "the issuer identifier of RFC 8414"),
        _text("audience", "the audience of the credential"),
        _list("scopes", _WORD, "sent in this order", longest=64),
        _list("resource", _WORD, "absolute URIs (RFC 8707)", longest=16),
        _list("audience_overrides", _OVERRIDE, "another audience for a part of the endpoints", longest=256),
        _text("jwt_svid_audience", "the one audience of the identity token; by default the issuer's identifier or URL"),
        _text("client_assertion_type", "a URN; by default jwt-bearer of RFC 7523"),
        Field(name="client_auth", schema=Scalar(kind=TEXT, default="identity"), help="identity or none"),
        _text("client_id", "sent only if it is set"),
        Field(name="cache_ttl_seconds", schema=Scalar(kind=SECONDS), help="above 0: the longest usable time; 0: no effect"),
        Field(name="cache_ttl", schema=Scalar(kind=duration("0s")), help="the longest usable time; 0s: do not cache"),
        Field(name="extra_params", schema=Entries(value=Scalar(kind=TEXT), name="^[!-~]{1,64}$", longest=16), help="sent last"),
        Field(name="check_scope", schema=Scalar(kind=TEXT, default="warn"), help="warn, require or off"),
        Field(name="check_audience", schema=Scalar(kind=TEXT, default="warn"), help="warn, require or off"),
        *(Field(name=name, schema=ANYTHING, help="not built yet") for name in TOKEN_GRANT_LATER),
    )
)

_REFRESH_IGNORED: Final = ("token_url", "scopes", "refresh_before_seconds", "max_lifetime_seconds", "additional_outputs", "material")
_REFRESH: Final = Mapping(fields=(_text("strategy"), *_ignored(*_REFRESH_IGNORED)))

CREDENTIAL: Final = Mapping(
    fields=(
        _text("name", "unique in the profile", required=True),
        _text("description"),
        _flag("required", "an error if nothing provides it"),
        _text("auth_style", "bearer or header"),
        _text("header_name", "Authorization by default"),
        _text("header_prefix", "with style header: what stands before the token"),
        _text("query_param"),
        _text("path_template"),
        Field(name="token_grant", schema=TOKEN_GRANT, help="how the credential is obtained"),
        Field(name="refresh", schema=_REFRESH, help="static and external are files; others keep long-lived secrets"),
        *_ignored("env_vars", "placeholder"),
    )
)

ENDPOINT: Final = Mapping(
    fields=(
        _text("host", "a host pattern", required=True),
        Field(name="port", schema=Scalar(kind=PORT), help="443, or 80 with tls: none"),
        _list("ports", Scalar(kind=PORT), "together with `port`", longest=64),
        _text("path", "a path pattern; empty: any path"),
        _list("methods", _WORD, "upper case; [] or [*]: any", longest=64),
        _text("protocol", "rest, websocket, or one that is closed"),
        _text("tls", "terminate (default), none or skip"),
        _text("access", "read-only, read-write or full"),
        _list("rules", Mapping(fields=(Field(name="allow", schema=_NAMED, required=True),)), "what is allowed; excludes `access`"),
        _list("deny_rules", _NAMED, "what is denied"),
        _list("allowed_ips", _WORD, "networks that the dialled address must be in", longest=64),
        _flag("allow_encoded_slash", "%2F in paths is a character of a segment"),
        _flag("allow_uninspected_credentials", "with tls: skip: a plain tunnel"),
        _text("credential_signing"),
        _text("signing_service"),
        _text("signing_region"),
        _text("enforcement", "enforce"),
        _flag("request_body_credential_rewrite"),
        _flag("websocket_credential_rewrite"),
        *_ignored("description"),
    )
)

PROFILE: Final = Mapping(
    fields=(
        _text("id", "lower-case words with hyphens, unique", required=True),
        _text("display_name", "a name for people", required=True),
        _text("description"),
        _list("credentials", CREDENTIAL, longest=64),
        _list("endpoints", ENDPOINT, longest=256),
        *_ignored(
            "category", "annotations", "resource_version", "inference_capable", "discovery", "source", "scope", "env_vars", "binaries"
        ),
    )
)
