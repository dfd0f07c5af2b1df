"""The nft table `inet robin` that closes a pod's own egress: written as one transaction, read back, and tried.

Rules to keep: a pod is left closed whatever fails; what is in force is what was asked for, rule by rule; both families or nothing. Another
table cannot undo it: a packet that one base chain drops is gone.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

Place = tuple[str, int]
_Target = tuple[str, int] | tuple[str, int, int, int]
Matches = tuple[tuple[str, object], ...]
"""One rule, all of whose matches lead to accept: what is compared, and with what."""

_TABLE: Final = "inet robin"
_TIMEOUT_S: Final = 10.0
_OUTPUT_BYTES: Final = 1 << 20
_SEARCH: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_NEIGHBOURS: Final = ("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert")  # RFC 4861: without them no IPv6 address is found
_NOWHERE: Final = (("192.0.2.1", 9), ("2001:db8::1", 9))  # RFC 5737, RFC 3849: nothing is ever there
_NEARBY: Final = "ff02::1"  # on each interface: there is a way to it wherever there is IPv6
_NO_WAY: Final = frozenset({errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETDOWN})
_STRIPPED: Final = {"PATH": _SEARCH, "LC_ALL": "C"}


class LockdownFailed(Exception):
    """The pod is not proven to be closed; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lockdown:
    """What stays reachable beside loopback and answers. `gateway` by TCP, `dns` by UDP and TCP; all are IP addresses."""

    gateway: tuple[Place, ...]
    dns: tuple[Place, ...] = ()

    def rules(self) -> list[Matches]:
        """In order."""
        rules: list[Matches] = [(("meta oifname", "lo"),), (("ct state", "established"),)]
        rules += [(_daddr(host), ("tcp dport", port)) for host, port in self.gateway]
        rules += [(_daddr(host), (f"{protocol} dport", port)) for host, port in self.dns for protocol in ("udp", "tcp")]
        rules += [(("icmpv6 type", kind),) for kind in _NEIGHBOURS]
        return rules


def _daddr(host: str) -> tuple[str, object]:
    return ("ip6 daddr" if ":" in host else "ip daddr", host)


def render(lockdown: Lockdown) -> str:
    """The transaction: whatever table of this name was there is replaced at once."""
    lines = [f"add table {_TABLE}", f"delete table {_TABLE}", f"add table {_TABLE}"]
    lines.append(f"add chain {_TABLE} output {{ type filter hook output priority 0; policy drop; }}")
    for matches in lockdown.rules():
        words = " ".join(f'{left} "{right}"' if left == "meta oifname" else f"{left} {right}" for left, right in matches)
        lines.append(f"add rule {_TABLE} output {words} accept")
    return "\n".join(lines) + "\n"


def lock_down(lockdown: Lockdown, program: str | None) -> None:
    """Close everything else. Raises LockdownFailed; what was written then stays, and is closed."""
    nft = program or shutil.which("nft", path=_SEARCH)
    if nft is None:
        raise LockdownFailed("there is no program nft; install nftables")
    _run(nft, ["-f", "-"], render(lockdown))
    check(_run(nft, ["-j", "list", "table", *_TABLE.split()]), lockdown)
    nearby: list[_Target] = [(_NEARBY, 9, 0, index) for index, name in socket.if_nameindex() if name != "lo"]
    for target in [*_NOWHERE, *nearby]:
        if _can_send(target):
            family = "IPv6" if ":" in target[0] else "IPv4"
            raise LockdownFailed(f"{family} still goes out: the kernel does not filter it; nothing holds this pod back")


def check(listing: str, lockdown: Lockdown) -> None:
    """Compare what is in force with what was asked for. Raises LockdownFailed."""
    try:
        read = [entry for entry in json.loads(listing)["nftables"] if isinstance(entry, dict)]
        (chain,) = [entry["chain"] for entry in read if "chain" in entry]
        found = [_matches(entry["rule"]["expr"]) for entry in read if "rule" in entry]
        hook = tuple(chain.get(key) for key in ("family", "table", "type", "hook", "prio", "policy"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise LockdownFailed("the table that was written cannot be read back") from None
    if hook != ("inet", "robin", "filter", "output", 0, "drop"):
        raise LockdownFailed("the chain that is in force is not the one that was written: it must drop all output")
    if found != lockdown.rules():
        raise LockdownFailed("the rules that are in force are not those that were written")


def _matches(expressions: Sequence[dict[str, Any]]) -> Matches:
    """Raises KeyError, TypeError or ValueError for a rule that is none of ours."""
    *conditions, verdict = expressions
    if verdict != {"accept": None}:
        raise ValueError("another verdict")
    found = []
    for condition in conditions:
        match = condition["match"]
        left, right = match["left"], match["right"]
        if "payload" in left:
            name = f"{left['payload']['protocol']} {left['payload']['field']}"
        else:
            ((kind, what),) = left.items()
            name = f"{kind} {what['key']}"
        if match["op"] != ("in" if name == "ct state" else "=="):
            raise ValueError("another comparison")
        found.append((name, right))
    return tuple(found)


def _run(nft: str, words: list[str], script: str = "") -> str:
    """What it prints. Raises LockdownFailed."""
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's program, with fixed words
            [nft, *words], input=script, env=_STRIPPED, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LockdownFailed(f"nft did not end within {_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise LockdownFailed(f"{nft}: {error.strerror}") from None
    if ended.returncode != 0:
        why = ascii(ended.stderr.strip().split("\n")[0])[1:-1][:200]
        raise LockdownFailed(f"nft failed: {why or ended.returncode}; it needs the capability NET_ADMIN, and nf_tables in the kernel")
    return ended.stdout[:_OUTPUT_BYTES]


def _can_send(place: _Target) -> bool:
    """Whether a datagram to this place leaves. A failure that says nothing about the filter counts as leaving."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(b"", place)
    except OSError as error:
        return error.errno not in _NO_WAY
    return True


def name_servers(path: str = "/etc/resolv.conf") -> tuple[Place, ...]:
    """Those of resolv.conf, at port 53. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), encoding="utf-8", errors="replace") as file:
        words = [line.split() for line in file.read(65536).splitlines()]
    found = []
    for entry in words:
        if entry[:1] == ["nameserver"] and len(entry) > 1:
            with contextlib.suppress(ValueError):
                found.append((canonical(entry[1]), 53))
    return tuple(dict.fromkeys(found))


def canonical(host: str) -> str:
    """An IP address as nft shows it. Raises ValueError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.inet_ntop(family, socket.inet_pton(family, host))
    except OSError:
        raise ValueError(host) from None
