"""The endpoints of a profile: where its credential belongs, and what of the requests there is allowed.

What Robin cannot enforce never widens: an allow rule that it cannot judge is dropped, a deny rule that it cannot judge closes the endpoint.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from robin.config.diagnostic import Position
from robin.config.parse import shown
from robin.config.profile_keys import Findings, Keys
from robin.config.public_suffixes import is_shared
from robin.policy.patterns import (
    ANY_METHOD,
    HostPattern,
    Methods,
    PathPattern,
    PatternError,
    parse_host_pattern,
    parse_methods,
    parse_path_pattern,
)
from robin.policy.select import AllowRule, DenyRule, EndpointRules
from robin.policy.signing import SIGNING_MODES

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located

P = TypeVar("P")

_SIGNING_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")

_ACCESS: Final = {
    "read-only": Methods(names=frozenset({"GET", "HEAD", "OPTIONS"})),
    "read-write": Methods(names=frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"})),
    "full": ANY_METHOD,
    "": ANY_METHOD,
}
_CLOSED_PROTOCOLS: Final = frozenset({"graphql", "mcp", "json-rpc", "sql", "tcp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSigning:
    """How an endpoint wants its requests signed, as its keys say; "" where one is left out."""

    at: Position
    mode: str
    service: str
    region: str

    @property
    def given(self) -> bool:
        """Whether any of the keys is there."""
        return bool(self.mode or self.service or self.region)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileEndpoint:
    """One endpoint. `tunnel`: Robin never sees its requests, so it gets no credential."""

    at: Position
    host: HostPattern
    ports: tuple[int, ...]
    path: PathPattern
    methods: Methods
    scheme: str
    tls: str
    rules: EndpointRules
    allowed_ips: tuple[str, ...]
    tunnel: bool = False
    signing: EndpointSigning


class EndpointReader:
    """Judges endpoints, and the patterns of overrides; notes everything that is wrong."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def read(self, keys: Keys) -> ProfileEndpoint | None:
        """One endpoint, None where its patterns are none."""
        host, path, methods = self.host(keys), self.path(keys), self.methods(keys)
        tls = keys.text("tls")
        if tls not in ("", "terminate", "none", "skip"):
            fix = "use terminate, none or skip"
            self._findings.error(keys.place("tls"), "value_invalid", f"tls {shown(tls)} is not one of its values", fix)
        tunnel = tls == "skip"
        if tunnel and not keys.flag("allow_uninspected_credentials"):
            text = "with tls: skip Robin does not see requests, and can write no credential"
            self._findings.error(keys.place("tls"), "endpoint_uninspected", text, "remove it, or add allow_uninspected_credentials: true")
        if host is None or path is None or methods is None:
            return None
        port = keys.number("port")
        listed = [int(item.value) for item in keys.words()["ports"].value] + ([] if port is None else [int(port)])
        return ProfileEndpoint(
            at=keys.place("host"),
            host=host,
            ports=tuple(sorted(set(listed))) or ((80,) if tls == "none" else (443,)),
            path=path,
            methods=methods,
            scheme="http" if tls == "none" else "https",
            tls=tls,
            rules=self._rules(keys),
            allowed_ips=self._networks(keys),
            tunnel=tunnel,
            signing=self._signing(keys),
        )

    def _signing(self, keys: Keys) -> EndpointSigning:
        mode, service, region = (keys.text(name) for name in ("credential_signing", "signing_service", "signing_region"))
        if mode and mode not in SIGNING_MODES:
            text = f"credential_signing {shown(mode)} is not one of its values"
            self._findings.error(keys.place("credential_signing"), "value_invalid", text, f"use {', '.join(SIGNING_MODES)}")
        for name, value in (("signing_service", service), ("signing_region", region)):
            if value and _SIGNING_NAME.fullmatch(value) is None:
                text = f"{name} is not lower-case letters, digits and hyphens"
                self._findings.error(keys.place(name), "value_invalid", text, "write it as AWS does, such as s3 or eu-west-1")
        names = ("credential_signing", "signing_service", "signing_region")
        at = next((keys.place(name) for name in names if keys.text(name)), keys.at)
        return EndpointSigning(at=at, mode=mode, service=service, region=region)

    def host(self, keys: Keys) -> HostPattern | None:
        """Its host."""
        return self._pattern(keys, "host", lambda: parse_host_pattern(keys.text("host"), is_shared=is_shared))

    def path(self, keys: Keys) -> PathPattern | None:
        """Its path."""
        return self._pattern(keys, "path", lambda: parse_path_pattern(keys.text("path")))

    def methods(self, keys: Keys) -> Methods | None:
        """Its methods."""
        return self._pattern(keys, "methods", lambda: parse_methods(keys.texts("methods")))

    def _pattern(self, keys: Keys, name: str, parse: Callable[[], P]) -> P | None:
        try:
            return parse()
        except PatternError as error:
            self._findings.error(keys.place(name), error.code, f"{name}: {error}", "correct the pattern")
            return None

    def _networks(self, keys: Keys) -> tuple[str, ...]:
        found = []
        for text in keys.texts("allowed_ips"):
            try:
                found.append(str(ipaddress.ip_network(text)))
            except ValueError:
                fix = "write it such as 10.43.0.0/16"
                self._findings.error(keys.place("allowed_ips"), "value_invalid", f"{shown(text)} is not a network", fix)
        return tuple(found)

    def _rules(self, keys: Keys) -> EndpointRules:
        access, protocol = keys.text("access"), keys.text("protocol")
        if access not in _ACCESS:
            fix = "use read-only, read-write or full"
            self._findings.error(keys.place("access"), "value_invalid", f"access {shown(access)} is not one of its values", fix)
        if access and keys.has("rules"):
            self._findings.error(keys.place("rules"), "value_invalid", "`access` and `rules` exclude each other", "keep one of them")
        if protocol not in ("", "rest", "websocket", *_CLOSED_PROTOCOLS):
            fix = f"use rest, websocket, {', '.join(sorted(_CLOSED_PROTOCOLS))}"
            self._findings.error(keys.place("protocol"), "value_invalid", f"protocol {shown(protocol)} is not one of its values", fix)
        closed = ""
        if protocol in ("sql", "tcp") or (protocol in _CLOSED_PROTOCOLS and access != "full"):
            closed = self._close(keys.place("protocol"), f"what it allows of {protocol} cannot be judged")
        for name in ("request_body_credential_rewrite", "websocket_credential_rewrite"):
            if keys.flag(name):
                closed = self._close(keys.place(name), "credentials are written into header fields only")
        enforcement = keys.text("enforcement")
        if enforcement not in ("", "enforce"):
            text = f"enforcement {shown(enforcement)} is treated as enforce"
            self._findings.warn(keys.place("enforcement"), "enforcement_treated_as_enforce", text, "write enforcement: enforce")
        allow = self._allow_rules(keys) if keys.has("rules") else None
        deny, cannot = self._deny_rules(keys)
        return EndpointRules(
            closed=closed or cannot,
            access=_ACCESS.get(access, ANY_METHOD),
            allow=allow,
            deny=deny,
            upgrade_only=protocol == "websocket",
            allow_encoded_slash=keys.flag("allow_encoded_slash"),
        )

    def _close(self, at: Position, why: str) -> str:
        self._findings.warn(at, "endpoint_closed", f"the endpoint is closed: {why}", "limit it by methods and paths, with protocol: rest")
        return why

    def _allow_rules(self, keys: Keys) -> tuple[AllowRule, ...]:
        rules = []
        for item in keys.items("rules"):
            allow = item.inner("allow")
            assert allow is not None
            words = allow.words()
            rule = None if set(words) - {"method", "path"} else _parse_allow(words)
            if rule is None:
                text = "this allow rule is dropped: Robin cannot judge all of it"
                self._findings.warn(allow.at, "rule_dropped", text, "use `method` and `path` only")
            else:
                rules.append(rule)
        return tuple(rules)

    def _deny_rules(self, keys: Keys) -> tuple[tuple[DenyRule, ...], str]:
        rules, cannot = [], ""
        for item in keys.items("deny_rules"):
            words = item.words()
            path = words["path"].text if "path" in words else ""
            methods = _parse_method(words)
            if set(words) - {"method", "path"} or methods is None or re.search(r"[?\[\]{}]", path) or (path and path[:1] not in "/*"):
                cannot = self._close(item.at, "one of its deny rules cannot be judged")
            else:
                rules.append(DenyRule(methods=methods, path="" if path in ("**", "/**") else path))
        return tuple(rules), cannot


def _parse_method(words: "dict[str, Located]") -> Methods | None:
    text = words["method"].text if "method" in words else "*"
    try:
        return parse_methods([text.upper()])
    except PatternError:
        return None


def _parse_allow(words: "dict[str, Located]") -> AllowRule | None:
    methods = _parse_method(words)
    try:
        path = parse_path_pattern(words["path"].text if "path" in words else "")
    except PatternError:
        return None
    return None if methods is None else AllowRule(methods=methods, path=path)
