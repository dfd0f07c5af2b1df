"""One TokenRequest: a ServiceAccount token for one forwarded request, and every way in which that fails (spec of the plane, section 9).

Rules a reader must keep: only the response says how long a token lives; a token stays in memory and in no text. There is no fallback: a
request without a minted token is not sent, neither with Robin's own credential nor with none.
"""

import asyncio
import datetime
import re
from dataclasses import dataclass
from typing import Final

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.planes.kube.cluster import ClusterCalls, NoBootstrap, read_object, shown_message, status_kind
from robin.transport.clock import Clock
from robin.wire.compact_jws import decode_base64url
from robin.wire.http_call import HttpResponse
from robin.wire.jwt_inspection import numeric_date
from robin.wire.strict_json import JsonObject, parse_json_object

LEAST_ASKED_S: Final = 600
_SPECIAL_S: Final = 3607  # the API server takes this value for the one of a projected volume
_LEAST_GRANTED_S: Final = 10
_RETRY_S: Final = range(1, 31)
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class MintSettings:
    """`ttl_s` is the soft TTL. `audiences` empty: the API server takes its own. `timeout_s` is for the whole, with a retry."""

    namespace: str
    service_account: str
    ttl_s: float
    audiences: tuple[str, ...] = ()
    bind_secret: str = ""
    timeout_s: float = 5.0

    @property
    def asked_s(self) -> int:
        """What is asked for: at least 600 s, and never the number with a special meaning."""
        asked = max(LEAST_ASKED_S, int(self.ttl_s))
        return asked + 1 if asked == _SPECIAL_S else asked

    def account_of(self, agent: str, override: str) -> str:
        """The account of an agent."""
        return account_of(agent, override or self.service_account)

    def secret_of(self, agent: str) -> str:
        """The Secret that tokens of an agent are bound to; empty: none."""
        return self.bind_secret.replace("{agent}", agent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """One token. `authorization` is the value of the field. `usable_until` is monotonic."""

    authorization: Secret
    jti: str
    asked_s: int
    granted_s: int
    effective_s: int
    usable_until: float


def account_of(agent: str, name: str) -> str:
    """The account that the name of one, perhaps with `{agent}`, means for this agent."""
    return name.replace("{agent}", agent)


class Minter:
    """Mints tokens by TokenRequest."""

    __slots__ = ("_calls", "_clock", "settings")

    def __init__(self, calls: ClusterCalls, settings: MintSettings, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self.settings = settings

    async def mint(self, *, account: str, secret: str, audit_id: str) -> Minted:
        """A token of `account`, bound to the Secret if one is named. Raises Fault with a code of the plane."""
        settings, body = self.settings, self._body(secret)
        path = f"/api/v1/namespaces/{settings.namespace}/serviceaccounts/{account}/token"
        deadline_at = asyncio.get_running_loop().time() + settings.timeout_s
        began_at, response, anew = 0.0, None, False
        for last in (False, True):
            began_at = self._clock.monotonic()
            try:
                response = await self._calls.send("POST", path, body, audit_id=audit_id, deadline_at=deadline_at, anew=anew)
            except NoBootstrap:
                raise Fault("kube.bootstrap_rejected", "bootstrap: there is no token in the bootstrap file") from None
            except Fault as fault:
                if last:
                    raise Fault("kube.mint_unavailable", f"mint: the cluster cannot be reached ({fault.code})") from None
                continue
            if response.status < 500 and response.status != 401:
                break
            anew = response.status == 401
        assert response is not None
        if response.status not in (200, 201):
            raise _refusal(response, account=account, namespace=settings.namespace, now=began_at)
        return self._read(response, account, began_at)

    def _body(self, secret: str) -> JsonObject:
        spec: JsonObject = {"expirationSeconds": self.settings.asked_s}
        if self.settings.audiences:
            spec["audiences"] = list(self.settings.audiences)
        if secret:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Secret", "name": secret}
        return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}

    def _read(self, response: HttpResponse, account: str, began_at: float) -> Minted:
        answer = read_object(response)
        token = _text(answer, "status", "token")
        form = _JWT.fullmatch(token)
        claims = {} if form is None else _claims(form[1])
        if claims.get("sub") != f"system:serviceaccount:{self.settings.namespace}:{account}":
            raise _invalid("the response holds no token of the account that was asked for")
        created, ends = _time(_text(answer, "metadata", "creationTimestamp")), _time(_text(answer, "status", "expirationTimestamp"))
        issued = numeric_date(claims.get("iat"))
        granted = None if ends is None else ends - (issued if created is None and issued is not None else created or ends)
        if granted is None or granted <= _LEAST_GRANTED_S:
            raise _invalid("the cluster granted a token of 10 s or less, or no time at all")
        effective = min(self.settings.ttl_s, granted)
        jti = claims.get("jti")
        return Minted(
            authorization=Secret(b"Bearer " + token.encode("ascii")),
            jti=jti[:256] if isinstance(jti, str) else "",
            asked_s=self.settings.asked_s,
            granted_s=int(granted),
            effective_s=int(effective),
            usable_until=began_at + effective,
        )


def _refusal(response: HttpResponse, *, account: str, namespace: str, now: float) -> Fault:
    """The refusal of the cluster as a fault of the plane."""
    status, kind = response.status, status_kind(response)
    if status == 401:
        return Fault("kube.bootstrap_rejected", "bootstrap: the cluster refuses Robin's own credential; renew it")
    if status == 403:
        role = f"serviceaccounts/token, verb create, resourceNames [{account}], in the namespace {namespace}"
        return Fault("kube.mint_forbidden", f"mint: Robin's account needs a Role with {role}")
    if status == 409 or (status == 404 and kind == "secrets"):
        return Fault("kube.revoked", "revoked: the Secret that the tokens of this agent are bound to is gone")
    if status == 404:
        return Fault("kube.mint_no_account", f"mint: there is no ServiceAccount {account} in the namespace {namespace}")
    if status == 429:
        after = next(iter(response.values("retry-after")), "1")
        after_s = int(after) if after.isdigit() and len(after) < 6 else 1
        return Fault("kube.rate_limited", "mint: the cluster asks for a pause", retry_after_s=max(_RETRY_S[0], min(_RETRY_S[-1], after_s)))
    if status >= 500:
        return Fault("kube.mint_unavailable", f"mint: the cluster answered {status}")
    return _invalid(f"the cluster answered {status}: {shown_message(response)}")


def _invalid(text: str) -> Fault:
    return Fault("kube.mint_invalid", f"mint: {text}")


def _text(answer: JsonObject, *names: str) -> str:
    value: object = answer
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _time(text: str) -> float | None:
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed.timestamp() if parsed.tzinfo is not None else None


def _claims(segment: str) -> JsonObject:
    """The claims of our own token, whose issuer we asked: not verified, only compared with what was asked for."""
    try:
        return parse_json_object(decode_base64url(segment))
    except ValueError:
        return {}
