"""`gcp_federation`: a federated token of Google, or the token of a service account that the workload may impersonate."""

import re
from dataclasses import dataclass, replace
from typing import Any, Final

from robin.config.compiling import Compiling
from robin.config.grant_kinds.clouds import check_form, plan_of_cloud, refuse_keys
from robin.config.grant_kinds.kind import GrantKind, Reading
from robin.config.parse import duration
from robin.config.profile_fields import WORD, listed, text
from robin.config.profile_parts import TokenGrant
from robin.config.schema import Field, Scalar
from robin.grants.cloud_settings import GcpSettings, google_audience
from robin.grants.settings import GrantPlan

NAME: Final = "gcp_federation"
_PROVIDER: Final = r"projects/[0-9]{1,20}/locations/global/workloadIdentityPools/[a-z0-9-]{4,32}/providers/[a-z0-9-]{4,32}"
_ACCOUNT: Final = r"[a-z0-9.-]{1,64}@[a-z0-9.-]{1,190}\.gserviceaccount\.com"
_DELEGATE: Final = re.compile(rf"(?:projects/-/serviceAccounts/)?{_ACCOUNT}")
_PROJECT: Final = r"[a-z0-9.:-]{1,100}"
_DELEGATES_MAX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpOptions:
    """The keys of the kind."""

    workload_provider: str
    impersonate: str
    impersonate_lifetime_s: int
    delegates: tuple[str, ...]
    quota_project: str


def _read(reading: Reading) -> GcpOptions:
    keys, error = reading.keys, reading.findings.error
    refuse_keys(reading, NAME, "client_id")
    account = check_form(reading, "impersonate", _ACCOUNT, "value_invalid", "the e-mail of a service account")
    delegates = keys.texts("delegates")
    if not all(map(_DELEGATE.fullmatch, delegates)):
        error(keys.place("delegates"), "value_invalid", "a delegate is not the e-mail of a service account", "write the e-mail of each")
    if delegates and not account:
        error(keys.place("delegates"), "value_invalid", "delegates stand between the workload and `impersonate`", "add impersonate")
    return GcpOptions(
        workload_provider=check_form(
            reading,
            "workload_provider",
            _PROVIDER,
            "value_invalid",
            "projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER",
        ),
        impersonate=account,
        impersonate_lifetime_s=int(keys.number("impersonate_lifetime") or 0),
        delegates=delegates,
        quota_project=check_form(reading, "quota_project", _PROJECT, "value_invalid", "the id of a project"),
    )


def _pinned(options: Any) -> dict[str, object]:
    return {
        "workload_provider": options.workload_provider,
        "impersonate": options.impersonate,
        "delegates": list(options.delegates),
        "quota_project": options.quota_project,
    }


def _compile(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    options = grant.options
    assert isinstance(options, GcpOptions)
    settings = GcpSettings(
        assertion_audience=google_audience(options.workload_provider),
        workload_provider=options.workload_provider,
        impersonate=options.impersonate,
        impersonate_lifetime_s=options.impersonate_lifetime_s,
        delegates=options.delegates,
        scopes=grant.scopes,
        check_scope=grant.check_scope,
    )
    plan = plan_of_cloud(compiling, grant, settings)
    if plan is None or not options.quota_project:
        return plan
    return replace(plan, also=("X-Goog-User-Project",), also_values=(options.quota_project,))


GCP_FEDERATION: Final = GrantKind(
    name=NAME,
    compile=_compile,
    preset="google",
    fields=(
        text("workload_provider", "of google: projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER"),
        text("impersonate", "of google: the e-mail of a service account"),
        Field(name="impersonate_lifetime", schema=Scalar(kind=duration("1s", "12h"), default="3600s"), help="of google: of its token"),
        listed("delegates", WORD, "of google: service accounts on the way to `impersonate`", longest=_DELEGATES_MAX),
        text("quota_project", "of google: written as X-Goog-User-Project"),
    ),
    read=_read,
    pinned=_pinned,
)
