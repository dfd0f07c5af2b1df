"""The sidecar's guards: may this request spend the workload's identity? A pure function of the head and the caller; silence denies.

Whatever reaches the listener can use the identity, so the guards keep out what a browser page (DNS rebinding, cross-site requests) or
a forged URL (SSRF) can make a local program send (docs/explanation/threat-model.md).
"""

import hmac
from typing import Final

from robin.model.caller import Caller, Evidence
from robin.model.message import RequestHead, RequiredField
from robin.model.route import Endpoint, HeaderRules, Route
from robin.model.verdict import Denial, LocalResponse, Permit, Verdict
from robin.wire.proxy_status import ALLOW

_OPTIONS: Final = LocalResponse(status=204, fields=b"Allow: " + ALLOW + b"\r\n")
_PROBE: Final = Route(name="probe", header_rules=HeaderRules(via=b""))
_OPERATOR: Final = Caller(evidence=Evidence.OPERATOR, listener="")
_PERMITS_MAX: Final = 1024
_OWN_SITES = frozenset({b"same-origin", b"none"})  # any other value, known or not, is foreign


class SidecarPolicy:
    """Compiled once from Settings; all that changes is the remembered Host, which changes only speed.

    `hosts` None: no Host guard (a Unix listener on which none was set).
    """

    __slots__ = ("_any_host", "_endpoint", "_hosts", "_known_host", "_origins", "_permits", "_pseudonym", "_required", "_route")

    def __init__(
        self,
        route: Route,
        endpoint: Endpoint,
        *,
        hosts: frozenset[bytes] | None,
        origins: frozenset[bytes],
        required: RequiredField | None,
        pseudonym: str,
        any_host: bool,
    ) -> None:
        self._route = route
        self._endpoint = endpoint
        self._permits: dict[int, Permit] = {}  # by the identity of the caller
        self._hosts = hosts
        self._known_host = b""
        self._origins = origins
        self._required = required
        self._pseudonym = pseudonym.encode("ascii")
        self._any_host = any_host

    def decide(self, head: RequestHead, caller: Caller) -> Verdict:
        """Permit or Denial, in the order Host, Origin, Sec-Fetch-Site, required header, loop."""
        if not self._any_host:
            host = head.target_authority or head.host  # RFC 9112 3.2.2: an absolute target replaces Host
            if host != self._known_host and not self._admits(host):
                return Denial(code="host_not_allowed", detail="host: the Host is not in {allowed_hosts}; add it there if it is yours")
            foreign = foreign_page(head, self._origins)
            if foreign == "origin":
                return Denial(code="origin_refused", detail="origin: browser pages need their Origin in {allowed_origins}")
            if foreign:
                return Denial(code="origin_refused", detail="sec_fetch_site: a browser sent this across sites; see {allowed_origins}")
        if self._required is not None and not _is_present(head, self._required):
            return Denial(code="required_header_missing", detail="required_header: send the field that {require_header} names")
        if head.via is not None and self._pseudonym in head.via:
            return Denial(code="loop", detail="own_via: {upstream_url} leads back to this Robin")
        if head.method == "OPTIONS" and (head.target == b"*" or (head.max_forwards or b"1").strip(b"0") == b""):
            return _OPTIONS  # RFC 9110 7.6.2: it travels no further
        permit = self._permits.get(id(caller))
        return permit if permit is not None and permit.caller is caller else self._permit(caller)

    def _permit(self, caller: Caller) -> Permit:
        """The permit for the requests of one caller, kept since building one costs as much as the judgement."""
        if len(self._permits) >= _PERMITS_MAX:
            self._permits.clear()
        permit = self._permits[id(caller)] = Permit(route=self._route, endpoint=self._endpoint, target=None, caller=caller)
        return permit

    def _admits(self, host: bytes) -> bool:
        """Whether the Host guard lets `host` pass; the last one that did is remembered, since callers repeat it."""
        if self._hosts is not None and host_name(host) not in self._hosts:
            return False
        self._known_host = host
        return True


def permit_probe(endpoint: Endpoint) -> Permit:
    """The Permit of `robin doctor`, which connects for the operator and sends nothing: there is no caller and no request."""
    return Permit(route=_PROBE, endpoint=endpoint, target=None, caller=_OPERATOR)


def foreign_page(head: RequestHead, origins: frozenset[bytes] = frozenset()) -> str:
    """The field by which a browser shows that a page sent this which is none of `origins`: origin, sec_fetch_site; "" if none does."""
    if head.origin is not None:
        return "" if head.origin in origins else "origin"
    return "sec_fetch_site" if head.fetch_site is not None and head.fetch_site.lower() not in _OWN_SITES else ""


def host_name(authority: bytes) -> bytes:
    """The name of a valid `host[:port]`, lower case, brackets kept."""
    name = authority if authority.endswith(b"]") else authority.partition(b":")[0]
    if authority[:1] == b"[":
        name = authority.partition(b"]")[0] + b"]"
    return name.lower()


def _is_present(head: RequestHead, required: RequiredField) -> bool:
    values = head.values(required.name)
    return len(values) > 0 if required.value is None else any(hmac.compare_digest(value, required.value) for value in values)
