"""The keys that say whose token is exchanged, `subject_token`, and what they come to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.diagnostic import Position
from robin.config.grant_kinds.kind import Reading
from robin.config.names import parse_field_name
from robin.config.parse import InvalidValue, shown
from robin.config.profile_fields import text
from robin.config.profile_parts import TokenGrant
from robin.config.schema import Field
from robin.config.schema import Mapping as MappingSchema
from robin.grants.settings import SUBJECT_FIELD, GrantPlan
from robin.wire.oauth import ACCESS_TOKEN, JWT

SOURCES: Final = ("identity", "caller", "file", "provider_credential", "previous")

SUBJECT_TOKEN: Final = Field(
    name="subject_token",
    schema=MappingSchema(
        fields=(
            text("source", "identity, caller, file, provider_credential, or previous in a chain", default="identity"),
            text("credential", "of provider_credential: another credential of the profile, of which `files` has the token"),
            text("subject_token_type", "a URN; by default jwt for the identity token, else access_token"),
            text("header", f"of caller: the field of the request; {SUBJECT_FIELD} by default"),
        )
    ),
    help="what is exchanged; by default the identity token",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose token it is. `type` "": as the stage before says. `header` is canonical."""

    at: Position
    source: str = "identity"
    credential: str = ""
    type: str = JWT
    header: str = ""


def read_subject(reading: Reading) -> Subject:
    """The key `subject_token`; a stage behind the first one has the token of the stage before."""
    keys = reading.keys.inner("subject_token")
    later = bool(reading.stage)
    if keys is None:
        source = "previous" if later else "identity"
        return Subject(at=reading.keys.at, source=source, type="" if later else JWT)
    error = reading.findings.error
    source = keys.text("source") if keys.has("source") or not later else "previous"
    at = keys.place("source")
    if source not in SOURCES:
        error(at, "subject_source_invalid", f"source {shown(source)} is not one of its values", f"use {', '.join(SOURCES)}")
    if (source == "previous") != later:
        text_of = (
            "only a stage behind another one has a token of the stage before"
            if source == "previous"
            else "a stage needs that of the stage before"
        )
        error(at, "subject_source_invalid", text_of, "use `previous` in the stages of a chain behind the first, and there alone")
    credential, header = keys.text("credential"), keys.text("header")
    if (source == "provider_credential") != bool(credential):
        error(at, "subject_source_invalid", "`credential` is for source provider_credential, and needed there", "name a credential")
    if header and source != "caller":
        error(keys.place("header"), "subject_source_invalid", "`header` is for source caller", "remove it")
    kind = keys.plain(reading.findings, "subject_token_type")
    default = {"identity": JWT, "previous": ""}.get(source, ACCESS_TOKEN)
    return Subject(at=at, source=source, credential=credential, type=kind or default, header=_header(reading, source, header, at))


def _header(reading: Reading, source: str, name: str, at: Position) -> str:
    if source != "caller":
        return ""
    try:
        if name and name.lower() == "authorization":  # of a route's caller it is the token that was verified; it is never forwarded
            return "authorization"
        return parse_field_name(name or SUBJECT_FIELD)
    except InvalidValue as invalid:
        reading.findings.error(at, "subject_source_invalid", f"header: {invalid.what}", invalid.fix)
        return ""


def pinned_subject(subject: Subject) -> dict[str, object]:
    """What of it a pin holds."""
    return {"source": subject.source, "credential": subject.credential, "type": subject.type, "header": subject.header}


def is_of_others(subject: Subject) -> bool:
    """Whether the issuer gets a token that is not the identity's own."""
    return subject.source in ("caller", "file", "provider_credential")


def compile_subject(compiling: Compiling, grant: TokenGrant, subject: Subject) -> Mapping[str, Any] | None:
    """The parts of the plan that say where the subject comes from; None where an error was noted."""
    if subject.source == "caller":
        return {"subject_header": subject.header}
    name = compiling.credential.name
    if subject.source == "provider_credential":
        sibling, name = compiling.sibling(subject.credential), subject.credential
        if sibling is None or sibling.grant is not None:
            meant = compiling.nearest_sibling(name)
            problem = "is obtained by a grant of its own" if sibling is not None else "is no other credential of the profile"
            fix = f"write {meant} (the nearest)" if meant and sibling is None else "name a credential without a token_grant"
            compiling.error(subject.at, "subject_source_invalid", f"the credential {shown(name)} {problem}", fix)
            return None
    if subject.source in ("file", "provider_credential"):
        return {"subject_file": compiling.file(name, subject.at, f"the subject of {compiling.label}")}
    return {}


def plan_exchange(
    compiling: Compiling, grant: TokenGrant, subject: Subject, *, client: str | None = None, actor: str = "", **parts: Any
) -> GrantPlan | None:
    """The plan of a kind that sends a subject, and perhaps an actor: `actor` is the source of its token, `parts` are settings of the kind.

    `client` is the identity source of the client, None for that of the provider.
    """
    if not compiling.check_endpoint(grant):
        return None
    found = compile_subject(compiling, grant, subject)
    if found is None:
        return None
    identity_sent = grant.client_auth == "identity" or subject.source == "identity" or actor == "identity"
    audience = compiling.assertion_audience(grant, sent=identity_sent or grant.client_auth != "none")
    settings = compiling.token_request(
        grant,
        audience,
        subject="identity" if subject.source == "identity" else "given",
        subject_type=subject.type,
        actor={"": "", "identity": "identity"}.get(actor, "given"),
        **parts,
    )
    return compiling.plan(
        identity=compiling.identity(audience, source=client) if identity_sent else "",
        audience=audience,
        settings=settings,
        key_file=compiling.key_file(grant),
        actor_file=compiling.file(compiling.credential.name, subject.at, "the actor") if actor == "file" else "",
        **found,
    )
