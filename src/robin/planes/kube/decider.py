"""The engine's view of the plane's policy: from a head, an agent and perhaps a body to a Permit or a Denial, noted on the exchange."""

from collections.abc import Callable
from functools import partial
from typing import Final

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import Framing, HeldBody, RequestHead, ResponseHead
from robin.model.route import Endpoint
from robin.model.verdict import BodyNeeded, Denial, Permit, Verdict
from robin.planes.kube.agents import HoldsPolicy
from robin.planes.kube.bodies import PER_AGENT, Bodies
from robin.planes.kube.credentials import GRANT
from robin.planes.kube.exchange import Agent, KubeExchange
from robin.planes.kube.refusals import denial_detail
from robin.policy.kube.body import Body
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, KubeRequest, judge, read_content, read_request
from robin.policy.kube.permit import Routes
from robin.policy.kube.target import Malformed

_BODY_IDLE_S: Final = 60.0
SWITCHED: Final = 101


class Decider:
    """A `proxy.engine.Policy`. What it decides is a function of the head, the body, the agent, the policy in force, and the time."""

    __slots__ = ("_bodies", "_endpoint", "_holds", "_max_body", "_policies", "_routes", "_settings", "_wall")

    def __init__(
        self,
        *,
        policies: HoldsPolicy,
        settings: KubePolicySettings,
        routes: Routes,
        endpoint: Endpoint,
        max_body: int,
        bodies: Bodies,
        still_holds: Callable[[KubeExchange], bool],
        wall: Callable[[], float],
    ) -> None:
        """`still_holds`: whether an identity would still be that agent's. `wall` is epoch time."""
        self._policies = policies
        self._bodies = bodies
        self._holds = still_holds
        self._wall = wall
        self._settings = settings
        self._routes = routes
        self._endpoint = endpoint
        self._max_body = max_body

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """Refuse what is malformed; ask for the body where the decision needs it; decide."""
        assert isinstance(caller, Agent)
        try:
            request = read_request(head_facts(head), self._settings)
        except Malformed as refusal:
            return Denial(code=refusal.code, detail=refusal.detail)
        caller.exchange.request = request
        if request.reads_body:
            if not self._bodies.begin(caller.exchange):
                return Denial(code="kube.rate_limited", detail=f"bodies: this agent has {PER_AGENT} requests with a body on their way")
            return BodyNeeded(limit_bytes=self._max_body, idle_s=_BODY_IDLE_S, decide=partial(self._judge, request, caller))
        return self._judge(request, caller, None)

    def _judge(self, request: KubeRequest, caller: Agent, held: HeldBody | None) -> Permit | Denial:
        exchange, policy, now = caller.exchange, self._policies.policy, self._wall()
        body = read_content(request, None if held is None else held.octets)
        decision = judge(request, body, exchange.agent, policy, self._settings, now=now)
        exchange.decision, exchange.policy_digest = decision, self._policies.digest
        if held is not None:
            exchange.body_bytes, exchange.body_sha256 = len(held.octets), held.sha256.hex()
        if decision.code:
            return Denial(code=decision.code, detail=denial_detail(decision.tier, decision.code, decision.rule))
        if held is not None and not self._still_authenticated(exchange, now):
            return Denial(code="kube.revoked", detail="revoked: the credential of the agent ended before its request was whole")
        exchange.still_allowed = partial(self._still_allowed, request, body, exchange)
        exchange.service_account = policy.agents[exchange.agent].service_account
        proxied = request.info.is_resource and request.info.subresource == "proxy"
        return self._routes.permit(
            request,
            self._endpoint,
            caller,
            decision_id=exchange.id,
            grant=GRANT,
            accept_response=partial(_accept_proxied if proxied else _accept, exchange),
        )

    def _still_allowed(self, request: KubeRequest, body: Body, exchange: KubeExchange) -> bool:
        """Whether the agent is still that one, and the policy in force the one that decided, or one that would allow the request too."""
        if not self._holds(exchange):
            return False
        if self._policies.digest == exchange.policy_digest:
            return True
        decision = judge(request, body, exchange.agent, self._policies.policy, self._settings, now=self._wall())
        return not decision.code

    def _still_authenticated(self, exchange: KubeExchange, now: float) -> bool:
        """A body may come so slowly that the credential which its head showed has ended, or was taken away."""
        ends_at = exchange.identity_ends_at
        return (ends_at is None or now < ends_at) and self._holds(exchange)


def head_facts(head: RequestHead) -> HeadFacts:
    """What the judgement needs of a head; absolute-form and asterisk-form are refused by it."""
    protocols = tuple(value.decode("latin-1") for value in head.values(b"sec-websocket-protocol"))
    return HeadFacts(
        method=head.method,
        target=b"*" if head.target_authority is not None else head.target,
        names=tuple(name.decode("ascii") for name in head.names),
        upgrade="" if head.upgrade is None else head.upgrade.decode("latin-1"),
        asks_upgrade=b"upgrade" in head.names,
        protocols=protocols or None,
        content_type=_one(head, b"content-type"),
        content_encoding=",".join(value.decode("latin-1") for value in head.values(b"content-encoding")),
        has_body=head.length > 0 or head.framing == Framing.CHUNKED,
    )


def _one(head: RequestHead, name: bytes) -> str:
    """The value of a field that may stand once; a repeated one is no known value."""
    values = head.values(name)
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _accept(exchange: KubeExchange, response: ResponseHead) -> bytes:
    """What the API server may answer. A redirect would send a token elsewhere; its 401 is about our token, not the agent's."""
    _check_subprotocol(exchange, response)
    if 300 <= response.status < 400 and response.status != 304:
        raise Fault("kube.upstream_redirect", "redirect: the API server redirects, and redirects are not followed")
    if response.status == 401:
        raise Fault("kube.upstream_unauthorized", "upstream: the API server refuses the token that it minted; check `audiences`")
    return exchange.warning


def _accept_proxied(exchange: KubeExchange, response: ResponseHead) -> bytes:
    """Behind a proxy subresource another server answers, with whatever status it likes."""
    _check_subprotocol(exchange, response)
    return exchange.warning


def _check_subprotocol(exchange: KubeExchange, response: ResponseHead) -> None:
    """A switch may choose one of the subprotocols that were sent, or none."""
    chosen = [value.decode("latin-1") for value in response.values(b"sec-websocket-protocol")] if response.status == SWITCHED else []
    offered = () if exchange.request is None else exchange.request.subprotocols
    if len(chosen) > 1 or any(one not in offered for one in chosen):
        raise Fault("kube.upstream_protocol", "upgrade: the upstream chose a subprotocol that was not offered")
