"""The gateway's section of robin.yaml: its schema, and the settings that are built from it, or everything that is wrong with them.

A code that names one rule of the reference page is given to each error; the position is that of the value which is wrong.
"""

import os
import re
import stat
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Any, Final, TypeVar

from robin.config.addresses import parse_listen
from robin.config.diagnostic import Diagnostic, Position
from robin.config.gateway_schema import SCHEMA
from robin.config.parse import InvalidValue
from robin.config.yaml_reader import Located
from robin.identity.trust.settings import ALGORITHMS, JwksSettings, TrustSettings
from robin.model.address import Address, TcpAddress, UnixAddress, is_loopback
from robin.model.limits import Deadlines, Limits
from robin.model.route import TlsProfile
from robin.planes.gateway.settings import (
    AddressSettings,
    AuditSettings,
    BridgeSettings,
    GatewaySettings,
    IssuerSettings,
    ListenerSettings,
    TunnelSettings,
)
from robin.policy.address_guard import is_nat64_prefix, is_private_network
from robin.policy.gateway import DEFAULT_PORTS, CallerPattern, Rule, RuleSet, find_ties, is_exact
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

__all__ = ["SCHEMA", "build_gateway"]

_NOBODY: Final = 65534
_CALLER = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._:/*@|+=~-]{0,511}")
_SHORT_NAME = re.compile(r"[a-z0-9-]{1,63}")
_LOOPBACK: Final = "127.0.0.1:8081"

T = TypeVar("T")


def build_gateway(section: Located, file: str) -> tuple[GatewaySettings | None, tuple[Diagnostic, ...]]:
    """The settings, None where an error is among the diagnostics. `section` was read with SCHEMA. Files are named, not opened."""
    builder = _Builder(section, file)
    try:
        settings = builder.build()
    except _Refused:
        settings = None
    errors = any(one.severity == "error" for one in builder.found)
    return (None if errors else settings), tuple(sorted(builder.found, key=lambda one: one.at))


class _Refused(Exception):
    """The value cannot be built; its error was noted."""


class _Builder:
    """Builds the settings part by part and collects what is wrong with them."""

    def __init__(self, section: Located, file: str) -> None:
        self._section = section
        self._start = Position(file=file, line=1, col=1)
        self.found: list[Diagnostic] = []
        self._callers: dict[str, tuple[str, ...]] = {}

    def _at(self, *places: Located) -> Position:
        return next((place.at for place in places if place.at is not None), self._section.at or self._start)

    def _add(self, at: Position, code: str, message: str, fix: str, *, warning: bool = False) -> None:
        self.found.append(Diagnostic(at=at, code=code, message=message, fix=fix, severity="warning" if warning else "error"))

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
        issuers = {issuer.name: issuer for issuer in self._issuers(part["issuers"])}
        listeners = self._listeners(part["listeners"], issuers)
        rules = self._rules(part["policy"])
        bridge = self._bridge(part["bridge"], rules, part)
        timeouts, limits = part["timeouts"].plain(), part["limits"].plain()
        admin = self._admin(part["admin"].value["listen"])
        return GatewaySettings(
            name=part["name"].value,
            listeners=listeners,
            issuers=issuers,
            rules=rules,
            bridge=bridge,
            upstream_tls=_tls_profile(part["upstream_tls"].plain()),
            addresses=self._addresses(part["addresses"], listeners, admin),
            limits=Limits(head_bytes=32768, fields=128, connections=limits["connections"], upstream_total=4096),
            deadlines=Deadlines(
                head_s=timeouts["head"],
                keepalive_s=timeouts["keepalive_idle"],
                stream_idle_s=timeouts["relay_idle"] or float("inf"),
                response_s=timeouts["response_head"] or float("inf"),
                connect_s=timeouts["connect"] + timeouts["dns"] + timeouts["tls"],
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
            audit=self._audit(part["audit"]),
            warnings=self._warnings(listeners, rules),
        )

    def _is_short(self, name: str, listed: Located) -> bool:
        for item in listed.value:
            if _CALLER.fullmatch(item.value) is None:
                self._add(
                    self._at(item),
                    "value_invalid",
                    "this is no caller id",
                    "write an id such as k8s:NAMESPACE/NAME or spiffe://domain/path",
                )
        return _SHORT_NAME.fullmatch(name) is not None

    # issuers and listeners

    def _issuers(self, listed: Located) -> list[IssuerSettings]:
        built: list[IssuerSettings] = []
        for entry in listed.value:
            try:
                built.append(self._issuer(entry))
            except _Refused:
                continue
        names = [issuer.name for issuer in built]
        if len(set(names)) < len(names):
            self._add(self._at(listed), "value_invalid", "two issuers have the same name", "give each its own name")
        return built

    def _issuer(self, entry: Located) -> IssuerSettings:
        part: dict[str, Located] = entry.value
        values = entry.plain()
        at = self._at(entry)
        jwks = values["jwks"]
        if bool(jwks.get("url")) == bool(jwks.get("file")):
            self._add(self._at(part["jwks"], entry), "value_invalid", "jwks has not exactly one of url and file", "give one of the two")
            raise _Refused
        algorithms = frozenset(values["algorithms"] or ("RS256", "ES256"))
        if not algorithms <= ALGORITHMS:
            fix = "use some of " + ", ".join(sorted(ALGORITHMS))
            self._add(self._at(part["algorithms"], entry), "algorithm_refused", "only asymmetric signatures are accepted", fix)
            raise _Refused
        kind = values["kind"]
        if kind == "spiffe" and not values.get("trust_domain"):
            self._add(at, "value_invalid", "an issuer of kind spiffe has no trust_domain", "add trust_domain")
            raise _Refused
        if kind != "spiffe" and not values.get("issuer"):
            self._add(at, "value_invalid", f"an issuer of kind {kind} has no issuer", "add issuer, exactly as `iss` has it")
            raise _Refused
        if not values["audiences"]:
            self._add(self._at(part["audiences"], entry), "value_invalid", "there is no audience", "add the audience of this gateway")
            raise _Refused
        trust = TrustSettings(
            issuer=values.get("issuer") or None,
            audiences=values["audiences"],
            algorithms=algorithms,
            jwks=JwksSettings(
                url=jwks.get("url"),
                file=jwks.get("file"),
                ca_file=jwks.get("ca_file"),
                bearer_file=jwks.get("bearer_file"),
                refresh_s=jwks["refresh"],
                min_refetch_s=jwks["min_refetch"],
                max_stale_s=jwks["max_stale"],
            ),
            leeway_s=values["leeway"],
            max_lifetime_s=values["max_lifetime"],
        )
        return IssuerSettings(
            name=values["name"],
            kind=kind,
            trust=trust,
            trust_domain=values.get("trust_domain") or "",
            namespaces=frozenset(values["namespaces"]),
        )

    def _listeners(self, listed: Located, issuers: dict[str, IssuerSettings]) -> tuple[ListenerSettings, ...]:
        if not listed.value:
            return (ListenerSettings(name="proxy", addresses=parse_listen(_LOOPBACK)),)
        built: list[ListenerSettings] = []
        for entry in listed.value:
            try:
                built.append(self._listener(entry, issuers))
            except _Refused:
                continue
        names = [listener.name for listener in built]
        if len(set(names)) < len(names):
            self._add(self._at(listed), "value_invalid", "two listeners have the same name", "give each its own name")
        return tuple(built)

    def _listener(self, entry: Located, issuers: dict[str, IssuerSettings]) -> ListenerSettings:
        part: dict[str, Located] = entry.value
        values = entry.plain()
        at = self._at(part["listen"], entry)
        auth = values["auth"]
        addresses = self._listen(values["listen"], values["unix_mode"], at)
        unix = any(isinstance(address, UnixAddress) for address in addresses)
        off_loopback = any(isinstance(address, TcpAddress) and not is_loopback(address.host) for address in addresses)
        if auth == "none" and off_loopback and not values["unsafe_open"]:
            self._add(at, "open_listener", "auth none serves everyone who reaches this address", "use auth: jwt, or listen on 127.0.0.1")
        if auth == "jwt" and off_loopback and not values["unsafe_plaintext"]:
            self._add(at, "plaintext_token", "tokens would cross the network in cleartext", "listen on 127.0.0.1, or set unsafe_plaintext")
        if auth == "jwt":
            self._check_issuers(part["issuers"], issuers, entry)
        elif values["issuers"]:
            self._add(self._at(part["issuers"], entry), "value_invalid", "issuers are for auth jwt", "set auth: jwt, or remove issuers")
        if auth == "unix" and (not unix or not values["uids"]):
            self._add(at, "value_invalid", "auth unix needs a unix: address and uids", "write listen: unix:/path and uids: [1000]")
        if auth == "none" and unix:
            self._add(at, "value_invalid", "a Unix socket needs auth unix", "set auth: unix with uids, or auth: jwt")
        if _NOBODY in values["uids"]:
            self._add(self._at(part["uids"], entry), "value_invalid", "uid 65534 stands for users without a number here", "name real users")
        return ListenerSettings(
            name=values["name"],
            addresses=addresses,
            auth=auth,
            issuers=values["issuers"],
            uids=frozenset(values["uids"]),
            unsafe_open=auth == "none" and off_loopback,
        )

    def _listen(self, text: str, mode: str, at: Position) -> tuple[Address, ...]:
        try:
            if text.startswith("unix:"):
                from robin.config.addresses import parse_unix_path  # noqa: PLC0415 - beside its only use

                return (UnixAddress(path=parse_unix_path(text[5:]), mode=int(mode, 8)),)
            return parse_listen(text)
        except InvalidValue as error:
            self._add(at, "value_invalid", error.what, error.fix)
            raise _Refused from None

    def _check_issuers(self, listed: Located, issuers: dict[str, IssuerSettings], entry: Located) -> None:
        if not listed.value:
            self._add(self._at(listed, entry), "issuer_unknown", "auth jwt has no issuers", "name at least one entry of gateway.issuers")
        for item in listed.value:
            if item.value not in issuers:
                fix = f"use one of {', '.join(issuers)}" if issuers else "add it to gateway.issuers"
                self._add(self._at(item), "issuer_unknown", "there is no issuer of this name", fix)

    # policy

    def _rules(self, policy: Located) -> RuleSet:
        rules: list[Rule] = []
        places: dict[str, Located] = {}
        for entry in policy.value["rules"].value:
            rule = self._rule(entry)
            if rule is None:
                continue
            if rule.name in places:
                self._add(self._at(entry), "value_invalid", f"two rules have the name {rule.name}", "give each its own name")
            places[rule.name] = entry
            rules.append(rule)
        self._check_conflicts(rules, places)
        for one, other, pattern in find_ties(rules):
            self._add(
                self._at(places[other.name]),
                "rule_tie",
                f"{one.name} and {other.name} match {pattern.text} with equal rank and differ in tls, private, upgrade or roots",
                "make them equal, or narrow one of them",
            )
        return RuleSet(rules, report=policy.value["mode"].value == "report")

    def _check_conflicts(self, rules: list[Rule], places: dict[str, Located]) -> None:
        """Tcp and http(s) on overlapping host and port cannot be told apart before the first byte."""
        for one in rules:
            for other in rules:
                if "tcp" not in one.ports or not (one.allow and other.allow):
                    continue
                spoken = [port for scheme, ports in other.ports.items() if scheme != "tcp" for port in ports]
                if one.ports["tcp"] & set(spoken) and any(_overlap(a, b) for a in one.hosts for b in other.hosts):
                    self._add(
                        self._at(places[one.name]),
                        "rule_conflict",
                        f"{one.name} has tcp and {other.name} http or https on one host and port",
                        "use other ports, or one scheme",
                    )

    def _rule(self, entry: Located) -> Rule | None:
        part: dict[str, Located] = entry.value
        values = entry.plain()
        before = len(self.found)
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
        if len(self.found) > before or methods is None or ports is None:
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
            texts += self._callers.get(item.value, (item.value,))
            if item.value not in self._callers and (_CALLER.fullmatch(item.value) is None or _wild_domain(item.value)):
                self._add(
                    self._at(item, entry),
                    "value_invalid",
                    "this is no caller, pattern or short name",
                    "write an id, a name of callers, or *",
                )
        return tuple(CallerPattern(text=text) for text in dict.fromkeys(texts))

    # the rest

    def _bridge(self, bridge: Located, rules: RuleSet, part: dict[str, Located]) -> BridgeSettings:
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
            rule.name
            for rule in rules.rules
            if "https" in rule.ports and (rule.inspects if rule.allow else bool(rule.paths or rule.methods.names))
        ]
        if needing and not slots:
            self._add(
                self._at(part["policy"]),
                "bridge_required",
                f"the rule {needing[0]} needs to see requests",
                "make a CA: robin ca init --out DIR, then slots: {a: DIR}",
            )
        return BridgeSettings(
            slots=dict(slots), sign_with=sign_with, leaf_ttl_s=values["leaf_ttl"], leaf_cache=values["leaf_cache"], ech=values["ech"]
        )

    def _check_slot(self, name: str, folder: Located) -> None:
        path = os.path.join(folder.value, "tls.key")
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            self._add(
                self._at(folder),
                "ca_invalid",
                f"the slot {name} has no readable tls.key: {error.strerror}",
                "robin ca init --out DIR makes one",
            )
            return
        if stat.S_IMODE(mode) & 0o007:
            self._add(
                self._at(folder), "key_mode", "others can read or write the private key tls.key", "chmod 0600 it (0440 and 0640 are fine)"
            )

    def _addresses(self, addresses: Located, listeners: tuple[ListenerSettings, ...], admin: tuple[Address, ...]) -> AddressSettings:
        part: dict[str, Located] = addresses.value
        hosts: dict[str, tuple[str, ...]] = {}
        for name, listed in part["hosts"].value.items():
            try:
                hosts[configured_host(name)] = self._each(listed, _literal, "value_invalid", "write IP addresses")
            except PatternError as error:
                self._add(self._at(listed), error.code, str(error), "write a host name")
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
            hosts=hosts,
            deny=self._each(part["deny"], _network, "value_invalid", "write a network such as 10.0.0.0/8"),
            nat64_prefixes=nat64,
            self_names=self._each(part["self_names"], configured_host, "pattern_invalid", "write host names"),
            unsafe_loopback=frozenset(loopback),
        )

    def _admin(self, listen: Located) -> tuple[Address, ...]:
        addresses: tuple[Address, ...] = listen.value
        if any(isinstance(address, TcpAddress) and not is_loopback(address.host) for address in addresses):
            self._add(self._at(listen), "open_listener", "the admin listener has no authentication", "listen on 127.0.0.1")
        return addresses

    def _audit(self, audit: Located) -> AuditSettings:
        values = audit.plain()
        return AuditSettings(
            file=values.get("file"),
            deny=values["on_failure"] == "deny",
            checkpoint_every=values["checkpoint_every"],
            checkpoint_key_file=values.get("checkpoint_key_file"),
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
    return parse_host_pattern(text, rule=True)


def _wild_domain(text: str) -> bool:
    return text.startswith("spiffe://") and "*" in text[9:].partition("/")[0]


def _overlap(one: HostPattern, other: HostPattern) -> bool:
    """Whether a name may match both; a name that matches one literal stands for it."""
    return one == other or one.matches(other.text.replace("*", "x")) or other.matches(one.text.replace("*", "x"))


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
