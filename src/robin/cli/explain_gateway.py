"""Explain what a plane would decide about a request, and why every rule did or did not match. Nothing is opened but the settings file."""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from robin.cli.explain_grant import explain_plan
from robin.cli.explain_reverse import MALFORMED, explain_reverse, print_reverse
from robin.cli.gateway_file import add_config, gateway_or_exit
from robin.config.callers import can_call
from robin.config.parse import shown
from robin.model.address import ResolvedAddress
from robin.model.faults import Fault
from robin.model.route import Endpoint
from robin.planes.gateway.policy import build_policy
from robin.planes.gateway.settings import GatewaySettings
from robin.policy.address_guard import AddressGuard
from robin.policy.gateway import GatewayPolicy, bound_request, parse_authority
from robin.policy.patterns import NotCanonical, is_method
from robin.policy.providers import Place
from robin.policy.rules import DEFAULT_PORTS, Ask, Decision
from robin.policy.select import Binding, Selection

_PERMIT: Final = 0
_USAGE: Final = 2
_DENY: Final = 4
_MALFORMED: Final = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """One action for each plane that has a policy."""
    parser.usage = (
        "robin explain gateway [--config robin.yaml] --caller ID (METHOD URL | CONNECT HOST:PORT)"
        " [--reverse] [--resolve] [--files-elsewhere] [--json]"
    )
    parser.add_argument("method", metavar="METHOD", help="a method, or CONNECT")
    parser.add_argument("target", nargs="?", metavar="URL|HOST:PORT", help="what is asked for")
    parser.add_argument("--caller", default="local", metavar="ID", help="who asks [local]")
    parser.add_argument("--upgrade", default="", metavar="websocket", help="with an upgrade")
    parser.add_argument("--reverse", action="store_true", help="to a reverse listener: the host and the path of URL select the route")
    parser.add_argument(
        "--resolve", action="store_true", help="resolve the name as the gateway does, and judge its addresses: the one use of the network"
    )
    parser.add_argument("--files-elsewhere", action="store_true", help="files that the settings name and that are not here are warnings")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """0 permit, 4 deny or failed, 5 malformed request, 2 usage."""
    if wrong := _wrong_usage(args.method, args.target):
        print(f"robin: {wrong}", file=sys.stderr)
        return _USAGE
    settings = gateway_or_exit(args.config, files_elsewhere=args.files_elsewhere)
    if settings.parent is not None:
        print(f"robin: this is a relay: its parent {settings.parent.origin} decides; explain the file of that gateway", file=sys.stderr)
        return 2
    policy = build_policy(settings)
    if (args.caller or not args.reverse) and (not can_call(args.caller) or "*" in args.caller):
        fix = "write an id such as local or k8s:NAMESPACE/NAME"
        print(f"robin: warning: caller_unknown: no caller has the id {shown(args.caller)}; {fix}", file=sys.stderr)
    if args.reverse:
        return _run_reverse(args, settings, policy)
    try:
        found = explain_request(
            settings,
            policy,
            method=args.method,
            target=args.target,
            caller=args.caller,
            upgrade=args.upgrade,
            resolve=args.resolve,
        )
    except NotCanonical as error:
        print(f"robin: the target has no canonical form: {error}", file=sys.stderr)
        return _MALFORMED
    except ValueError as error:
        print(f"robin: {error}", file=sys.stderr)
        return _USAGE
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return _DENY if found["code"] else _PERMIT


def explain_request(
    settings: GatewaySettings, policy: GatewayPolicy, *, method: str, target: str, caller: str, upgrade: str = "", resolve: bool = False
) -> dict[str, Any]:
    """What would be decided about a request to a proxy listener, as `--json` prints it. Raises NotCanonical, ValueError."""
    if method == "CONNECT":
        if ":" not in target:
            raise ValueError("CONNECT has no default port; write HOST:PORT, such as CONNECT example.com:443")
        judged = policy.judge_connect(caller, *parse_authority(target.encode("utf-8"), None))
        ask, decision, place = judged.ask, judged.decision, judged.place
    else:
        ask = _ask(policy, method, target, caller, upgrade)
        decision, place = policy.rules.decide(ask), policy.providers.place(ask.caller, ask.scheme, ask.host, ask.port)
    found = _found(settings, policy, ask, decision, place)
    _judge_addresses(found, settings, policy.endpoint(ask, decision, place, "tcp"), resolve=resolve)
    return found


