"""The policy of a relay: everything goes to the parent, which decides. Pure.

The relay judges only what the parent could not see any more, or what would confuse the two: the form of the target, Host, and a loop.
"""

from collections.abc import Callable
from dataclasses import dataclass

from robin.model.caller import Caller
from robin.model.message import RequestHead
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route, TlsProfile
from robin.model.verdict import Denial, LocalResponse, Permit, Verdict
from robin.policy.gateway import parse_authority
from robin.policy.patterns import NotCanonical
from robin.policy.rules import DEFAULT_PORTS, Ask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RelayPermit(Permit):
    """Leave to ask the parent. `asked` is what it is asked for; of a CONNECT the scheme is not known and is `tcp`."""

    asked: Origin


class RelayPolicy:
    """A `proxy.engine.Policy`. The endpoint of each permit is the parent; the authority in it is the one that Host must have."""

    __slots__ = ("_local", "_name", "_parent", "_route", "_tls")

    def __init__(
        self,
        parent: Origin,
        route: Route,
        *,
        tls: TlsProfile | None,
        name: str,
        local: Callable[[RequestHead], LocalResponse | None] = lambda _: None,
    ) -> None:
        """`name` is that of this relay in Via."""
        self._parent = parent
        self._route = route
        self._tls = tls
        self._name = name.encode("ascii")
        self._local = local

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """A Permit or a Denial for one request head."""
        if head.via is not None and any(entry.split()[1:2] == [self._name] for entry in head.via.split(b",")):
            return Denial(code="loop", detail="own_via: the request went through this relay already")
        try:
            if head.method == "CONNECT":
                return self._decide_connect(head, caller)
            return self._decide_request(head, caller)
        except NotCanonical as error:
            return Denial(code="authority_invalid", detail=f"{error}: the target has no canonical host and port")

    def _decide_connect(self, head: RequestHead, caller: Caller) -> Verdict:
        """Raises NotCanonical."""
        host, port = parse_authority(head.target, None)
        if parse_authority(head.host, port) != (host, port):
            return Denial(code="authority_mismatch", detail="host: the Host of a CONNECT is its target")
        asked = Ask(caller=caller.id, scheme="tcp", host=host, port=port).origin
        return self._permit(asked, asked.authority, caller)

    def _decide_request(self, head: RequestHead, caller: Caller) -> Verdict:
        """Raises NotCanonical."""
        if head.target_scheme is None or head.target_authority is None:
            if (own := self._local(head)) is not None:
                return own
            return Denial(code="misdirected", detail="origin_form: this is a relay; send CONNECT or a target in absolute-form")
        scheme = head.target_scheme.decode("ascii")
        host, port = parse_authority(head.target_authority, DEFAULT_PORTS[scheme])
        if parse_authority(head.host, DEFAULT_PORTS[scheme]) != (host, port):
            return Denial(code="authority_mismatch", detail="host: the Host is not the target")
        asked = Ask(caller=caller.id, scheme=scheme, host=host, port=port).origin
        path = b"" if head.target == b"*" else head.target  # RFC 9112 section 3.2.4
        return self._permit(asked, b"%b://%b%b" % (head.target_scheme, asked.authority, path), caller)

    def _permit(self, asked: Origin, target: bytes, caller: Caller) -> RelayPermit:
        parent = self._parent
        origin = Origin(scheme=parent.scheme, host=parent.host, port=parent.port, authority=asked.authority)
        endpoint = Endpoint(origin=origin, tls=self._tls)
        return RelayPermit(route=self._route, endpoint=endpoint, target=target, caller=caller, asked=asked)
