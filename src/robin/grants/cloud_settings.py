"""What the grants of the clouds are configured with: frozen values, built by `config/`, with the endpoints of each cloud."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final
from urllib.parse import urlsplit

from robin.grants.settings import IssuerSettings, Strictness, digest_of, origin_of

AWS_AUDIENCE: Final = "sts.amazonaws.com"
ENTRA_AUDIENCE: Final = "api://AzureADTokenExchange"
CLOUD_PLATFORM: Final = "https://www.googleapis.com/auth/cloud-platform"
GOOGLE_STS: Final = "https://sts.googleapis.com/v1/token"
ENTRA_AUTHORITY: Final = "https://login.microsoftonline.com"
_ISSUER: Final = IssuerSettings()
_GOOGLE_IAM: Final = "https://iamcredentials.googleapis.com"

_VENDORS: Final = {
    "aws_web_identity": (".amazonaws.com", ".amazonaws.com.cn"),
    "gcp_federation": (".googleapis.com",),
    "azure_federation": (".microsoftonline.com", ".microsoftonline.us", ".chinacloudapi.cn"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _CloudSettings:
    """What every cloud has. `cap_s`: the longest usable time. A cloud is asked for no audience."""

    kind: ClassVar[str]
    audience: ClassVar[str] = ""

    token_endpoint: str
    assertion_audience: str
    cap_s: float = math.inf
    issuer: IssuerSettings = _ISSUER

    @property
    def issuer_origin(self) -> str:
        """Scheme, host and port of the token service."""
        return origin_of(self.token_endpoint)

    def _key(self, identity: str, *fields: str) -> bytes:
        common = self.token_endpoint, self.assertion_audience, repr(self.cap_s), repr(self.issuer)
        return digest_of(self.kind, identity, *common, *fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings(_CloudSettings):
    """The grant aws_web_identity. `session_name` "": derived from the subject."""

    kind: ClassVar[str] = "aws_web_identity"
    scopes: ClassVar[tuple[str, ...]] = ()

    assertion_audience: str = AWS_AUDIENCE
    role_arn: str
    session_name: str = ""
    duration_s: int = 3600
    policy: str = ""
    policy_arns: tuple[str, ...] = ()

    def key(self, identity: str) -> bytes:
        """What names the cached keys: everything that they depend on. `identity` names its source."""
        arns = digest_of(*self.policy_arns).hex()
        return self._key(identity, self.role_arn, self.session_name, str(self.duration_s), self.policy, arns)


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpSettings(_CloudSettings):
    """The grant gcp_federation. `impersonate` "": the federated token is the credential; else that of this service account."""

    kind: ClassVar[str] = "gcp_federation"

    token_endpoint: str = GOOGLE_STS
    workload_provider: str
    impersonate: str = ""
    impersonate_lifetime_s: int = 3600
    delegates: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    check_scope: Strictness = "warn"

    @property
    def impersonation_url(self) -> str:
        """Where the token of the service account is asked for: at Google, or at the host that stands in for Google."""
        base = _GOOGLE_IAM if is_of_vendor("gcp_federation", self.token_endpoint) else self.issuer_origin
        return f"{base}/v1/projects/-/serviceAccounts/{self.impersonate}:generateAccessToken"

    def key(self, identity: str) -> bytes:
        """What names the cached token: everything that it depends on. `identity` names its source."""
        account = self.impersonate, str(self.impersonate_lifetime_s), digest_of(*self.delegates).hex()
        return self._key(identity, self.workload_provider, *account, digest_of(*sorted(self.scopes)).hex(), self.check_scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureSettings(_CloudSettings):
    """The grant azure_federation. `scope` ends in `/.default`."""

    kind: ClassVar[str] = "azure_federation"

    assertion_audience: str = ENTRA_AUDIENCE
    client_id: str
    scope: str

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for."""
        return (self.scope,)

    def key(self, identity: str) -> bytes:
        """What names the cached token: everything that it depends on. `identity` names its source."""
        return self._key(identity, self.client_id, self.scope)


CloudSettings = AwsSettings | GcpSettings | AzureSettings


def sts_endpoint(region: str) -> str:
    """The regional STS of AWS."""
    return f"https://sts.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}/"


def entra_endpoint(authority_host: str, tenant: str) -> str:
    """The token endpoint of a tenant."""
    return f"{authority_host.rstrip('/')}/{tenant}/oauth2/v2.0/token"


def google_audience(workload_provider: str) -> str:
    """What identity tokens for this provider are for, unless it lists others."""
    return f"https://iam.googleapis.com/{workload_provider}"


def is_of_vendor(kind: str, url: str) -> bool:
    """Whether a URL leads to the cloud itself."""
    parts = urlsplit(url)
    return parts.scheme == "https" and (parts.hostname or "").endswith(_VENDORS[kind])
