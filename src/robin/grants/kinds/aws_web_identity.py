"""Grant `aws_web_identity`: STS AssumeRoleWithWebIdentity, whose keys sign each request (AWS Signature Version 4).

Security: the identity token is sent to STS alone, without any other credential. The keys never stand in a request; a signature does.
"""

import hashlib
import re
from typing import Final

from robin import __version__
from robin.grants.cloud_settings import AwsSettings
from robin.grants.grant import Flow, GrantFailure, GrantFailureClass, Inputs, IssuedCredential, usable_s
from robin.grants.issuer_response import is_refusal, refusal_by_status
from robin.grants.preflight import AWS, check_for
from robin.grants.token_request import Parameters
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.secret import Secret
from robin.wire.oauth import FORM, parse_date, render_form
from robin.wire.sts import BadStsResponse, parse_sts_credentials, parse_sts_error

_FIELDS: Final = (
    ("Content-Type", Secret(f"{FORM}; charset=utf-8".encode())),
    ("Accept", Secret(b"application/xml")),
    ("User-Agent", Secret(f"robin/{__version__}".encode())),
)
_NOT_IN_NAME: Final = re.compile(rb"[^A-Za-z0-9_+=,.@-]")
_NAME_CHARS: Final = 47
_PASSING: Final = frozenset({"IDPCommunicationError", "Throttling"})
_REASONS: Final = {
    "content_coding": "the response has a content coding, though none was asked for",
    "media_type": "the response is not XML by its media type",
    "document_type": "the document has a document type, a comment or CDATA, and was not read",
    "xml": "the body is not one small XML document",
    "duplicate_member": "an element is there twice",
    "access_key": "AccessKeyId or SecretAccessKey is absent or malformed",
    "session_token": "SessionToken is absent, too long or malformed",
    "expiration": "Expiration is not a time",
}


def flow(settings: AwsSettings, inputs: Inputs, now: float) -> Flow:
    """Ask STS once. Returns the keys and their session token. Raises GrantFailure."""
    assert inputs.identity is not None
    check_for(AWS, inputs.identity, settings.assertion_audience, now)
    response = yield IssuerRequest(
        method="POST",
        url=settings.token_endpoint,
        fields=_FIELDS,
        body=render_form(form_of(settings, inputs, now)),
        limit_bytes=settings.issuer.max_response_bytes,
    )
    if response.status != 200:
        raise _classify(response, now)
    try:
        found = parse_sts_credentials(response.fields, response.body, token_bytes_max=settings.issuer.max_token_bytes)
    except BadStsResponse as bad:
        text = f"{bad.reason}: {_REASONS[bad.reason]}; check that token_endpoint is an STS"
        raise GrantFailure(GrantFailureClass.INVESTIGATE, "issuer_answer_invalid", text) from None
    date = parse_date(response.fields.get("date"))
    lifetime_s = max(0.0, found.expires_at - (now if date is None else date))
    usable = usable_s(lifetime_s, max_s=settings.issuer.max_ttl_s, skew_s=settings.issuer.skew_s, cap_s=settings.cap_s)
    return IssuedCredential(token=found.keys.session_token, signing=found.keys, usable_s=usable, request_id=found.request_id)


def form_of(settings: AwsSettings, inputs: Inputs, _now: float) -> Parameters:
    """The parameters of the call, in their order."""
    assert inputs.identity is not None
    subject = inputs.identity.subject
    made = "<made of the subject>" if subject is None else session_name(subject)
    parameters: Parameters = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", settings.role_arn),
        ("RoleSessionName", settings.session_name or made),
        ("WebIdentityToken", inputs.identity.value),
        ("DurationSeconds", str(settings.duration_s)),
    ]
    if settings.policy:
        parameters.append(("Policy", settings.policy))
    return parameters + [(f"PolicyArns.member.{at}.arn", arn) for at, arn in enumerate(settings.policy_arns, 1)]


def session_name(subject: str) -> str:
    """What CloudTrail shows of the workload: the last segment of its subject, and a digest that distinguishes equal ones."""
    octets = subject.encode("utf-8", "surrogatepass")
    last = _NOT_IN_NAME.sub(b"-", octets.rpartition(b"/")[2])[:_NAME_CHARS]
    return f"{last.decode('ascii')}-{hashlib.sha256(octets).hexdigest()[:16]}"


def _classify(response: IssuerResponse, now: float) -> GrantFailure:
    """The failure for a status other than 200."""
    code, request_id = parse_sts_error(response.body)
    if code == "ExpiredTokenException" and is_refusal(response.status):
        text = "ExpiredTokenException: STS refused the identity token as expired; check this machine's clock"
        return GrantFailure(GrantFailureClass.REAUTHORIZE, "subject_refused", text, issuer_error=code, request_id=request_id)
    return refusal_by_status(
        response, now, code=code, passing=code in _PASSING, throttled=code == "Throttling" or response.status == 429, request_id=request_id
    )
