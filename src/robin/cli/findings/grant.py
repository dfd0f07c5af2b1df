"""One grant of the gateway: the identity token, what the issuer publishes about itself, and what it responded."""

from collections.abc import Iterator
from typing import Final

from robin.app.one_grant import OneGrant, issuer_of
from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.cli.one_grant import audience_of, why_not
from robin.config.parse import shown
from robin.grants.run import hash_of
from robin.grants.settings import JWT_SPIFFE, GrantPlan, TokenRequestSettings
from robin.model.fault_kind import FaultSource
from robin.wire.issuer_words import IssuerMetadata, difference, masked, masked_refusal
from robin.wire.jwt_inspection import TokenRules, parse_unverified

_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:"
_GRANT_TYPES: Final = {"jwt_bearer": f"{_GRANT_TYPE}jwt-bearer", "token_exchange": f"{_GRANT_TYPE}token-exchange"}
_EXACT: Final = "issuers compare it as a plain string: write the profile's exactly as the issuer does"


def look(plan: GrantPlan, result: OneGrant, now: float) -> Iterator[Finding]:
    """Identity, metadata, call. A difference from the metadata fails only where the grant does not work either."""
    settings = plan.settings
    called = "no issuer is called" if settings is None else f"POST {settings.token_endpoint}"
    yield ok("grant", f"{plan.provider}/{plan.credential}: {plan.kind}, audience {shown(audience_of(plan))}; {called}")
    algorithm = ""
    if result.identity is not None:
        parts = parse_unverified(result.identity.value, TokenRules(), now=now)
        algorithm = str((parts.header or {}).get("alg", ""))[:20]
        left = "no exp" if result.identity.expires_at is None else f"{result.identity.expires_at - now:.0f} s left"
        issuer = shown(str((parts.claims or {}).get("iss", "")))
        audiences = ", ".join(shown(one) for one in result.identity.audiences[:4])
        yield ok(
            "identity", f"{plan.identity}: sub {shown(result.identity.subject or '')}, aud {audiences}, iss {issuer}, {algorithm}, {left}"
        )
    if result.metadata is not None:
        works = result.token is not None
        yield from _metadata(plan, result, result.metadata, algorithm, works=works)
    elif result.no_metadata:
        yield warn(
            "metadata", f"there is none at {masked('; '.join(result.no_metadata), ())}", "look whether `issuer` of the profile is right"
        )
    yield _outcome(result)


def _outcome(result: OneGrant) -> Finding:
    if result.token is not None:
        scope = result.facts.get("scope_granted")
        granted = f", scope {scope}" if scope else ""
        usable = "" if result.usable_s is None else f", usable for {max(0.0, result.usable_s):.0f} s"
        return ok("token", f"issued: {hash_of(result.token)}{usable}{granted}")
    what, fix = why_not(result)
    if result.fault is not None and result.fault.kind.source is FaultSource.IDENTITY and result.refusal is None:
        return fail("identity", what, fix)
    if result.refusal is not None:
        words = masked_refusal(result.refusal.body, result.secrets)
        what += f" (status {result.refusal.status}; the issuer's words, which may be false: {words or 'none'})"
    return fail("token", what, fix)


def _metadata(plan: GrantPlan, result: OneGrant, metadata: IssuerMetadata, algorithm: str, *, works: bool) -> Iterator[Finding]:
    report = warn if works else fail
    ours, theirs = issuer_of(plan), metadata.issuer
    if how := difference(ours, theirs):
        yield report("issuer", f"the profile has {_quoted(ours)}, the metadata has {_quoted(theirs)}: {how}", _EXACT)
    else:
        yield ok("issuer", f"{_quoted(theirs)}, as in {result.metadata_url}")
    settings = plan.settings
    if not isinstance(settings, TokenRequestSettings):
        return
    endpoint = metadata.token_endpoint
    if endpoint and (how := difference(settings.token_endpoint, endpoint)):
        what = f"the profile has {_quoted(settings.token_endpoint)}, the metadata has {_quoted(endpoint)}: {how}"
        yield report("token endpoint", what, "take that of the metadata, if this host cannot be reached by another name")
    if settings.client_auth != "none" and settings.assertion_audience not in (theirs, endpoint):
        what = f"the assertion is for {_quoted(settings.assertion_audience)}, which is neither issuer nor token endpoint of the metadata"
        yield report("audience", what, "set `issuer` or `jwt_svid_audience` as the issuer documents it")
    method = _method(settings, "" if result.identity is None else result.identity.subject or "")
    signed = (algorithm,) if algorithm and settings.client_auth == "identity" else ()
    for subject, listed, wanted, fix in (
        ("grant type", metadata.grant_types, (_GRANT_TYPES.get(settings.kind, settings.kind),), "enable it at the issuer"),
        ("client authentication", metadata.auth_methods, (method,), "enable it for this client at the issuer"),
        ("algorithm", metadata.algorithms, signed, "let the platform sign with one of them"),
        ("scopes", metadata.scopes, settings.scopes, "correct `scopes` of the profile"),
    ):
        missing = [one for one in wanted if listed is not None and one not in listed]
        if missing:
            yield report(subject, f"the metadata lists {masked(', '.join(listed or ()), ()) or 'none'}, and not {', '.join(missing)}", fix)


def _method(settings: TokenRequestSettings, subject: str) -> str:
    """The name of its client authentication in metadata."""
    if settings.client_auth == "none":
        return "none"
    spiffe = settings.assertion_type == JWT_SPIFFE or (not settings.assertion_type and subject.startswith("spiffe://"))
    return "spiffe_jwt" if settings.client_auth == "identity" and spiffe else "private_key_jwt"


def _quoted(text: str) -> str:
    return f'"{masked(text, ())}"'
