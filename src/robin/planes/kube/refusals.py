"""Refusals as the Status objects of the Kubernetes API, which kubectl shows; and the faults of the engine as codes of the plane."""

import json
from http import HTTPStatus
from typing import Final

from robin.model.faults import Fault
from robin.model.kube_faults import FROM_ENGINE, KUBE_FAULTS, STATUS_REASONS
from robin.planes.kube.exchange import Agent, KubeExchange, KubeFault
from robin.policy.kube.request_info import RequestInfo
from robin.policy.kube.tiers import LABELS
from robin.telemetry.record import ExchangeRecord

_ALLOW: Final = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE\r\n"
_RETRY_MAX_S: Final = 30
_ONE_TEXT: Final = "unauthenticated: present the certificate or the token of an agent"


def translate(fault: Fault, record: ExchangeRecord) -> Fault:
    """The fault as the plane answers it, with the request that it is about."""
    exchange = record.caller.exchange if isinstance(record.caller, Agent) else None
    if fault.code in KUBE_FAULTS:
        code = fault.code
    elif fault.code == "bad_request" and fault.detail.startswith("bad_target"):
        code = "kube.target_form"
    else:
        code = FROM_ENGINE.get(fault.code, "kube.internal_error")
    after_s = fault.retry_after_s if fault.code in KUBE_FAULTS else None
    return KubeFault(code, fault.detail, exchange=exchange, retry_after_s=after_s)


class StatusRefusals:
    """A `model.faults.Refusals`. `proxy` is the name of this proxy in Proxy-Status."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: str) -> None:
        self._proxy = proxy.encode("ascii")

    def render(self, fault: Fault, *, request_id: str, close: bool, head_only: bool) -> bytes:
        """One whole response; its HTTP status is the code of the Status object."""
        kind = fault.kind
        after_s = None if fault.retry_after_s is None else max(1, min(_RETRY_MAX_S, int(-(-fault.retry_after_s // 1))))
        exchange = fault.exchange if isinstance(fault, KubeFault) else None
        body = _status(fault, exchange, after_s)
        lines = [
            b"HTTP/1.1 %d %b\r\n" % (kind.status, HTTPStatus(kind.status).phrase.encode("ascii")),
            b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body),
            b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n",
            b'Proxy-Status: %b; error=%b; details="%b"\r\n' % (self._proxy, kind.error.encode("ascii"), kind.code.encode("ascii")),
        ]
        if exchange is not None:
            lines.append(b"Robin-Decision: %b\r\n" % exchange.id.encode("ascii"))
        if after_s is not None:
            lines.append(b"Retry-After: %d\r\n" % after_s)
        if kind.status == HTTPStatus.UNAUTHORIZED:
            lines.append(b"WWW-Authenticate: Bearer\r\n")
        if kind.status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append(_ALLOW)
        if close:
            lines.append(b"Connection: close\r\n")
        return b"".join([*lines, b"\r\n", b"" if head_only else body])


def _status(fault: Fault, exchange: KubeExchange | None, after_s: int | None) -> bytes:
    info = None if exchange is None or exchange.request is None else exchange.request.info
    causes = [{"reason": "RobinCode", "message": fault.code}]
    if exchange is not None:
        causes.append({"reason": "RobinDecision", "message": exchange.id})
        if exchange.decision is not None:
            causes.append({"reason": "RobinTier", "message": str(exchange.decision.tier)})
    details: dict[str, object] = {}
    if info is not None and info.is_resource:
        details |= ({"name": info.name} if info.name else {}) | ({"group": info.group} if info.group else {}) | {"kind": info.resource}
    details["causes"] = causes
    if after_s is not None:
        details["retryAfterSeconds"] = after_s
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": _message(fault, exchange, info),
        "reason": STATUS_REASONS.get(fault.code, "InternalError"),
        "details": details,
        "code": fault.kind.status,
    }
    text = json.dumps(status)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").encode("ascii")


def _message(fault: Fault, exchange: KubeExchange | None, info: RequestInfo | None) -> str:
    if fault.kind.status == HTTPStatus.UNAUTHORIZED:
        return _ONE_TEXT
    if exchange is None or info is None or fault.kind.status != HTTPStatus.FORBIDDEN:
        return f"robin: {fault.kind.title} ({fault.code}): {fault.detail}"
    return f"{forbidden(info, exchange.agent)}: robin: {fault.detail} (decision {exchange.id})"


def forbidden(info: RequestInfo, agent: str) -> str:
    """The text with which Kubernetes refuses such a request."""
    user = f'User "robin:{agent}"'
    if not info.is_resource:
        return f'forbidden: {user} cannot {info.verb} path "{info.path}"'
    qualified = f"{info.resource}.{info.group}" if info.group else info.resource
    subject = f'{qualified} "{info.name}"' if info.name else qualified
    place = f'in the namespace "{info.namespace}"' if info.namespace else "at the cluster scope"
    return f'{subject} is forbidden: {user} cannot {info.verb} resource "{info.full_resource}" in API group "{info.group}" {place}'


def denial_detail(tier: int, code: str, rule: str) -> str:
    """Why policy refuses, for the message."""
    what = f"tier {tier} {LABELS[tier]}"
    if code == "kube.protected":
        return f"{what}, the namespace of Robin's accounts is protected"
    if code == "kube.unknown_agent":
        return f"{what}, this agent is not in the policy"
    return f'{what}, denied by rule "{rule}"' if rule else f"{what}, no rule allows it"
