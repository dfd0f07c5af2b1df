"""Close this pod's own egress, for an init container: with nft, all but the gateway, name servers that are named, and loopback.

It needs the capability NET_ADMIN, which the agent behind it must not have. Whatever fails, the exit code is 1 and the agent must not start.
"""

import argparse
import sys

from robin.cli.enforcement import lookup, shown_place
from robin.cli.nft_table import Lockdown, LockdownFailed, Place, canonical, lock_down, name_servers
from robin.config.addresses import parse_host_port
from robin.config.parse import InvalidValue

_RESOLV_CONF = "resolv.conf"
_LOOKUP_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    """What stays reachable."""
    parser.usage = "robin lockdown --gateway HOST:PORT [--gateway HOST:PORT]... [--dns resolv.conf | IP[:PORT]]..."
    parser.add_argument(
        "--gateway", action="append", required=True, type=_place, metavar="HOST:PORT", help="all addresses of this place by TCP; repeatable"
    )
    parser.add_argument(
        "--dns",
        action="append",
        default=[],
        type=_dns,
        metavar="PLACE",
        help="a name server: IP[:PORT], or resolv.conf for those of this pod; repeatable [none]",
    )
    parser.add_argument("--nft", metavar="FILE", help="the program [nft, of the usual folders]")


def _place(text: str) -> Place:
    try:
        return parse_host_port(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None


def _dns(text: str) -> Place | str:
    if text == _RESOLV_CONF:
        return text
    try:
        return canonical(text), 53
    except ValueError:
        pass
    host, port = _place(text)
    try:
        return canonical(host), port
    except ValueError:
        raise argparse.ArgumentTypeError("write IP, IP:PORT or resolv.conf") from None


def run(args: argparse.Namespace) -> int:
    """0 closed, 1 not proven to be closed, 2 usage."""
    try:
        lockdown = Lockdown(gateway=_gateways(args.gateway), dns=_name_servers(args.dns))
        lock_down(lockdown, args.nft)
    except LockdownFailed as error:
        print(f"robin: this pod is not locked down: {error}", file=sys.stderr)
        return 1
    open_ = [*lockdown.gateway, *lockdown.dns]
    print(f"egress is closed but for {', '.join(map(shown_place, open_))}")
    return 0


def _gateways(places: list[Place]) -> tuple[Place, ...]:
    found: list[Place] = []
    for host, port in places:
        try:
            found += [(canonical(address), port) for address, port in lookup(host, port, _LOOKUP_S)]
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise LockdownFailed(f"{shown_place((host, port))} does not resolve: {why}") from None
    if not found:
        raise LockdownFailed("the gateway has no address")
    return tuple(dict.fromkeys(found))


def _name_servers(listed: list[Place | str]) -> tuple[Place, ...]:
    found: list[Place] = []
    for entry in listed:
        if not isinstance(entry, str):
            found.append(entry)
            continue
        try:
            found += name_servers()
        except OSError as error:
            raise LockdownFailed(f"/etc/resolv.conf: {error.strerror}") from None
    return tuple(dict.fromkeys(found))
