"""The sockets that systemd passed, held against the settings: every name asked for is there, every one there is asked for.

None opens more than the variable that names it says: a Unix socket is guarded by its UID list, a TCP socket by loopback and the Host list,
so the kinds must not be mixed up.
"""

import socket
from collections.abc import Mapping, Sequence

from robin.model.address import ActivatedAddress, Address, is_loopback

Passed = Mapping[str, Sequence[socket.socket]]


def check_activation(passed: Passed, *, listen: Sequence[Address], admin: Sequence[Address], peercred: bool, unsafe_listen: bool) -> None:
    """`peercred`: the proxy's listener is ROBIN_LISTEN_UDS. Raises ValueError with the reason and the fix."""
    proxy = {address.name for address in listen if isinstance(address, ActivatedAddress)}
    wanted = proxy | {address.name for address in admin if isinstance(address, ActivatedAddress)}
    if missing := wanted - passed.keys():
        name = min(missing)
        raise ValueError(f"systemd:{name} was not passed; add FileDescriptorName={name} to the socket unit")
    if unclaimed := passed.keys() - wanted:
        name = min(unclaimed)
        raise ValueError(f"the passed socket {name} is not claimed; set ROBIN_LISTEN_ADDR=systemd:{name}, or do not pass it")
    for name in sorted(proxy):
        for sock in passed[name]:
            _check_kind(name, sock, peercred=peercred, unsafe_listen=unsafe_listen)


def _check_kind(name: str, sock: socket.socket, *, peercred: bool, unsafe_listen: bool) -> None:
    unix = sock.family == socket.AF_UNIX
    if unix and not peercred:
        raise ValueError(f"ROBIN_LISTEN_ADDR: systemd:{name} is a Unix socket; set ROBIN_LISTEN_UDS=systemd:{name} instead")
    if peercred and not unix:
        raise ValueError(f"ROBIN_LISTEN_UDS: systemd:{name} is no Unix socket, so no caller's UID is known; use ROBIN_LISTEN_ADDR instead")
    if not unix and not unsafe_listen:
        host = sock.getsockname()[0]
        if not is_loopback(host):
            fix = "use ListenStream=127.0.0.1:4000, or set ROBIN_UNSAFE_LISTEN=true to let the network spend the identity"
            raise ValueError(f"ROBIN_LISTEN_ADDR: systemd:{name} listens on {host}, which is not loopback; {fix}")
