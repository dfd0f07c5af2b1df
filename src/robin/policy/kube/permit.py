"""From an allowed request to the Permit: the header rules, upgrades, deadlines and own fields of the one route that it goes."""

import math
from functools import partial
from typing import Final

from robin.model.caller import Caller
from robin.model.route import AcceptResponse, Endpoint, HeaderRules, Route, RouteDeadlines
from robin.model.verdict import Permit
from robin.policy.kube.judge import CARRIED, KubeRequest
from robin.policy.kube.target import render_target

NEVER: Final = frozenset(
    b"authorization cookie audit-id forwarded x-method-override via te trailer sec-websocket-protocol sec-websocket-extensions"
    b" host connection keep-alive transfer-encoding content-length upgrade expect".split()
)
NEVER_PREFIXES: Final = (b"proxy-", b"impersonate-", b"x-remote-", b"x-forwarded-", b"x-kubernetes-", b"x-http-method")
"""Fields that no setting lets through: credentials, and claims about a user or a path that only a proxy may make."""

_ALLOWED: Final = frozenset(
    b"accept accept-encoding content-type user-agent if-match if-none-match if-modified-since kubectl-command kubectl-session traceparent"
    b" tracestate".split()
)
_UPGRADE_FIELDS: Final = frozenset(b"sec-websocket-key sec-websocket-version x-stream-protocol-version".split())
_OWN_RESPONSE_FIELDS: Final = frozenset({b"robin-decision"})


def is_never_forwarded(name: bytes) -> bool:
    """Whether no setting may let this field through. `name` is canonical."""
    return name in NEVER or name.startswith(NEVER_PREFIXES)


class Routes:
    """The header rules of a plane, which all its routes share."""

    __slots__ = ("_brief", "_lasting", "_plain", "_prefix", "_proxied", "_upgrade")

    def __init__(self, *, forward_headers: frozenset[bytes], prefix: bytes, response_s: float, idle_s: float) -> None:
        """`prefix` is the path of the cluster's URL."""
        allow = _ALLOWED | forward_headers
        rules = partial(HeaderRules, via=b"", strip=NEVER, strip_prefixes=NEVER_PREFIXES, strip_response=_OWN_RESPONSE_FIELDS)
        self._plain = rules(allow=allow)
        self._upgrade = rules(allow=allow | _UPGRADE_FIELDS)
        self._proxied = rules()
        self._prefix = prefix
        self._lasting = RouteDeadlines(response_s=math.inf, stream_idle_s=idle_s)
        self._brief = RouteDeadlines(response_s=response_s, stream_idle_s=response_s)

    def permit(
        self, request: KubeRequest, endpoint: Endpoint, caller: Caller, *, decision_id: str, grant: str, accept_response: AcceptResponse
    ) -> Permit:
        """Leave to send exactly the request that was judged."""
        info = request.info
        own = b"Audit-ID: %b\r\n" % decision_id.encode("ascii")
        if request.upgrade and request.subprotocols:
            own += b"Sec-WebSocket-Protocol: %b\r\n" % ", ".join(request.subprotocols).encode("latin-1")
        rules = self._plain
        if info.is_resource and info.subresource == "proxy":
            rules = self._proxied
        elif request.upgrade:
            rules = self._upgrade
        route = Route(
            name=info.full_resource or "path",
            header_rules=rules,
            upgrades=frozenset((method, protocol.encode("ascii")) for method, protocol in CARRIED) if request.upgrade else frozenset(),
            deadlines=self._lasting if info.long_running else self._brief,
            grant=grant,
            request_fields=own,
            response_fields=b"Robin-Decision: %b\r\n" % decision_id.encode("ascii"),
            accept_response=accept_response,
            relays_interim=False,
        )
        return Permit(route=route, endpoint=endpoint, target=render_target(request.target, prefix=self._prefix), caller=caller)
