"""The sidecar's listener: who may connect to it, and the texts of its refusals, which name the settings that allow more."""

from collections.abc import Mapping
from typing import Final

from robin.model.caller import ListenerRule

REFUSALS: Final = {
    "uid": "uid: this peer may not use the socket; see ROBIN_PEERCRED_ALLOW_UIDS",
    "not_loopback": "not_loopback: this listener serves loopback only; see ROBIN_UNSAFE_LISTEN",
    "connections": "connections: ROBIN_MAX_CONNECTIONS is reached",
}
"""The detail of a refusal by its reason, where it names a setting."""

LISTENER_SETTINGS: Final = {True: "ROBIN_LISTEN_UDS", False: "ROBIN_LISTEN_ADDR"}
"""The setting that names the listener, by whether it is a Unix socket."""

_UNCLAIMED: Final = "set ROBIN_LISTEN_ADDR=systemd:{name}, or do not pass it"
_NOT_LOOPBACK: Final = "use ListenStream=127.0.0.1:4000, or set ROBIN_UNSAFE_LISTEN=true to let the network use the identity"
ACTIVATION_FIXES: Final[Mapping[bool, Mapping[str, str]]] = {
    True: {"wrong_kind": "use ROBIN_LISTEN_ADDR instead", "not_loopback": _NOT_LOOPBACK, "unclaimed": _UNCLAIMED},
    False: {"wrong_kind": "set ROBIN_LISTEN_UDS=systemd:{name} instead", "not_loopback": _NOT_LOOPBACK, "unclaimed": _UNCLAIMED},
}
"""What to do about a socket that systemd passed and that does not fit, by whether the listener is a Unix socket."""


def socket_mode(mode: int | None, allow_uids: tuple[int, ...] | None) -> int:
    """The mode of the Unix socket; `mode` None: our own user alone, or any user where the users that may connect are listed."""
    if mode is not None:
        return mode
    return 0o600 if allow_uids is None else 0o666


def listener_rule(*, unix: bool, allow_uids: tuple[int, ...] | None, unsafe_listen: bool) -> ListenerRule:
    """`allow_uids`: the users that may use a Unix socket; None: any local user."""
    return ListenerRule(unix=unix, allow_uids=None if allow_uids is None else frozenset(allow_uids), beyond_loopback=unsafe_listen)
