"""Explain what a plane would decide about a request, and why every rule did or did not match. Nothing is opened but the settings file."""

import argparse
import asyncio
import json
import sys
from typing import Final
from urllib.parse import urlsplit

from robin.cli.gateway_file import add_config, gateway_or_exit
from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.address_guard import AddressGuard
from robin.policy.gateway import DEFAULT_PORTS, Ask, Decision, parse_authority
from robin.policy.patterns import NotCanonical, canonical_path

_PERMIT: Final = 0
_USAGE: Final = 2
_DENY: Final = 4
_MALFORMED: Final = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """One action for each plane that has a policy."""
    parser.usage = "robin explain gateway [--config robin.yaml] --caller ID (METHOD URL | CONNECT HOST:PORT) [--resolve] [--json]"
    parser.add_argument("plane", choices=("gateway",), metavar="PLANE", help="gateway")
    parser.add_argument("method", metavar="METHOD", help="a method, or CONNECT")
    parser.add_argument("target", metavar="URL|HOST:PORT", help="what is asked for")
    parser.add_argument("--caller", default="local", metavar="ID", help="who asks [local]")
    parser.add_argument("--upgrade", default="", metavar="websocket", help="with an upgrade")
    parser.add_argument(
        "--resolve", action="store_true", help="resolve the name, and show the class of each address: the one use of the network"
    )
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """0 permit, 4 deny, 5 malformed request, 2 usage."""
    settings = gateway_or_exit(args.config)
    try:
        asks = _asks(args, settings)
    except NotCanonical as error:
        print(f"robin: the target has no canonical form: {error}", file=sys.stderr)
        return _MALFORMED
    except ValueError as error:
        print(f"robin: {error}", file=sys.stderr)
        return _USAGE
    decided = [(ask, settings.rules.decide(ask)) for ask in asks]
    ask, decision = next(((ask, decision) for ask, decision in decided if not decision.code), decided[0])
    found = _found(settings, ask, decision, connecting=args.method == "CONNECT")
    if args.resolve:
        found["addresses"] = asyncio.run(_classes(settings, ask))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return _DENY if decision.code else _PERMIT


def _asks(args: argparse.Namespace, settings: GatewaySettings) -> list[Ask]:
    """What is asked; of a CONNECT one for each scheme that may be spoken inside. Raises NotCanonical, ValueError."""
    if args.method == "CONNECT":
        host, port = parse_authority(args.target.encode("utf-8"), None)
        return [Ask(caller=args.caller, scheme=scheme, host=host, port=port) for scheme in ("https", "tcp", "http")]
    url = urlsplit(args.target)
    if url.scheme not in DEFAULT_PORTS or "@" in url.netloc:
        raise ValueError("write METHOD and an http or https URL without user information, or CONNECT and HOST:PORT")
    host, port = parse_authority(url.netloc.encode("utf-8"), DEFAULT_PORTS[url.scheme])
    path = (url.path or "/").encode("utf-8")
    try:
        canonical = canonical_path(path)
    except NotCanonical:
        if settings.rules.needs_canonical_path(host, port):
            raise
        canonical = path.decode("utf-8")
    return [Ask(caller=args.caller, scheme=url.scheme, host=host, port=port, method=args.method, path=canonical, upgrade=args.upgrade)]


def _found(settings: GatewaySettings, ask: Ask, decision: Decision, *, connecting: bool) -> dict[str, object]:
    tls = "plain"
    if ask.scheme == "tcp":
        tls = "tcp"
    elif ask.scheme == "https":
        connect = Ask(caller=ask.caller, scheme="https", host=ask.host, port=ask.port)
        tls = "bridge" if settings.rules.bridges(connect) else "passthrough"
    rule = "" if decision.rule is None else decision.rule.name
    return {
        "verdict": "deny" if decision.code else "permit",
        "code": decision.code,
        "rule": rule,
        "would_deny": decision.would_deny,
        "scheme": ask.scheme,
        "host": ask.host,
        "port": ask.port,
        "path": None if connecting else ask.path,
        "tls": tls,
        "rules": [
            {"name": one.name, "effect": "allow" if one.allow else "deny", "why_not": one.why_not(ask)} for one in settings.rules.rules
        ],
    }


async def _classes(settings: GatewaySettings, ask: Ask) -> list[dict[str, str]]:
    from robin.transport.clock import SystemClock  # noqa: PLC0415 - only --resolve
    from robin.transport.dns import DnsResolver, is_own_host  # noqa: PLC0415

    places = settings.addresses
    guard = AddressGuard(deny=places.deny, nat64_prefixes=places.nat64_prefixes, unsafe_loopback=places.unsafe_loopback)
    resolver = DnsResolver(
        servers=places.resolver,
        hosts=places.hosts,
        timeout_s=settings.tunnels.dns_s,
        now=SystemClock().monotonic,
        is_own_listener=lambda *_: False,
    )
    try:
        hosts = [ask.host] if ":" in ask.host or ask.host[-1:].isdigit() else await resolver.lookup(ask.host)
    except Fault as fault:
        return [{"address": "", "class": fault.code}]
    return [
        {"address": host, "class": guard.class_of(ResolvedAddress(host=host, port=ask.port, own_host=is_own_host(host, ask.port)))}
        for host in hosts
    ]


def _print(found: dict[str, object]) -> None:
    code = f" {found['code']}" if found["code"] else ""
    by = f" by the rule {found['rule']}" if found["rule"] else ""
    report = f" (would deny: {found['would_deny']})" if found["would_deny"] else ""
    print(f"{found['verdict']}{code}{by}{report}: {found['scheme']} {found['host']}:{found['port']}, tls {found['tls']}")
    rules = found["rules"]
    assert isinstance(rules, list)
    for rule in rules:
        why = f"does not match: {rule['why_not']}" if rule["why_not"] else "matches"
        print(f"  {rule['effect']} {rule['name']}: {why}")
    addresses = found.get("addresses", [])
    assert isinstance(addresses, list)
    for place in addresses:
        print(f"  address {place['address']}: {place['class']}")
