"""The keys of a provider profile file. The names are those of OpenShell's provider profiles, so that its files load as they are."""

from typing import Final

from robin.config.grant_kinds.catalog import KINDS
from robin.config.parse import TEXT, choice, duration, integer
from robin.config.presets import PRESETS
from robin.config.profile_fields import ANYTHING, WORD, flag, ignored, listed, text
from robin.config.schema import Entries, Field, Mapping, Scalar

PORT: Final = integer("1", "65535")
SECONDS: Final = integer("0", "604800")

_NAMED: Final = Entries(value=ANYTHING, name="^[!-~]{1,64}$", longest=64)

_OVERRIDE: Final = Mapping(
    fields=(
        text("host", "which part of the endpoints: a host pattern", required=True),
        Field(name="port", schema=Scalar(kind=PORT), help="default: the endpoint's"),
        text("path", "a path pattern; empty: the endpoint's"),
        listed("methods", WORD, "empty: the endpoint's"),
        text("audience", "the audience for it", required=True),
        listed("scopes", WORD, "empty: those of the grant"),
        listed("resource", WORD, "empty: those of the grant"),
    )
)

CLIENT_AUTHS: Final = ("identity", "private_key_jwt", "none")
_STRICTNESS: Final = choice("warn", "require", "off")
_OF_KINDS: Final = tuple({field.name: field for kind in KINDS.values() for field in kind.fields}.values())
"""The keys that only some kinds have."""

_OF_STAGES: Final = (
    Field(name="grant_type", schema=Scalar(kind=choice(*KINDS)), help="client_credentials by default, or that of the preset"),
    Field(name="preset", schema=Scalar(kind=choice(*PRESETS)), help="the defaults of a well-known issuer"),
    text("token_endpoint", "the URL of the issuer's token endpoint"),
    text("issuer", "the issuer identifier of RFC 8414"),
    text("audience", "the audience of the credential"),
    listed("scopes", WORD, "sent in this order", longest=64),
    listed("resource", WORD, "absolute URIs (RFC 8707)", longest=16),
    text("jwt_svid_audience", "the one audience of the identity token; by default the issuer's identifier or URL"),
    text("client_assertion_type", "a URN; by default jwt-bearer of RFC 7523"),
    Field(name="client_auth", schema=Scalar(kind=choice(*CLIENT_AUTHS)), help="how the client is authenticated; of `jwt_bearer` none"),
    text("client_id", "sent only if it is set"),
    Field(name="extra_params", schema=Entries(value=Scalar(kind=TEXT), name="^[!-~]{1,64}$", longest=16), help="sent last"),
    Field(name="check_scope", schema=Scalar(kind=_STRICTNESS, default="warn"), help="where a scope was not granted"),
    Field(name="check_audience", schema=Scalar(kind=_STRICTNESS, default="warn"), help="where a JWT is for another audience"),
    flag("fresh_assertion", "each call gets a new identity token"),
    *_OF_KINDS,
)

_STAGE: Final = Mapping(fields=_OF_STAGES)

TOKEN_GRANT: Final = Mapping(
    fields=(
        *_OF_STAGES,
        listed("stages", _STAGE, "of `chain`: two to four grants; each exchanges the token of the one before", longest=4),
        listed("audience_overrides", _OVERRIDE, "another audience for a part of the endpoints", longest=256),
        Field(name="cache_ttl_seconds", schema=Scalar(kind=SECONDS), help="above 0: the longest usable time; 0: no effect"),
        Field(name="cache_ttl", schema=Scalar(kind=duration("0s")), help="the longest usable time; 0s: do not cache"),
    )
)

_REFRESH_IGNORED: Final = ("token_url", "scopes", "refresh_before_seconds", "max_lifetime_seconds", "additional_outputs", "material")
_REFRESH: Final = Mapping(fields=(text("strategy"), *ignored(*_REFRESH_IGNORED)))

CREDENTIAL: Final = Mapping(
    fields=(
        text("name", "unique in the profile", required=True),
        text("description"),
        flag("required", "an error if nothing provides it"),
        text("auth_style", "bearer, header or basic"),
        text("header_name", "Authorization by default"),
        text("header_prefix", "with style header: what stands before the token"),
        text("username", "with style basic: the user whose password the token is; x-access-token by default"),
        text("placeholder", "what clients may send in its place: 12 to 128 letters, digits and . _ ~ -"),
        text("query_param"),
        text("path_template"),
        Field(name="token_grant", schema=TOKEN_GRANT, help="how the credential is obtained"),
        Field(name="refresh", schema=_REFRESH, help="static and external are files; others keep long-lived secrets"),
        *ignored("env_vars"),
    )
)

ENDPOINT: Final = Mapping(
    fields=(
        text("host", "a host pattern", required=True),
        Field(name="port", schema=Scalar(kind=PORT), help="443, or 80 with tls: none"),
        listed("ports", Scalar(kind=PORT), "together with `port`", longest=64),
        text("path", "a path pattern; empty: any path"),
        listed("methods", WORD, "upper case; [] or [*]: any", longest=64),
        text("protocol", "rest, websocket, or one that is closed"),
        text("tls", "terminate (default), none or skip"),
        text("access", "read-only, read-write or full"),
        listed("rules", Mapping(fields=(Field(name="allow", schema=_NAMED, required=True),)), "what is allowed; excludes `access`"),
        listed("deny_rules", _NAMED, "what is denied"),
        listed("allowed_ips", WORD, "networks that the dialled address must be in", longest=64),
        flag("allow_encoded_slash", "%2F in paths is a character of a segment"),
        flag("allow_uninspected_credentials", "with tls: skip: a plain tunnel"),
        text("credential_signing"),
        text("signing_service"),
        text("signing_region"),
        text("enforcement", "enforce"),
        flag("request_body_credential_rewrite"),
        flag("websocket_credential_rewrite"),
        *ignored("description"),
    )
)

PROFILE: Final = Mapping(
    fields=(
        text("id", "lower-case words with hyphens, unique", required=True),
        text("display_name", "a name for people", required=True),
        text("description"),
        listed("credentials", CREDENTIAL, longest=64),
        listed("endpoints", ENDPOINT, longest=256),
        *ignored(
            "category", "annotations", "resource_version", "inference_capable", "discovery", "source", "scope", "env_vars", "binaries"
        ),
    )
)
