"""Permits for calls that Robin makes for itself: to issuers, key sets, the Kubernetes API, webhooks. The operator named each URL."""

from typing import Final

from robin.model.caller import Caller, Evidence
from robin.model.origin import Origin
from robin.model.route import Endpoint, HeaderRules, Route, TlsProfile
from robin.model.verdict import Permit

_ROUTE: Final = Route(name="control", header_rules=HeaderRules(via=b""))
_OPERATOR: Final = Caller(evidence=Evidence.OPERATOR, listener="")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def permit_control(*, scheme: str, host: str, port: int | None = None, tls: TlsProfile | None = None) -> Permit:
    """Leave to call this place. `scheme` is http or https; `host` has no brackets; `port` None is the default port of the scheme.

    `tls` applies to https only; None stands for the system's roots and no client certificate.
    """
    name = f"[{host}]" if ":" in host else host
    default = _DEFAULT_PORTS[scheme]
    authority = name if port is None or port == default else f"{name}:{port}"
    origin = Origin(scheme=scheme, host=host, port=default if port is None else port, authority=authority.encode("ascii"))
    profile = (tls or TlsProfile()) if origin.tls else None
    return Permit(route=_ROUTE, endpoint=Endpoint(origin=origin, tls=profile), target=None, caller=_OPERATOR)
