"""Who calls: from the evidence of a connection, or from a JWT in Proxy-Authorization, to the id by which rules know the caller.

At a reverse listener the JWT stands in Authorization. A bad credential never falls back to another evidence. Nothing else in a request
selects the caller. The token's text appears nowhere.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from robin.identity.trust.key_sources import KeysUnavailable
from robin.identity.trust.verify import TOKEN_LIMIT_BYTES, NotVerified, TokenVerifier, VerifiedClaims, claimed_issuer
from robin.model.caller import Caller, Evidence
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.model.secret import Secret
from robin.model.spiffe import is_workload_of
from robin.planes.gateway.settings import IssuerSettings
from robin.policy.callers import LOCAL_CALLER, OPEN_CALLER

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_NAME_CHARS: Final = 253
_FIELD_LIMIT: Final = 2 * TOKEN_LIMIT_BYTES


def connection_caller(caller: Caller, *, encrypted: bool = False) -> Caller:
    """The caller of a connection whose evidence is enough: `local`, `unix:UID` or `open`."""
    if caller.evidence is Evidence.UNIX_PEER:
        return replace(caller, id=f"unix:{caller.uid}")
    exposed = caller.evidence is Evidence.OPEN and not encrypted
    return replace(caller, id=LOCAL_CALLER if caller.evidence is Evidence.LOOPBACK else OPEN_CALLER, exposed=exposed)


def challenges(realm: str) -> bytes:
    """The Proxy-Authenticate fields of a 407."""
    name = realm.encode("ascii")
    return b'Proxy-Authenticate: Bearer realm="%b"\r\nProxy-Authenticate: Basic realm="%b"\r\n' % (name, name)


def bearer_challenge(realm: str) -> bytes:
    """The WWW-Authenticate field of a 401: the caller's own token, which was to be exchanged, is missing or refused."""
    return b'WWW-Authenticate: Bearer realm="%b"\r\n' % realm.encode("ascii")


class TokenCallers:
    """Authenticates the requests of one listener by a JWT of one of its issuers. Its `authenticate` is one of the engine's."""

    __slots__ = ("_encrypted", "_issuers", "_reverse")

    def __init__(self, issuers: Sequence[tuple[IssuerSettings, TokenVerifier]], *, encrypted: bool = False, reverse: bool = False) -> None:
        """`encrypted`: the listener has TLS. `reverse`: the token stands in Authorization, as a bearer token and in no other form."""
        self._issuers = tuple(issuers)
        self._encrypted = encrypted
        self._reverse = reverse

    async def authenticate(self, head: RequestHead, caller: Caller) -> Caller:
        """The caller of this request. Raises Fault `caller_unauthenticated`, `caller_token_invalid`, `issuer_keys_unavailable`."""
        field = b"authorization" if self._reverse else b"proxy-authorization"
        token = _token_of(head.values(field), basic=not self._reverse)
        exposed = caller.evidence is Evidence.OPEN and not self._encrypted
        failure = "issuer"
        for issuer, verifier in self._candidates(token):
            try:
                claims = verifier.ready(token) or await verifier.obtain(token)
            except NotVerified as refused:
                failure = refused.reason
                continue
            except KeysUnavailable:
                raise Fault("issuer_keys_unavailable", "issuer_keys: the keys of the token's issuer cannot be had now") from None
            name, pod = _name_caller(issuer, claims)
            return replace(
                caller,
                evidence=Evidence.JWT,
                id=name,
                issuer=issuer.name,
                pod=pod,
                expires_at=claims.expires_at + issuer.trust.leeway_s,
                exposed=exposed,
            )
        raise Fault("caller_token_invalid", f"{failure}: the token is not accepted; get a new one for this gateway")

    def _candidates(self, token: Secret) -> Sequence[tuple[IssuerSettings, TokenVerifier]]:
        """The issuers that may have signed it: those of its `iss`, and those that have none."""
        claimed = claimed_issuer(token)
        return [entry for entry in self._issuers if entry[0].trust.issuer in {None, claimed}]


def _token_of(fields: list[bytes], *, basic: bool) -> Secret:
    """The JWT of `Bearer JWT`, or with `basic` of `Basic base64("jwt:" JWT)`. Raises Fault."""
    if not fields:
        field = "Proxy-Authorization" if basic else "Authorization"
        raise Fault("caller_unauthenticated", f"no_credential: send {field} with a token for this gateway")
    scheme, _, value = fields[0].partition(b" ")
    value = value.strip(b" ")
    if len(fields) > 1 or len(value) > _FIELD_LIMIT:
        raise Fault("caller_token_invalid", "too_large: one token of at most 16 KiB is accepted")
    if scheme.lower() == b"bearer":
        return Secret(value)
    if scheme.lower() == b"basic" and basic:
        try:
            name, colon, token = base64.b64decode(value, validate=True).partition(b":")
        except binascii.Error:
            name, colon, token = b"", b"", b""
        if name == b"jwt" and colon:
            return Secret(token)
    others = ", or Basic with the user name `jwt` and the JWT as password" if basic else ""
    raise Fault("caller_token_invalid", f"scheme: send `Bearer JWT`{others}")


def _name_caller(issuer: IssuerSettings, claims: VerifiedClaims) -> tuple[str, str]:
    """The caller id, and the pod where the token names one. Raises Fault `caller_token_invalid`."""
    if not claims.subject.isprintable():  # half of a surrogate pair is not, and no record could hold it
        raise Fault("caller_token_invalid", "bad_sub: the subject has characters that no record could hold")
    if issuer.kind == "oidc":
        return f"jwt:{issuer.name}/{claims.subject}", ""
    if issuer.kind == "spiffe":
        if not is_workload_of(claims.subject, {issuer.trust_domain}):
            raise Fault("caller_token_invalid", "trust_domain: the subject is no SPIFFE ID of the trust domain")
        return claims.subject, ""
    details = claims.claims.get("kubernetes.io")
    details = details if isinstance(details, Mapping) else {}
    namespace = details.get("namespace")
    account = _name_in(details.get("serviceaccount"))
    if not isinstance(namespace, str) or not account or claims.subject != f"{_SERVICE_ACCOUNT}{namespace}:{account}":
        raise Fault("caller_token_invalid", "kubernetes: namespace and ServiceAccount of the token are not those of its subject")
    if issuer.namespaces and namespace not in issuer.namespaces:
        raise Fault("caller_token_invalid", "namespace: the namespace of the token is not one of this issuer's")
    return f"k8s:{namespace}/{account}", _name_in(details.get("pod"))


def _name_in(value: object) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) and len(name) <= _NAME_CHARS and name.isprintable() else ""
