"""What is known before a call: whether an issuer will take this identity token at all. Nothing is sent where it will not."""

from dataclasses import dataclass
from typing import Final

from robin.grants.token_request import check_assertion, unsuitable
from robin.model.identity import IdentityToken
from robin.wire.jwt_inspection import SVID_ALGORITHMS
from robin.wire.token_dates import has_whole_dates


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What one kind of issuer is documented to refuse. `life_max_s`: from `iat` to `exp`, which needs an `iat`; 0: any."""

    issuer: str
    algorithms: tuple[str, ...]
    shown: str
    life_max_s: float = 0.0
    whole_dates: bool = False


def _sizes(*families: str) -> tuple[str, ...]:
    return tuple(f"{family}{size}" for family in families for size in (256, 384, 512))


AWS: Final = Preflight(issuer="aws", algorithms=_sizes("RS", "ES"), shown="RS256..ES512", whole_dates=True)
GOOGLE: Final = Preflight(issuer="google", algorithms=("RS256", "ES256"), shown="RS256 and ES256", life_max_s=48 * 3600)
ENTRA: Final = Preflight(issuer="entra", algorithms=_sizes("RS", "PS"), shown="RS256..PS512")


def check_for(preflight: Preflight, identity: IdentityToken, audience: str, now: float) -> None:
    """Raise GrantFailure unless this identity token may be sent to the issuer of `audience`, and can be accepted there."""
    check_assertion(identity, audience, now)
    issuer, issued_at, expires_at = preflight.issuer, identity.issued_at, identity.expires_at or 0.0
    if identity.algorithm not in preflight.algorithms:
        text = f"alg {_shown(identity.algorithm)}; {issuer} accepts {preflight.shown}"
        raise unsuitable(f"{text}; let the platform sign with one of them")
    if not identity.subject:
        raise unsuitable(f"no_sub: the identity token has no subject, which {issuer} requires")
    if preflight.life_max_s and issued_at is None:
        raise unsuitable(f"no_iat: the identity token has no `iat`, which {issuer} requires")
    if preflight.life_max_s and issued_at is not None and expires_at - issued_at >= preflight.life_max_s:
        raise unsuitable(f"too_long: the identity token lives for {preflight.life_max_s / 3600:.0f} h or more, which {issuer} refuses")
    if preflight.whole_dates and not has_whole_dates(identity.value):
        raise unsuitable(f"bad_dates: `exp`, `iat` or `nbf` has a fraction, and {issuer} takes whole seconds only")


def _shown(algorithm: str | None) -> str:
    return algorithm if algorithm in SVID_ALGORITHMS else "unknown"
