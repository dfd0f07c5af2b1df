"""Leave to contact the service behind an inbound verifier: its one endpoint, for a request whose head was verified."""

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Held, Route
from robin.model.verdict import Permit, Verdict

CREDENTIALS = frozenset({b"workload-identity-token", b"signature", b"signature-input"})


class InboundPolicy:
    """A policy for the engine. Whether the request is permitted was decided before, when its caller was verified."""

    __slots__ = ("_endpoints", "_route")

    def __init__(self, authorities: frozenset[str], *, host: str, port: int, limit_bytes: int, within_s: float) -> None:
        """The service listens at `host` and `port` over plain HTTP, and gets the Host that was verified. A request body has at most
        `limit_bytes` and takes at most `within_s`.

        A body is held whole, since its digest is part of the judgement.
        """
        rules = HeaderRules(via=b"1.1 robin", strip=CREDENTIALS, strip_prefixes=(b"robin-passport-", b"x-trustplane-"))
        self._endpoints = {
            name: Endpoint(origin=Origin(scheme="http", host=host, port=port, authority=name))
            for name in (authority.encode("ascii") for authority in authorities)
        }
        self._route = Route(name="inbound", header_rules=rules, body=Held(limit_bytes=limit_bytes, within_s=within_s))

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """The Permit of a verified caller, to the service by the Host that was verified."""
        return Permit(route=self._route, endpoint=self._endpoints[head.host.lower()], target=head.target, caller=caller)
