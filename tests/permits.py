"""Permits for tests: to one origin, under the rules of a reverse proxy."""

from robin.model.caller import Caller, Evidence
from robin.model.message import RequiredField
from robin.model.origin import Origin
from robin.model.route import Endpoint, Route, RouteDeadlines, TlsProfile
from robin.model.verdict import Permit
from robin.wire.forwarding import DEFAULT_STRIP, header_rules

CALLER = Caller(evidence=Evidence.LOOPBACK, listener="test")
PSEUDONYM = "robin-00c0ffee"


def route(
    *,
    base_path: bytes = b"",
    grant: str = "forward",
    upgrades: frozenset[tuple[str, bytes]] = frozenset({("GET", b"websocket")}),
    deadlines: RouteDeadlines = RouteDeadlines(),  # noqa: B008 - frozen
    required: RequiredField | None = None,
    pseudonym: str = PSEUDONYM,
) -> Route:
    """A route with the sidecar's default header rules."""
    rules = header_rules(strip=DEFAULT_STRIP, required=required, pseudonym=pseudonym)
    return Route(name="test", header_rules=rules, upgrades=upgrades, deadlines=deadlines, base_path=base_path, grant=grant)


def permit_to(origin: Origin, through: Route | None = None, *, base_path: bytes = b"", tls: TlsProfile | None = None) -> Permit:
    """Leave to contact `origin` for CALLER."""
    return Permit(route=through or route(base_path=base_path), endpoint=Endpoint(origin=origin, tls=tls), target=None, caller=CALLER)
