"""`aws_web_identity`: keys of an IAM role, with which each request is signed."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.clouds import check_form, plan_of_cloud, refuse_keys
from robin.config.grant_kinds.kind import GrantKind, Reading
from robin.config.parse import integer
from robin.config.profile_fields import WORD, listed, text
from robin.config.profile_parts import TokenGrant
from robin.config.schema import Field, Scalar
from robin.grants.cloud_settings import AwsSettings
from robin.grants.settings import GrantPlan
from robin.wire.sigv4 import WRITTEN

NAME: Final = "aws_web_identity"
REGION: Final = r"[a-z]{2}(?:-[a-z]+)+-\d{1,2}"
_ROLE: Final = r"(?=.{20,2048}$)arn:[a-z0-9-]{1,20}:iam:[!-~]*\brole/[!-~]+"
_ARN: Final = r"arn:[a-z0-9-]{1,20}:iam:[!-~]{1,2000}"
_POLICIES_MAX: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions:
    """The keys of the kind."""

    role_arn: str
    region: str
    duration_s: int
    session_name: str
    policy: str
    policy_arns: tuple[str, ...]


def _read(reading: Reading) -> AwsOptions:
    keys, error = reading.keys, reading.findings.error
    refuse_keys(reading, NAME, "scopes", "client_id", "check_scope")
    role = check_form(reading, "role_arn", _ROLE, "role_arn_invalid", "the ARN of a role, such as arn:aws:iam::123456789012:role/name")
    arns = keys.texts("policy_arns")
    if len(arns) > _POLICIES_MAX or not all(map(_is_arn, arns)):
        error(keys.place("policy_arns"), "value_invalid", "policy_arns are not at most 10 ARNs of policies", "write the ARN of each")
    return AwsOptions(
        role_arn=role,
        region=check_form(reading, "region", REGION, "value_invalid", "a region such as eu-west-1"),
        duration_s=int(keys.number("duration_seconds") or 0),
        session_name=check_form(reading, "role_session_name", r"[A-Za-z0-9_+=,.@-]{2,64}", "value_invalid", "2 to 64 of A-Za-z0-9_+=,.@-"),
        policy=keys.plain(reading.findings, "policy"),
        policy_arns=arns,
    )


def _is_arn(text_of: str) -> bool:
    return re.fullmatch(_ARN, text_of) is not None


def _pinned(options: Any) -> dict[str, object]:
    return {
        "role_arn": options.role_arn,
        "region": options.region,
        "role_session_name": options.session_name,
        "policy": options.policy,
        "policy_arns": list(options.policy_arns),
    }


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    options, credential = grant.options, compiling.credential
    assert isinstance(options, AwsOptions)
    if credential.style != "bearer" or credential.header.lower() != "authorization":
        text_of = "requests are signed with an AWS credential: it is written to no field of the profile's choice"
        compiling.error(credential.at, "grant_header_invalid", text_of, "remove auth_style and header_name")
        return None
    settings = AwsSettings(
        token_endpoint=grant.token_endpoint,
        role_arn=options.role_arn,
        session_name=options.session_name,
        duration_s=options.duration_s,
        policy=options.policy,
        policy_arns=options.policy_arns,
    )
    plan = plan_of_cloud(compiling, grant, settings)
    return plan and replace(plan, prefix="", style="sigv4", signs=True, also=WRITTEN[1:])


AWS_WEB_IDENTITY: Final = GrantKind(
    name=NAME,
    compile=_compile,
    preset="aws",
    fields=(
        text("role_arn", "of aws: the role"),
        text("region", "of aws: whose STS is asked"),
        Field(name="duration_seconds", schema=Scalar(kind=integer("900", "43200"), default="3600"), help="of aws: life of the keys"),
        text("role_session_name", "of aws: by default made of the subject of the identity token"),
        text("policy", "of aws: a session policy, which narrows the role"),
        listed("policy_arns", WORD, "of aws: managed session policies", longest=10),
    ),
    read=_read,
    pinned=_pinned,
)
