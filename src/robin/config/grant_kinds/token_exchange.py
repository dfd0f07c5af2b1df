"""`token_exchange`: a token of the subject becomes another one, in one call or, with `stage1_identity` of the provider, in two."""

import math
from dataclasses import dataclass, replace
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.kind import GrantKind, Reading
from robin.config.grant_kinds.subject import SUBJECT_TOKEN, Subject, is_of_others, pinned_subject, plan_exchange, read_subject
from robin.config.profile_fields import text
from robin.config.profile_parts import TokenGrant
from robin.config.schema import Field, Mapping
from robin.grants.settings import GrantPlan
from robin.wire.oauth import ACCESS_TOKEN

_ACTOR_TOKEN: Final = Field(
    name="actor_token",
    schema=Mapping(
        fields=(
            text("source", "identity, or file: `files` of the provider has it by the name of the credential", default="identity"),
            text("actor_token_type", "a URN", required=True),
        )
    ),
    help="on whose behalf the token is used (RFC 8693 section 2.1)",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeOptions:
    """The keys of the kind. `actor` is the source of the actor's token, "" for none."""

    subject: Subject
    requested_type: str
    actor: str = ""
    actor_type: str = ""


def _read(reading: Reading) -> ExchangeOptions:
    keys, findings = reading.keys, reading.findings
    subject = read_subject(reading)
    requested = keys.plain(findings, "requested_token_type") or ACCESS_TOKEN
    actor = keys.inner("actor_token")
    if actor is None:
        return ExchangeOptions(subject=subject, requested_type=requested)
    source = actor.choice(findings, "source", "identity", "file")
    if source == "file" and subject.source == "file":
        text_of = "the file of the credential is the subject already"
        findings.error(actor.place("source"), "subject_source_invalid", text_of, "use provider_credential for the subject")
    kind = actor.plain(findings, "actor_token_type")
    return ExchangeOptions(subject=subject, requested_type=requested, actor=source, actor_type=kind)


def _pinned(options: Any) -> dict[str, object]:
    return {
        "subject_token": pinned_subject(options.subject),
        "requested_token_type": options.requested_type,
        "actor_token": [options.actor, options.actor_type],
    }


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    options, provider, names = grant.options, compiling.provider, compiling.identities
    assert isinstance(options, ExchangeOptions)
    first = provider.stage1_identity
    if options.subject.source == "provider_credential" and first is not None and names.resolve(first) != names.resolve(provider.identity):
        return _compile_two(compiling, grant, options)
    return _plan(compiling, grant, options, options.subject)


def _plan(compiling: Compiling, grant: TokenGrant, options: ExchangeOptions, subject: Subject) -> GrantPlan | None:
    parts = {"actor_type": options.actor_type, "requested_type": options.requested_type}
    return plan_exchange(compiling, grant, subject, actor=options.actor, **parts)


def _compile_two(compiling: Compiling, grant: TokenGrant, options: ExchangeOptions) -> GrantPlan | None:
    """The stored token becomes one for the identity of the provider, and that one the credential: each identity is a client of its own.

    Stage 1 asks for what stage 2 needs and for nothing else; what the profile asks for, and its overrides, concern stage 2 alone.
    """
    bare = replace(grant, audience="", scopes=(), resources=(), extra=(), overrides=(), cap_s=math.inf)
    first = replace(bare, client_auth="identity", client_id="", intermediate=True)
    client = compiling.provider.stage1_identity
    before = plan_exchange(compiling, first, options.subject, client=client, requested_type=ACCESS_TOKEN)
    between = Subject(at=options.subject.at, source="previous", type=ACCESS_TOKEN)
    after = _plan(compiling, grant, options, between)
    if before is None or after is None:
        return None
    return replace(after, previous=replace(before, audience_of=compiling.identity(before.audience)))


def _is_of_others(options: Any) -> bool:
    return is_of_others(options.subject)


TOKEN_EXCHANGE: Final = GrantKind(
    name="token_exchange",
    compile=_compile,
    fields=(
        SUBJECT_TOKEN,
        _ACTOR_TOKEN,
        text("requested_token_type", "a URN; access_token by default"),
    ),
    read=_read,
    pinned=_pinned,
    others_tokens=_is_of_others,
)
