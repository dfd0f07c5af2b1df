"""The sockets that systemd passed, checked against the listeners: every name that is asked for is there, and every one there is asked for.

No socket opens more than its listener allows: a Unix socket is guarded by its list of users, a TCP socket by loopback, so the kinds must
not be mixed up.
"""

import socket
from collections.abc import Mapping, Sequence

from robin.app.plane import Listener
from robin.model.address import ActivatedAddress, Address, is_loopback


def check_activation(passed: Mapping[str, Sequence[socket.socket]], listeners: Sequence[Listener], admin: Sequence[Address]) -> None:
    """`passed`: sockets by their LISTEN_FDNAMES name. The admin listener may be of any kind. Raises ValueError with reason and fix."""
    named = [(listener, name) for listener in listeners for name in _names(listener.addresses)]
    asked = {name for _, name in named} | set(_names(admin))
    if missing := asked - passed.keys():
        name = min(missing)
        raise ValueError(f"systemd:{name} was not passed; add FileDescriptorName={name} to the socket unit")
    if unclaimed := passed.keys() - asked:
        name = min(unclaimed)
        raise ValueError(f"the passed socket {name} is not claimed; {listeners[0].fixes['unclaimed'].format(name=name)}")
    for listener, name in sorted(named, key=lambda pair: pair[1]):
        for sock in passed[name]:
            _check_kind(listener, name, sock)


def _names(addresses: Sequence[Address]) -> list[str]:
    return [address.name for address in addresses if isinstance(address, ActivatedAddress)]


def _check_kind(listener: Listener, name: str, sock: socket.socket) -> None:
    subject, rule = f"{listener.setting}: systemd:{name}", listener.rule
    wrong_kind = listener.fixes["wrong_kind"].format(name=name)
    unix = sock.family == socket.AF_UNIX
    if unix and not rule.unix:
        raise ValueError(f"{subject} is a Unix socket; {wrong_kind}")
    if rule.unix and not unix:
        raise ValueError(f"{subject} is no Unix socket, so no caller's UID is known; {wrong_kind}")
    if not unix and not rule.beyond_loopback:
        host = sock.getsockname()[0]
        if not is_loopback(host):
            raise ValueError(f"{subject} listens on {host}, which is not loopback; {listener.fixes['not_loopback'].format(name=name)}")
