"""The gateway's section of robin.yaml: its schema, and the settings that are built from it, or everything that is wrong with them.

A code that names one rule of the reference page is given to each error; the position is that of the value which is wrong.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from robin.config import file_modes
from robin.config.addresses import parse_listen
from robin.config.callers import CALLER_WORDS, can_call, expand, is_caller
from robin.config.diagnostic import Diagnostic, Position
from robin.config.gateway_issuers import build_issuers
from robin.config.gateway_listeners import build_listeners, check_places
from robin.config.gateway_parent import RELAY_NAME, build_parent
from robin.config.gateway_reach import check_reach
from robin.config.gateway_routes import build_routes
from robin.config.gateway_schema import SCHEMA
from robin.config.identities import build_identities, fixed_audience
from robin.config.parse import InvalidValue, nearest, shown
from robin.config.providers import ProviderPlan, load_providers
from robin.config.yaml_reader import Located
from robin.grants.settings import GrantsSettings
from robin.identity.settings import IdentitySettings
from robin.model.address import Address, TcpAddress, is_loopback
from robin.model.limits import Deadlines, Limits, StepDeadlines
from robin.model.route import TlsProfile
from robin.planes.gateway.settings import (
    AddressSettings,
    AuditSettings,
    BridgeSettings,
    CallerLimitSettings,
    GatewaySettings,
    ListenerSettings,
    TunnelSettings,
)
from robin.policy.address_guard import is_nat64_prefix, is_private_network
from robin.policy.callers import CallerPattern
from robin.policy.overlap import witness_host
from robin.policy.patterns import (
    HostPattern,
    Methods,
    PathPattern,
    PatternError,
    configured_host,
    parse_host_pattern,
    parse_methods,
    parse_path_pattern,
    parse_ports,
)
from robin.policy.rule_ties import find_ties
from robin.policy.rules import DEFAULT_PORTS, PROVIDER_RULE, Rule, RuleSet, is_exact, provider_rule

__all__ = ["SCHEMA", "build_gateway"]

_WITH_PORT = re.compile(r"[^:]+:[0-9]+")
_SHORT_NAME = re.compile(r"[a-z0-9-]{1,63}")

T = TypeVar("T")


def build_gateway(
    section: Located, file: str, identities: Mapping[str, str | None] | None = None, *, files_elsewhere: bool = False
) -> tuple[GatewaySettings | None, tuple[Diagnostic, ...]]:
    """The settings, None where an error is among the diagnostics. `section` was read with SCHEMA. Of the files that it names only profiles
    are read. `identities`: the names of sources that a process has of its own, in place of those of the file. `files_elsewhere`: a file
    that is not here is a warning, since the settings are for another machine; for looking at them, never for a gateway that starts.
    """
    builder = _Builder(section, file, identities, files_elsewhere=files_elsewhere)
    settings = builder.build()
    errors = any(one.severity == "error" for one in builder.found)
    return (None if errors else settings), tuple(sorted(builder.found, key=lambda one: one.at))


class _Builder:
    """Builds the settings part by part and collects what is wrong with them."""

    def __init__(self, section: Located, file: str, own_identities: Mapping[str, str | None] | None, *, files_elsewhere: bool) -> None:
        self._section = section
        self._own_identities = own_identities
        self._files_elsewhere = files_elsewhere
        self._folder = Path(file).parent
        self._start = Position(file=file, line=1, col=1)
        self.found: list[Diagnostic] = []
        self._callers: dict[str, tuple[str, ...]] = {}

    def _at(self, *places: Located) -> Position:
        return next((place.at for place in places if place.at is not None), self._section.at or self._start)

    def _add(self, at: Position, code: str, message: str, fix: str, *, warning: bool = False) -> None:
        self.found.append(Diagnostic(at=at, code=code, message=message, fix=fix, severity="warning" if warning else "error"))

    def _add_unreadable(self, at: Position, code: str, error: OSError, *, message: str, fix: str) -> None:
        """An error for a file that cannot be read; a warning where it is not here, and need not be."""
        absent = self._files_elsewhere and isinstance(error, FileNotFoundError | NotADirectoryError)
        self._add(at, "file_missing" if absent else code, f"{message}: {error.strerror}", fix, warning=absent)

    def _count_errors(self) -> int:
        return sum(one.severity == "error" for one in self.found)

    def _each(self, items: Located, parse: Callable[[str], T], code: str, fix: str) -> tuple[T, ...]:
        """Each item of a list of texts, parsed; what fails is noted with its position."""
        parsed = []
        for item in items.value:
            try:
                parsed.append(parse(item.value))
            except PatternError as error:
                self._add(self._at(item, items), error.code, str(error), fix)
            except (ValueError, InvalidValue) as error:
                self._add(self._at(item, items), code, _text_of(error), fix)
        return tuple(parsed)

    def build(self) -> GatewaySettings:
        part: dict[str, Located] = self._section.value
        self._callers = {
            name: tuple(item.value for item in listed.value)
            for name, listed in part["callers"].value.items()
            if self._is_short(name, listed)
        }
        issuers = {issuer.name: issuer for issuer in build_issuers(part["issuers"], self._add, self._at)}
        listeners = build_listeners(part["listeners"], issuers, self._add, self._at, self._add_unreadable)
        parent = build_parent(part, listeners, self._add, self._at)
        identities = build_identities(part["identities"], self._report)
        plan, grants = self._providers(part, identities)
        rules = self._rules(part["policy"], plan)
        minted = next((one.name for one in listeners if one.tls is not None and one.tls.minted_names), "")
        bridge = self._bridge(part["bridge"], rules, plan, part, minted=minted, proxies=any(one.kind == "proxy" for one in listeners))
        self.found += check_reach(rules, plan, listeners)
        timeouts, limits = part["timeouts"].plain(), part["limits"].plain()
        admin = self._admin(part["admin"].value["listen"])
        probes: tuple[Address, ...] = part["admin"].value["probes"].value
        self.found += check_places(part, listeners, admin, probes, self._at)
        addresses = self._addresses(part["addresses"], listeners, (*admin, *probes))
        own = [*(address for one in listeners for address in one.addresses), *admin, *probes]
        routes = build_routes(part["routes"], self._add, self._at, callers=self._caller_patterns, own=own, self_names=addresses.self_names)
        return GatewaySettings(
            name=RELAY_NAME if parent is not None and part["name"].at is None else part["name"].value,
            listeners=listeners,
            issuers=issuers,
            rules=rules,
            bridge=bridge,
            upstream_tls=_tls_profile(part["upstream_tls"].plain()),
            addresses=addresses,
            limits=Limits(
                head_bytes=32768,
                fields=128,
                connections=limits["connections"],
                upstream_connections=1024,  # to one origin: more than a caller at its default limits, which others must not wait for
                upstream_total=4096,
                body_bytes=limits["body_bytes"],
            ),
            deadlines=Deadlines(
                head_s=timeouts["head"],
                keepalive_s=timeouts["keepalive_idle"],
                stream_idle_s=timeouts["relay_idle"] or float("inf"),
                response_s=timeouts["response_head"] or float("inf"),
                connect_s=timeouts["connect"] + timeouts["dns"] + timeouts["tls"],
                connect_steps=StepDeadlines(dns_s=timeouts["dns"], connect_s=timeouts["connect"], tls_s=timeouts["tls"]),
                upstream_idle_s=timeouts["upstream_idle"],
            ),
            tunnels=TunnelSettings(
                tunnels=limits["tunnels"],
                tunnels_per_caller=limits["tunnels_per_caller"],
                mints_per_second=limits["mints_per_second"],
                first_bytes_s=timeouts["first_bytes"],
                tls_s=timeouts["tls"],
                dns_s=timeouts["dns"],
                idle_s=timeouts["tunnel_idle"] or float("inf"),
                max_s=timeouts["tunnel_max"] or float("inf"),
            ),
            drain_min_s=part["drain"].value["min"].value,
            drain_max_s=part["drain"].value["max"].value,
            admin=admin,
            probes=probes,
            routes=routes,
            callers=CallerLimitSettings(
                connections=limits["connections_per_caller"],
                in_flight=limits["inflight_per_caller"],
                requests_per_s=limits["rps_per_caller"],
            ),
            audit=self._audit(part["audit"]),
            identities=identities,
            providers=plan.settings,
            grants=grants,
            parent=parent,
            canary=part["canary"].value if "canary" in part else None,
            warnings=self._warnings(listeners, rules),
        )

    def _is_short(self, name: str, listed: Located) -> bool:
        for item in listed.value:
            if not is_caller(item.value):
                self._add(
                    self._at(item),
                    "value_invalid",
                    "this is no caller id",
                    "write an id such as k8s:NAMESPACE/NAME or spiffe://domain/path",
                )
            elif not can_call(item.value):
                self._add_unknown(self._at(item), item.value, ())
        return _SHORT_NAME.fullmatch(name) is not None

    def _report(self, at: Position | None, code: str, message: str, fix: str) -> None:
        self._add(at or self._section.at or self._start, code, message, fix)

    def _providers(self, part: dict[str, Located], identities: Mapping[str, IdentitySettings]) -> tuple[ProviderPlan, GrantsSettings]:
        names = self._own_identities
        if names is None:
            names = {name: fixed_audience(settings) for name, settings in identities.items()}
        plan, grants, found = load_providers(part, self._folder, self._section.at or self._start, names, self._callers)
        self.found += found
        return plan, grants

    # policy

    def _rules(self, policy: Located, plan: ProviderPlan) -> RuleSet:
        rules: list[Rule] = []
        places: dict[str, Position] = {}
        for entry in policy.value["rules"].value:
            rule = self._rule(entry)
            if rule is None:
                continue
            if rule.name in places:
                self._add(self._at(entry), "value_invalid", f"two rules have the name {rule.name}", "give each its own name")
            places[rule.name] = self._at(entry)
            rules.append(rule)
        rules += [provider_rule(permit) for permit in plan.permits]
        places |= {PROVIDER_RULE + provider.name: provider.at for provider in plan.attached}
        self._check_conflicts(rules, places)
        for one, other, host in find_ties(rules):
            self._add(
                places[other.name],
                "rule_tie",
                f"{one.name} and {other.name} match {host} with equal rank and differ in tls, private, upgrade or roots",
                "make them equal, or narrow one of them",
            )
        return RuleSet(rules, report=policy.value["mode"].value == "report")

    def _check_conflicts(self, rules: list[Rule], places: dict[str, Position]) -> None:
        """Tcp and http(s) on one host and port cannot be told apart before the first byte, and a tunnel would get round a denial too."""
        by_port: dict[int, list[Rule]] = {}
        for rule in [rule for rule in rules if not rule.report]:
            spoken = {port for scheme, ports in rule.ports.items() if scheme != "tcp" for port in ports}
            if not rule.allow:
                spoken -= rule.ports.get("tcp", frozenset())  # what it denies to tcp too, the tunnel does not get round
            for port in spoken:
                by_port.setdefault(port, []).append(rule)
        for one in [rule for rule in rules if rule.allow and "tcp" in rule.ports]:
            others = {id(other): other for port in one.ports["tcp"] for other in by_port.get(port, ())}
            for other in others.values():
                if any(witness_host(a, b) for a in one.hosts for b in other.hosts):
                    self._add(
                        places[one.name],
                        "rule_conflict",
                        f"{one.name} has tcp and {other.name} http or https on one host and port",
                        "use other ports, or one scheme",
                    )

    def _rule(self, entry: Located) -> Rule | None:
        part: dict[str, Located] = entry.value
        values = entry.plain()
        before = self._count_errors()
        if not values["hosts"]:
            self._add(self._at(part["hosts"], entry), "value_invalid", "a rule without hosts matches nothing", "add hosts")
        hosts = self._each(part["hosts"], _rule_host, "pattern_invalid", "write a name, *.S, **.S or p*q.S")
        paths: tuple[PathPattern, ...] = self._each(
            part["paths"], parse_path_pattern, "pattern_invalid", "write /a/*, /a/** or a whole path"
        )
        if any(pattern.is_any for pattern in paths):
            paths = ()
        methods = self._methods(part["methods"], entry)
        ports = self._ports(part, values, entry)
        callers = self._caller_patterns(part["callers"], entry)
        upgrades = frozenset(values["upgrade"])
        private = self._each(
            part["private"], _private_network, "private_cidr", "use networks inside 10/8, 172.16/12, 192.168/16, fc00::/7, 100.64/10"
        )
        allow = values["effect"] == "allow"
        if self._count_errors() > before or methods is None or ports is None:
            return None
        rule = Rule(
            name=values["name"],
            allow=allow,
            report=values["mode"] == "report",
            hosts=hosts,
            ports=ports,
            callers=callers,
            methods=methods,
            paths=paths,
            upgrades=upgrades,
            tls=values["tls"],
            private=private,
            ca_file=values.get("upstream_ca_file"),
        )
        self._check_rule(rule, entry, part)
        return rule

    def _check_rule(self, rule: Rule, entry: Located, part: dict[str, Located]) -> None:
        if rule.allow and rule.report:
            self._add(self._at(part["mode"], entry), "value_invalid", "mode report is for effect deny", "remove mode")
        sees = rule.methods.names is not None or rule.paths or rule.upgrades
        if rule.tls == "passthrough" and sees:
            self._add(
                self._at(part["tls"], entry),
                "passthrough_blind",
                "methods, paths and upgrade need to see requests",
                "use tls: bridge or auto",
            )
        if "tcp" in rule.ports and (sees or rule.tls != "auto"):
            self._add(
                self._at(entry), "passthrough_blind", "a tcp rule cannot see requests or TLS", "remove methods, paths, upgrade and tls"
            )
        if rule.private and not is_exact(rule):
            fix = "name each host exactly"
            self._add(self._at(part["private"], entry), "private_needs_exact_host", "private networks are for exact hosts", fix)

    def _methods(self, listed: Located, entry: Located) -> Methods | None:
        try:
            return parse_methods([item.value for item in listed.value])
        except PatternError as error:
            self._add(self._at(listed, entry), error.code, str(error), "write methods in upper case, such as [GET, HEAD]")
            return None

    def _ports(self, part: dict[str, Located], values: Any, entry: Located) -> dict[str, frozenset[int]] | None:
        """The ports of each scheme of the rule."""
        schemes = values["schemes"] or ("https",)
        if "tcp" in schemes and not values["ports"]:
            self._add(self._at(part["schemes"], entry), "value_invalid", "a rule with tcp lists its ports", "add ports")
            return None
        try:
            listed = parse_ports(values["ports"], default=(443,))
        except PatternError as error:
            self._add(self._at(part["ports"], entry), error.code, str(error), "use 1 to 65535")
            return None
        return {scheme: listed if values["ports"] else frozenset({DEFAULT_PORTS[scheme]}) for scheme in schemes}

    def _caller_patterns(self, listed: Located, entry: Located) -> tuple[CallerPattern, ...]:
        if not listed.value:
            if listed.at is not None:
                self._add(
                    self._at(listed), "value_invalid", "a rule without callers matches nothing", "name callers, or remove the key for *"
                )
            return (CallerPattern(text="*"),)
        texts: list[str] = []
        for item in listed.value:
            texts += expand(item.value, self._callers)
            if item.value not in self._callers and not is_caller(item.value):
                self._add(
                    self._at(item, entry),
                    "value_invalid",
                    "this is no caller, pattern or short name",
                    "write an id, a name of callers, or *",
                )
            elif item.value not in self._callers and not can_call(item.value):
                self._add_unknown(self._at(item, entry), item.value, self._callers)
        return tuple(CallerPattern(text=text) for text in dict.fromkeys(texts))

    def _add_unknown(self, at: Position, text: str, names: Iterable[str]) -> None:
        """Warn of a caller that no connection can have: what names it alone never matches, a denial neither."""
        meant = nearest(text, (*CALLER_WORDS, *names))
        fix = "add the name to `callers`, or write an id such as k8s:NAMESPACE/NAME" if meant is None else f"write {meant} (the nearest)"
        self._add(at, "caller_unknown", f"no caller has the name {shown(text)}", fix, warning=True)

    # the rest

    def _bridge(
        self, bridge: Located, rules: RuleSet, plan: ProviderPlan, part: dict[str, Located], *, minted: str, proxies: bool
    ) -> BridgeSettings:
        values = bridge.plain()
        slots, sign_with = values["slots"], values.get("sign_with") or ""
        at = self._at(bridge.value.get("sign_with", bridge), bridge)
        if slots and not sign_with:
            sign_with = next(iter(slots)) if len(slots) == 1 else ""
            if not sign_with:
                self._add(at, "value_invalid", "sign_with does not say which slot signs", f"use one of {', '.join(slots)}")
        if sign_with and sign_with not in slots:
            self._add(at, "value_invalid", "sign_with names no slot", "name a key of slots")
        for name, folder in bridge.value["slots"].value.items():
            self._check_slot(name, folder)
        needing = [
            f"the rule {rule.name} needs to see requests"
            for rule in rules.rules
            if "https" in rule.ports and (rule.inspects if rule.allow else bool(rule.paths or rule.methods.names))
        ]
        binding = next((f"{one.label} writes a credential into requests" for one in plan.settings.bindings if one.scheme == "https"), None)
        fix = "make a CA: robin ca init --out DIR, then slots: {a: DIR}"
        if not slots and proxies and (text := binding or next(iter(needing), None)):
            self._add(self._at(part["policy"] if binding is None else part["providers"]), "bridge_required", text, fix)
        if minted and not slots:
            self._add(self._at(part["listeners"]), "bridge_required", f"the listener {minted} has minted_names, which a CA signs", fix)
        return BridgeSettings(
            slots=dict(slots), sign_with=sign_with, leaf_ttl_s=values["leaf_ttl"], leaf_cache=values["leaf_cache"], ech=values["ech"]
        )

    def _check_slot(self, name: str, folder: Located) -> None:
        path = os.path.join(folder.value, "tls.key")
        try:
            open_to_others = file_modes.others_may(path, file_modes.ANY)
        except OSError as error:
            fix, message = "robin ca init --out DIR makes one", f"the slot {name} has no readable tls.key"
            self._add_unreadable(self._at(folder), "ca_invalid", error, message=message, fix=fix)
            return
        if open_to_others:
            self._add(self._at(folder), "key_mode", "others can read or write the private key tls.key", file_modes.KEY_MODE_FIX)

    def _addresses(self, addresses: Located, listeners: tuple[ListenerSettings, ...], admin: tuple[Address, ...]) -> AddressSettings:
        part: dict[str, Located] = addresses.value
        loopback = self._each(
            part["unsafe_loopback"], _loopback_place, "value_invalid", "write a loopback address with a port, such as 127.0.0.1:9000"
        )
        own = {(address.host, address.port) for place in (*listeners,) for address in place.addresses if isinstance(address, TcpAddress)}
        own |= {(address.host, address.port) for address in admin if isinstance(address, TcpAddress)}
        for place in loopback:
            if place in own:
                self._add(self._at(part["unsafe_loopback"]), "self_target", "unsafe_loopback names a listener of this gateway", "remove it")
        nat64 = self._each(part["nat64_prefixes"], _nat64_prefix, "value_invalid", "write an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
        return AddressSettings(
            resolver=self._each(part["resolver"], _place, "value_invalid", "write IP:port"),
            hosts=self._fixed_hosts(part["hosts"]),
            deny=self._each(part["deny"], _network, "value_invalid", "write a network such as 10.0.0.0/8"),
            nat64_prefixes=nat64,
            self_names=self._each(part["self_names"], configured_host, "pattern_invalid", "write host names"),
            unsafe_loopback=frozenset(loopback),
        )

    def _fixed_hosts(self, entries: Located) -> dict[str, tuple[str, ...]]:
        hosts: dict[str, tuple[str, ...]] = {}
        for name, listed in entries.value.items():
            try:
                host = configured_host(name)
            except PatternError as error:
                self._add(self._at(listed), error.code, str(error), "write a host name")
                continue
            if host in hosts:
                self._add(self._at(listed), "value_invalid", f"the name {host} stands here twice, in two spellings", "keep one of them")
            if not listed.value:
                fix = "write IP addresses, or leave the name out: then the name servers are asked"
                self._add(self._at(listed), "value_invalid", f"{host} has no address", fix)
            hosts[host] = self._each(listed, _literal, "value_invalid", "write IP addresses")
        return hosts

    def _admin(self, listen: Located) -> tuple[Address, ...]:
        addresses: tuple[Address, ...] = listen.value
        if any(isinstance(address, TcpAddress) and not is_loopback(address.host) for address in addresses):
            self._add(self._at(listen), "open_listener", "the admin listener has no authentication", "listen on 127.0.0.1")
        return addresses

    def _audit(self, audit: Located) -> AuditSettings:
        values = audit.plain()
        file = values.get("file")
        if file is not None and not os.path.isdir(folder := os.path.dirname(file) or "."):
            missing = OSError(errno.EEXIST if os.path.exists(folder) else errno.ENOENT, "it is missing, or a file")
            message, fix = "there is no folder for the audit file", "make it, or name another file"
            self._add_unreadable(self._at(audit.value["file"]), "value_invalid", missing, message=message, fix=fix)
        if (key_file := values.get("checkpoint_key_file")) is not None:
            at = self._at(audit.value["checkpoint_key_file"])
            try:
                if file_modes.others_may(key_file, file_modes.ANY):
                    self._add(at, "key_mode", "others can read or write the key that signs checkpoints", file_modes.KEY_MODE_FIX)
            except OSError as error:  # it would end the start
                message = "the key that signs checkpoints cannot be read"
                self._add_unreadable(at, "value_invalid", error, message=message, fix="name its file")
        return AuditSettings(
            file=file,
            deny=values["on_failure"] == "deny",
            checkpoint_every=values["checkpoint_every"],
            checkpoint_key_file=key_file,
        )

    def _warnings(self, listeners: tuple[ListenerSettings, ...], rules: RuleSet) -> tuple[tuple[str, dict[str, str]], ...]:
        warnings = [
            ("unsafe", {"switch": "open", "detail": f"the listener {one.name} serves everyone"}) for one in listeners if one.unsafe_open
        ]
        if rules.report:
            warnings.append(("policy_reports_only", {"detail": "policy.mode is report: denials are recorded and not enforced"}))
        return tuple(warnings)


def _text_of(error: Exception) -> str:
    return error.what if isinstance(error, InvalidValue) else str(error)


def _rule_host(text: str) -> HostPattern:
    if _WITH_PORT.fullmatch(text):
        raise PatternError("pattern_invalid", "a host has no port; the `ports` of the rule are its ports")
    return parse_host_pattern(text, rule=True)


def _private_network(text: str) -> str:
    if not is_private_network(text):
        raise ValueError("the network is not a private one")
    return text


def _nat64_prefix(text: str) -> str:
    if not is_nat64_prefix(text):
        raise ValueError("this is no NAT64 prefix")
    return text


def _network(text: str) -> str:
    return str(ip_network(text))


def _literal(text: str) -> str:
    return str(ip_address(text))


def _place(text: str) -> tuple[str, int]:
    (address,) = parse_listen(text) if not text.startswith("unix:") else ()
    if not isinstance(address, TcpAddress) or not address.host or not address.port:
        raise ValueError("this is no IP:port")
    return address.host, address.port


def _loopback_place(text: str) -> tuple[str, int]:
    host, port = _place(text)
    if not is_loopback(host):
        raise ValueError("the address is not loopback")
    return host, port


def _tls_profile(values: Any) -> TlsProfile:
    return TlsProfile(extra_ca_files=values["ca_files"], system_roots=values["system_roots"], minimum=values["min_version"])
