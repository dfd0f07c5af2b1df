"""The engine's view of the plane's policy: from a head, an agent and perhaps a body to a Permit or a Denial, noted on the exchange."""

from functools import partial
from typing import Final

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import Framing, HeldBody, RequestHead, ResponseHead
from robin.model.route import Endpoint
from robin.model.verdict import BodyNeeded, Denial, Permit, Verdict
from robin.planes.kube.agents import HoldsPolicy
from robin.planes.kube.credentials import GRANT
from robin.planes.kube.exchange import Agent
from robin.planes.kube.refusals import denial_detail
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, KubeRequest, judge, read_content, read_request
from robin.policy.kube.permit import Routes
from robin.policy.kube.target import Malformed

_BODY_IDLE_S: Final = 60.0


class Decider:
    """A `proxy.engine.Policy`. What it decides is a pure function of the head, the body, the agent and the policy in force."""

    __slots__ = ("_endpoint", "_max_body", "_policies", "_routes", "_settings")

    def __init__(self, *, policies: HoldsPolicy, settings: KubePolicySettings, routes: Routes, endpoint: Endpoint, max_body: int) -> None:
        self._policies = policies
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
            return BodyNeeded(limit_bytes=self._max_body, idle_s=_BODY_IDLE_S, decide=partial(self._judge, request, caller))
        return self._judge(request, caller, None)

    def _judge(self, request: KubeRequest, caller: Agent, held: HeldBody | None) -> Permit | Denial:
        exchange, policy = caller.exchange, self._policies.policy
        body = read_content(request, None if held is None else held.octets)
        decision = judge(request, body, exchange.agent, policy, self._settings, now=exchange.at)
        exchange.decision, exchange.policy_digest = decision, self._policies.digest
        if held is not None:
            exchange.body_bytes, exchange.body_sha256 = len(held.octets), held.sha256.hex()
        if decision.code:
            return Denial(code=decision.code, detail=denial_detail(decision.tier, decision.code, decision.rule))
        proxied = request.info.is_resource and request.info.subresource == "proxy"
        return self._routes.permit(
            request,
            self._endpoint,
            caller,
            decision_id=exchange.id,
            grant=GRANT,
            accept_response=_accept_proxied if proxied else _accept,
        )


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


def _accept(response: ResponseHead) -> None:
    """What the API server may answer. A redirect would send a token elsewhere; its 401 is about our token, not the agent's."""
    if 300 <= response.status < 400 and response.status != 304:
        raise Fault("kube.upstream_redirect", "redirect: the API server redirects, and redirects are not followed")
    if response.status == 401:
        raise Fault("kube.upstream_unauthorized", "upstream: the API server refuses the token that it minted; check `audiences`")


def _accept_proxied(response: ResponseHead) -> None:
    """Behind a proxy subresource another server answers, with whatever status it likes."""
