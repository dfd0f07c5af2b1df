"""`gateway.parent` of robin.yaml, which makes the gateway a relay: what it needs, and every key that a relay would have to ignore."""

from typing import Final

from robin.config.addresses import reaches
from robin.config.gateway_listeners import Add, At
from robin.config.yaml_reader import Located
from robin.model.address import TcpAddress, is_loopback
from robin.model.origin import UpstreamUrl
from robin.planes.gateway.settings import ListenerSettings, ParentSettings

RELAY_NAME: Final = "robin-relay"
"""The name of a relay that has none: not that of its parent, which would take a request with its own name in Via for a loop."""

_WITH_PARENT: Final = frozenset({"name", "listeners", "parent", "limits", "timeouts", "drain", "admin", "audit"})


_KEPT: Final = {
    "limits": frozenset(
        "connections connections_per_caller tunnels tunnels_per_caller inflight_per_caller rps_per_caller body_bytes".split()
    ),
    "timeouts": frozenset("head dns connect tls response_head relay_idle tunnel_idle tunnel_max keepalive_idle upstream_idle".split()),
}
"""What a relay has of the groups that it shares with a gateway."""


def build_parent(part: dict[str, Located], listeners: tuple[ListenerSettings, ...], add: Add, at: At) -> ParentSettings | None:
    """None: this is no relay. What is wrong is added."""
    parent = part["parent"]
    if parent.at is None:
        return None
    for key, value in part.items():
        if key not in _WITH_PARENT and value.at is not None:
            add(at(value), "parent_excludes", f"a relay has no {key}: its parent decides", f"remove {key}, or parent")
    for group, kept in _KEPT.items():
        for key, value in part[group].value.items():
            if key not in kept and value.at is not None:
                add(at(value), "parent_excludes", f"a relay has no {group}.{key}: its parent decides", f"remove {key}, or parent")
    _check_listeners(part["listeners"], listeners, add, at)
    found = parent.value
    missing = [key for key in ("url", "token_file") if key not in found or found[key].value is None]
    for key in missing:
        add(at(parent), "key_missing", f"parent has no {key}", f"add {key}")
    if missing:
        return None
    url: UpstreamUrl = found["url"].value
    ca_file = found["ca_file"].value if "ca_file" in found else None
    if url.base_path:
        add(at(found["url"]), "value_invalid", "the URL of a proxy has no path", "write https://host:port")
    if not url.origin.tls and not _is_here(url.origin.host):
        fix = "use https with ca_file; http is for a parent on 127.0.0.1 or [::1]"
        add(at(found["url"]), "plaintext_token", "the token would cross the network in cleartext", fix)
    if not url.origin.tls and ca_file is not None:
        add(at(found["ca_file"]), "value_invalid", "http has no certificate that a CA could vouch for", "use https, or remove ca_file")
    if any(reaches(url.origin, address) for listener in listeners for address in listener.addresses):
        add(at(found["url"]), "self_target", "the parent is a listener of this relay", "name the gateway, or listen elsewhere")
    return ParentSettings(origin=url.origin, ca_file=ca_file, token_file=found["token_file"].value)


def _check_listeners(listed: Located, listeners: tuple[ListenerSettings, ...], add: Add, at: At) -> None:
    for listener in listeners:
        if any(isinstance(address, TcpAddress) and not is_loopback(address.host) for address in listener.addresses):
            fix = "listen on 127.0.0.1, or on a Unix socket"
            add(at(listed), "open_listener", f"the relay {listener.name} lends its token to everyone who reaches it", fix)
        if listener.auth not in {"none", "unix"} or listener.tls is not None or listener.kind != "proxy":
            text = f"the listener {listener.name} is for routes, or has TLS or callers with tokens or certificates"
            add(at(listed), "parent_excludes", text, "use kind: proxy with auth: none on loopback, or auth: unix")


def _is_here(host: str) -> bool:
    return host == "localhost" or is_loopback(host)