def _wrong_usage(method: str, target: str | None) -> str:
    """What is wrong with the two words, and the fix; empty: nothing."""
    if target is None and ("/" in method or ":" in method):
        return f"METHOD is missing; write robin explain gateway {'GET' if '/' in method else 'CONNECT'} {method}"
    if target is None:
        return f"the target is missing; write robin explain gateway {method} and a URL, or CONNECT and HOST:PORT"
    if is_method(method):
        return ""
    if is_method(method.upper()):
        return f"{shown(method)} is no method; write it in upper case"
    return f"{shown(method)} is no method; METHOD comes before the target"


def _run_reverse(args: argparse.Namespace, settings: GatewaySettings, policy: GatewayPolicy) -> int:
    assert policy.reverse is not None
    try:
        found, bindings, endpoint = explain_reverse(
            policy.reverse, method=args.method, target=args.target, caller=args.caller, upgrade=args.upgrade
        )
    except ValueError as error:
        print(f"robin: {error}", file=sys.stderr)
        return _USAGE
    found["credentials"] = [_credential(settings, binding) for binding in bindings]
    if endpoint is not None:
        _judge_addresses(found, settings, endpoint, resolve=args.resolve)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print_reverse(found)
        _print_details(found)
    if found["code"] in MALFORMED:
        return _MALFORMED
    return _DENY if found["code"] else _PERMIT


def _ask(policy: GatewayPolicy, method: str, target: str, caller: str, upgrade: str) -> Ask:
    """What is asked. Raises NotCanonical, ValueError."""
    url = urlsplit(target)
    if url.scheme not in DEFAULT_PORTS or "@" in url.netloc:
        raise ValueError("write METHOD and an http or https URL without user information, or CONNECT and HOST:PORT")
    host, port = parse_authority(url.netloc.encode("utf-8"), DEFAULT_PORTS[url.scheme])
    path = (url.path or "/").encode("utf-8")
    canonical = policy.canonical_path(path, host, port)
    return Ask(caller=caller, scheme=url.scheme, host=host, port=port, method=method, path=canonical, upgrade=upgrade)


def _tls_of(policy: GatewayPolicy, ask: Ask, place: Place) -> str:
    """What becomes of TLS in a CONNECT to this place, or would where there is none for this caller; `plain` where there is no TLS."""
    if ask.scheme == "http":
        return "plain"
    judged = policy.judge_connect(ask.caller, ask.host, ask.port)
    if not judged.decision.code and judged.tls is not None:
        return str(judged.tls)
    return "bridge" if policy.bridges(replace(ask, method=None, path="", upgrade=""), place) else "passthrough"


def _found(settings: GatewaySettings, policy: GatewayPolicy, ask: Ask, decision: Decision, place: Place) -> dict[str, object]:
    selection = Selection() if decision.code or ask.method is None else policy.select(ask, decision, place)
    code = selection.code if selection.refusal else decision.code
    return {
        "verdict": "deny" if code else "permit",
        "code": code,
        "detail": selection.refusal,
        "rule": decision.denied_by if decision.rule is None else decision.rule.name,
        "would_deny": decision.would_deny,
        "scheme": ask.scheme,
        "host": ask.host,
        "port": ask.port,
        "path": None if ask.method is None else ask.path,
        "tls": _tls_of(policy, ask, place),
        "rules": [
            {"name": one.name, "effect": "allow" if one.allow else "deny", "why_not": one.why_not(ask)} for one in policy.rules.rules
        ],
        "credentials": [_credential(settings, binding) for binding in (() if code else selection.bindings)],
        "bindings": [
            {"binding": one.binding.label, "reason": one.reason}
            for one in (() if ask.method is None else policy.providers.selector.explain(bound_request(ask, place)))
        ],
    }


def _credential(settings: GatewaySettings, binding: Binding) -> dict[str, object]:
    """What would be written, and how it is obtained; the identity token stands for itself."""
    plan, signing = settings.providers.grants[binding.grant], binding.signing
    place: dict[str, object] = {"binding": binding.label, "provider": plan.provider, "credential": plan.credential, "header": plan.header}
    place |= {"style": plan.style, "username": plan.username}
    if signing is not None:
        place["signing"] = f"{signing.mode} {signing.service} {signing.region}"
    return {**place, **explain_plan(plan)}


