"""The reverse listeners: whose request it is, once its route is known, and how a server refuses (RFC 9110 section 11.6.1).

The route comes first, since a route may have paths for which no caller is asked. What has no route is passed on to the policy, which
refuses it: there is one place that does.
"""

from dataclasses import replace
from typing import Final

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.model.verdict import Denial, Permit
from robin.planes.gateway.callers import bearer_challenge
from robin.planes.gateway.records import note_reason
from robin.policy.callers import ANONYMOUS_CALLER
from robin.policy.reverse import ROUTE_RULE, Found, ReversePolicy
from robin.proxy.engine import Authenticate
from robin.telemetry.record import ExchangeRecord
from robin.wire.http1 import RequestForms

REVERSE_FORMS: Final = RequestForms(connect=True, schemes=frozenset({b"http", b"https"}))
"""What a reverse listener parses, so that it can refuse it as `misdirected`."""

_OF_CALLERS: Final = frozenset({"caller_unauthenticated", "caller_token_invalid"})
_UNAUTHORIZED: Final = 401  # where a proxy has 407


class RouteCallers:
    """Authenticates the requests of one listener. `tokens` None: the caller of the connection is the caller of its requests."""

    __slots__ = ("_policy", "_tokens")

    def __init__(self, policy: ReversePolicy, tokens: Authenticate | None) -> None:
        self._policy = policy
        self._tokens = tokens

    async def authenticate(self, head: RequestHead, caller: Caller) -> Caller:
        """The caller of this request; `anonymous` where its route asks for none. Raises Fault."""
        found = self._policy.find(head)
        if isinstance(found, Found) and found.bypass:
            return replace(caller, id=ANONYMOUS_CALLER, certificate=None)
        if isinstance(found, Denial) or self._tokens is None:
            return caller
        try:
            return await self._tokens(head, caller)
        except Fault as fault:
            fault.rule = ROUTE_RULE + found.route.name
            raise


def refuse_reverse(fault: Fault, record: ExchangeRecord) -> Fault:
    """Keep what the record of a refusal has, and make a 401 of a 407. A `proxy.engine.Translate`."""
    note_reason(fault, record)
    verdict = record.verdict
    rule = verdict.route.name if isinstance(verdict, Permit) else verdict.rule if isinstance(verdict, Denial) else fault.rule
    record.notes["reverse"] = rule.removeprefix(ROUTE_RULE)
    return Fault(fault.code, fault.detail, status=_UNAUTHORIZED) if fault.code in _OF_CALLERS else fault


def challenges(realm: str) -> dict[int | str, bytes]:
    """The WWW-Authenticate field of a 401, by its code where that says more (RFC 6750 section 3)."""
    line = bearer_challenge(realm)
    return {_UNAUTHORIZED: line, "caller_token_invalid": line[:-2] + b', error="invalid_token"\r\n'}
