"""What the kinds that call a token endpoint share: the checks of an assertion, the parameters around those of the kind, the call itself."""

from collections.abc import Callable, Generator
from typing import Final

from robin import __version__
from robin.grants.grant import GivenToken, GrantFailure, GrantFailureClass, Inputs, IssuedCredential, usable_s
from robin.grants.issuer_response import accept_token, unacceptable
from robin.grants.settings import JWT_BEARER, JWT_SPIFFE, Strictness, TokenRequestSettings
from robin.identity.issuer import IssuerRequest, IssuerResponse
from robin.model.identity import IdentityToken
from robin.model.secret import Secret
from robin.wire.client_assertion import sign_assertion
from robin.wire.oauth import FORM, TokenResponse, render_form

Parameters = list[tuple[str, str | Secret]]

_LEAST_LEFT_S: Final = 5.0
_JTI_BYTES: Final = 16
_FIELDS: Final = (
    ("Content-Type", Secret(FORM.encode())),
    ("Accept", Secret(b"application/json")),
    ("User-Agent", Secret(f"robin/{__version__}".encode())),
)


def call_token_endpoint(
    settings: TokenRequestSettings,
    inputs: Inputs,
    now: float,
    form: Callable[[], Parameters],
    *,
    subject: IdentityToken | GivenToken | None = None,
) -> Generator[IssuerRequest, IssuerResponse, IssuedCredential]:
    """Ask once, with `form()`, which is made anew for a repeat. `subject`: the token does not outlive it. Raises GrantFailure."""
    if inputs.identity is not None:
        check_assertion(inputs.identity, settings.assertion_audience, now, settings.algorithms)

    def request() -> IssuerRequest:
        return IssuerRequest(
            method="POST",
            url=settings.token_endpoint,
            fields=_FIELDS,
            body=render_form(form()),
            limit_bytes=settings.issuer.max_response_bytes,
            anew=request if settings.client_auth == "private_key_jwt" else None,
            may_repeat=not settings.fresh_assertion,
        )

    response = yield request()
    token = accept_token(response, settings.issuer, now=now, issued_type=settings.requested_type, intermediate=settings.intermediate)
    asked = inputs.audience or settings.audience
    warnings = (*_check_scope(settings.check_scope, settings.scopes, token), *_check_audience(settings.check_audience, asked, token))
    return IssuedCredential(
        token=token.access_token,
        usable_s=_usable_s(settings, token, now, None if subject is None else subject.expires_at),
        scopes=token.scopes,
        warnings=warnings,
        issued_type=token.issued_type,
    )


def check_assertion(identity: IdentityToken, audience: str, now: float, algorithms: frozenset[str] = frozenset()) -> None:
    """Raise GrantFailure unless this identity token may be sent to the issuer of `audience`, which accepts `algorithms` (empty: any)."""
    if algorithms and identity.algorithm not in algorithms:
        raise unsuitable(f"alg {identity.algorithm or 'unknown'}: the issuer accepts {' '.join(sorted(algorithms))}")
    if identity.audiences != (audience,):
        count = len(identity.audiences)
        found = "no readable audience" if not count else f"{count} audiences" if count > 1 else "another audience"
        raise unsuitable(f"bad_aud: the identity token has {found}; the issuer needs {audience[:200]} alone")
    if identity.expires_at is None or identity.expires_at <= now + _LEAST_LEFT_S:
        raise unsuitable("expired: the identity token has less than 5 s left; check that the platform rotates it")


def unsuitable(detail: str) -> GrantFailure:
    """The failure for an identity token that the issuer would not accept."""
    return GrantFailure(GrantFailureClass.FIX_CONFIGURATION, "assertion_unsuitable", detail)


def client_parameters(settings: TokenRequestSettings, inputs: Inputs, now: float) -> Parameters:
    """How the client is authenticated: `<CA>` of every kind. An assertion of a key is signed here, so each call has its own."""
    parameters: Parameters = []
    if settings.client_auth == "identity":
        assert inputs.identity is not None
        subject = inputs.identity.subject or ""
        kind = settings.assertion_type or (JWT_SPIFFE if subject.startswith("spiffe://") else JWT_BEARER)
        parameters += [("client_assertion_type", kind), ("client_assertion", inputs.identity.value)]
    elif settings.client_auth == "private_key_jwt":
        assert inputs.key is not None
        assertion = sign_assertion(
            inputs.key,
            client_id=settings.client_id,
            audience=settings.assertion_audience,
            typ=settings.typ,
            jti=inputs.random_hex(_JTI_BYTES),
            now=now,
        )
        parameters += [("client_assertion_type", JWT_BEARER), ("client_assertion", assertion)]
    return [*parameters, *([("client_id", settings.client_id)] if settings.client_id else [])]


def asked_for(settings: TokenRequestSettings, audience: str = "") -> Parameters:
    """What is asked for: `<R>` of every kind. `audience` replaces that of the settings."""
    parameters: Parameters = []
    if audience or settings.audience:
        parameters.append(("audience", audience or settings.audience))
    parameters += [("resource", resource) for resource in settings.resources]
    if settings.scopes:
        parameters.append(("scope", " ".join(settings.scopes)))
    return [*parameters, *settings.extra]


def subject_of(settings: TokenRequestSettings, inputs: Inputs) -> IdentityToken | GivenToken:
    """The token that is exchanged."""
    subject = inputs.identity if settings.subject == "identity" else inputs.subject
    assert subject is not None
    return subject


def _check_scope(strictness: Strictness, asked: tuple[str, ...], token: TokenResponse) -> tuple[str, ...]:
    """A response without `scope` granted what was asked for (RFC 6749 section 5.1)."""
    return _judge(strictness, "scope_not_granted", granted=token.scopes is None or token.scopes.issuperset(asked))


def _check_audience(strictness: Strictness, asked: str, token: TokenResponse) -> tuple[str, ...]:
    return _judge(strictness, "audience_not_granted", granted=not asked or token.audiences is None or asked in token.audiences)


def _judge(strictness: Strictness, reason: str, *, granted: bool) -> tuple[str, ...]:
    """The warnings that it comes to. Raises GrantFailure."""
    if granted or strictness == "off":
        return ()
    if strictness == "require":
        raise unacceptable(reason)
    return (reason,)


def _usable_s(settings: TokenRequestSettings, token: TokenResponse, now: float, subject_expires_at: float | None) -> float:
    """A JWT ends no later than its own `exp`, with the same margin for skew; and no token outlives the subject that it stands for."""
    issuer = settings.issuer
    lifetime_s = issuer.default_ttl_s if token.expires_in_s is None else token.expires_in_s
    if token.expires_at is not None:
        lifetime_s = min(lifetime_s, token.expires_at - now)
    found = usable_s(max(0.0, lifetime_s), max_s=issuer.max_ttl_s, skew_s=issuer.skew_s, cap_s=settings.cap_s)
    return found if subject_expires_at is None else max(0.0, min(found, subject_expires_at - now))