def _judge_addresses(found: dict[str, object], settings: GatewaySettings, endpoint: Endpoint, *, resolve: bool) -> None:
    """Add the addresses, and the refusal of what the policy permits. Without `resolve` only those that need no name server are known."""
    from robin.transport.dns import is_own_host  # noqa: PLC0415 - no other command of a policy needs it

    places, origin = settings.addresses, endpoint.origin
    guard = AddressGuard(deny=places.deny, nat64_prefixes=places.nat64_prefixes, unsafe_loopback=places.unsafe_loopback)
    hosts: Sequence[str] = (origin.host,) if ":" in origin.host or origin.host[-1:].isdigit() else places.hosts.get(origin.host, ())
    try:
        if resolve:
            hosts = asyncio.run(_resolve(settings, guard, origin.host, hosts))
        own = {host: resolve and is_own_host(host, origin.port) for host in hosts}
        addresses = [ResolvedAddress(host=host, port=origin.port, own_host=own[host]) for host in hosts]
        if addresses:
            found["addresses"] = [{"address": one.host, "class": guard.class_of(one)} for one in addresses]
            guard.judge_endpoint(endpoint, addresses)
    except Fault as fault:
        found.setdefault("addresses", [{"address": "", "class": fault.code}])
        if not found["code"]:
            verdict = "deny" if fault.kind.denies else "failed"
            found |= {"verdict": verdict, "code": fault.code, "detail": fault.detail, "credentials": []}


async def _resolve(settings: GatewaySettings, guard: AddressGuard, host: str, known: Sequence[str]) -> Sequence[str]:
    """The addresses of a name, as the gateway resolves it; `guard` learns those of its own names. Raises Fault."""
    from robin.transport.clock import SystemClock  # noqa: PLC0415 - only --resolve
    from robin.transport.dns import DnsResolver  # noqa: PLC0415

    places = settings.addresses
    resolver = DnsResolver(
        servers=places.resolver,
        hosts=places.hosts,
        timeout_s=settings.tunnels.dns_s,
        now=SystemClock().monotonic,
        is_own_listener=lambda *_: False,
    )
    own: list[str] = []
    for name in places.self_names:
        with contextlib.suppress(Fault):
            own += await resolver.lookup(name)
    guard.learn_self(frozenset(map(ip_address, own)))
    return known or await resolver.lookup(host)


def _source_of(one: dict[str, Any]) -> str:
    if "file" in one:
        return f" {one['file']}"
    return f" with the identity {one['identity']}" if one["identity"] else ""


def _print(found: dict[str, object]) -> None:
    code = f" {found['code']}" if found["code"] else ""
    by = f" by the rule {found['rule']}" if found["rule"] else ""
    report = f" (would deny: {found['would_deny']})" if found["would_deny"] else ""
    print(f"{found['verdict']}{code}{by}{report}: {found['scheme']} {found['host']}:{found['port']}, tls {found['tls']}")
    if found["detail"]:
        print(f"  {found['detail']}")
    rules = found["rules"]
    assert isinstance(rules, list)
    for rule in rules:
        why = f"does not match: {rule['why_not']}" if rule["why_not"] else "matches"
        print(f"  {rule['effect']} {rule['name']}: {why}")
    _print_details(found)


def _print_details(found: dict[str, object]) -> None:
    """Credentials, bindings and addresses."""
    bindings, credentials = found["bindings"], found["credentials"]
    assert isinstance(bindings, list)
    assert isinstance(credentials, list)
    for one in credentials:
        field = f"{one['header']} (basic, as the user {one['username']})" if one["username"] else one["header"]
        print(f"  credential {one['provider']}/{one['credential']}: {field}, by {one['kind']}{_source_of(one)}")
        for stage in (*one.get("stages", ()), one):
            if "form" in stage:
                print(f"    POST {stage['token_endpoint']}")
                for name, value in stage["form"]:
                    print(f"      {name}={value}")
    for binding in bindings:
        print(f"  binding {binding['binding']}: {binding['reason']}")
    addresses = found.get("addresses", [])
    assert isinstance(addresses, list)
    for place in addresses:
        print(f"  address {place['address']}: {place['class']}")
