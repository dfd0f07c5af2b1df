"""One provider profile file -> a Profile, and what is wrong with it or has no effect; nothing of it depends on the provider that uses it.

What Robin cannot enforce never widens: an allow rule that it cannot judge is dropped, a deny rule that it cannot judge closes the endpoint.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeVar, cast

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import shown
from robin.config.profile_schema import PROFILE, TOKEN_GRANT_LATER
from robin.config.yaml_reader import Located, read_yaml
from robin.grants.settings import JWT_BEARER, Strictness
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
from robin.wire.fields import is_token

P = TypeVar("P")

FILE_BYTES_MAX: Final = 256 * 1024
_ID: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PREFIX: Final = re.compile(r"[ -~]{0,32}")
_URN: Final = re.compile(r"urn:[!-~]{1,256}")
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749 appendix A.4
_PLAIN: Final = re.compile(r"[ -~]{1,2048}")
_UNWRITABLE: Final = re.compile(r"host|content-length|transfer-encoding|connection|te|trailer|upgrade|keep-alive|proxy-.*|via|expect")
_ACCESS: Final = {
    "read-only": Methods(names=frozenset({"GET", "HEAD", "OPTIONS"})),
    "read-write": Methods(names=frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"})),
    "full": ANY_METHOD,
    "": ANY_METHOD,
}
_CLOSED_PROTOCOLS: Final = frozenset({"graphql", "mcp", "json-rpc", "sql", "tcp"})
_RESERVED_PARAMETERS: Final = frozenset(
    "grant_type client_assertion_type client_assertion client_id client_secret audience resource scope assertion subject_token "
    "subject_token_type actor_token actor_token_type requested_token_type".split()
)
KINDS: Final = ("client_credentials", "forward")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another audience for a part of the endpoints. `port` None, any path and any method stand for those of the endpoint."""

    at: Position
    host: HostPattern
    port: int | None
    path: PathPattern
    methods: Methods
    audience: str
    scopes: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """How a credential is obtained. `cap_s`: the longest usable time, infinity for none."""

    at: Position
    endpoint_at: Position
    kind: str
    token_endpoint: str
    issuer: str
    audience: str
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    jwt_svid_audience: str
    assertion_type: str
    client_auth: Literal["identity", "none"]
    client_id: str
    extra: tuple[tuple[str, str], ...]
    cap_s: float
    check_scope: Strictness
    check_audience: Strictness
    overrides: tuple[Override, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCredential:
    """One credential. `grant` None: it is inactive unless the provider names a file for it; `inactive` says why."""

    at: Position
    name: str
    required: bool
    header: str
    prefix: str
    style: str
    grant: TokenGrant | None
    inactive: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A profile file that can be used."""

    at: Position
    id: str
    credentials: tuple[ProfileCredential, ...]
    endpoints: tuple[ProfileEndpoint, ...]


def read_profile(content: bytes, name: str) -> tuple[Profile | None, tuple[Diagnostic, ...]]:
    """The profile, None where an error is among the diagnostics; `name` is the file in them."""
    if len(content) > FILE_BYTES_MAX:
        start = Position(file=name, line=1, col=1)
        fix = "split it, or remove what does not belong in it"
        return None, (Diagnostic(at=start, code="profile_too_large", message="the file is larger than 256 KiB", fix=fix),)
    root, found = read_yaml(content, name, PROFILE)
    findings = Findings([replace(one, code="profile_unknown_key") if one.code == "unknown_key" else one for one in found])
    if root is None or findings.failed:
        return None, findings.ordered()
    profile = _Reader(findings).read(root)
    return (None if findings.failed else profile), findings.ordered()


class Findings:
    """Errors and warnings, in the order in which they were found."""

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        self._found = list(found)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(one.severity == "error" for one in self._found)

    def error(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note an error."""
        self._found.append(Diagnostic(at=at, code=code, message=message, fix=fix))

    def warn(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note a warning."""
        self._found.append(Diagnostic(at=at, code=code, message=message, fix=fix, severity="warning"))

    def extend(self, found: Iterable[Diagnostic]) -> None:
        """Note what was found elsewhere."""
        self._found += found

    def ordered(self) -> tuple[Diagnostic, ...]:
        """All of them by position."""
        return tuple(sorted(self._found, key=lambda one: one.at))


class _Keys:
    """The keys of one mapping: values as the schema left them, and where they stand."""

    __slots__ = ("_located", "at")

    def __init__(self, located: Located, parent: Position) -> None:
        self._located: dict[str, Located] = located.value
        self.at = located.at or parent

    def text(self, name: str) -> str:
        return cast("str", self._located[name].value)

    def flag(self, name: str) -> bool:
        return cast("bool", self._located[name].value)

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(cast("str", item.value) for item in self._located[name].value)

    def number(self, name: str) -> float | None:
        return cast("float", self._located[name].value) if name in self._located else None

    def items(self, name: str) -> tuple["_Keys", ...]:
        return tuple(_Keys(item, self.at) for item in self._located[name].value)

    def inner(self, name: str) -> "_Keys | None":
        """A mapping, None where it is left out."""
        found = self._located.get(name)
        return None if found is None or found.at is None else _Keys(found, self.at)

    def has(self, name: str) -> bool:
        found = self._located.get(name)
        return found is not None and found.at is not None

    def place(self, name: str) -> Position:
        found = self._located.get(name)
        return self.at if found is None or found.at is None else found.at

    def words(self) -> dict[str, Located]:
        """All of a mapping with free names."""
        return self._located


class _Reader:
    """Judges one profile; notes everything that is wrong in one run."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def read(self, root: Located) -> Profile:
        assert root.at is not None
        keys = _Keys(root, root.at)
        error, warn = self._findings.error, self._findings.warn
        if _ID.fullmatch(keys.text("id")) is None:
            error(keys.place("id"), "profile_id_invalid", "the id is not lower-case words with hyphens", "write it such as my-provider")
        if keys.has("binaries"):
            text = "`binaries` has no effect: an egress gateway does not see executables"
            warn(keys.place("binaries"), "binaries_not_enforced", text, "limit `callers` of the provider instead")
        credentials, seen = [], set()
        for item in keys.items("credentials"):
            name = item.text("name")
            if name in seen:
                error(item.place("name"), "value_invalid", f"two credentials have the name {shown(name)}", "give each its own name")
            seen.add(name)
            credentials.append(self._credential(item))
        endpoints = tuple(filter(None, (self._endpoint(item) for item in keys.items("endpoints"))))
        return Profile(at=keys.at, id=keys.text("id"), credentials=tuple(credentials), endpoints=endpoints)

    # credentials

    def _credential(self, keys: _Keys) -> ProfileCredential:
        grant_keys = keys.inner("token_grant")
        style, header, prefix = keys.text("auth_style") or "bearer", keys.text("header_name"), keys.text("header_prefix")
        inactive = "" if grant_keys is not None else "it has no token_grant"
        if keys.has("placeholder"):
            self._later(keys.place("placeholder"), "placeholder")
        if style not in ("bearer", "header"):
            if style not in ("basic", "query", "path"):
                fix = "use bearer or header"
                self._findings.error(keys.place("auth_style"), "value_invalid", f"auth_style {shown(style)} is not one of its values", fix)
            elif grant_keys is not None:
                text = f"a granted token is never written as {style}"
                self._findings.error(keys.place("auth_style"), "grant_auth_style_invalid", text, "use auth_style: bearer or header")
            inactive = f"auth_style {style} is not supported"
        if style == "header" and not header:
            self._findings.error(keys.at, "grant_header_invalid", "auth_style header needs a header_name", "add header_name")
        header = header or "Authorization"
        if not is_token(header.encode("ascii", "replace")) or _UNWRITABLE.fullmatch(header.lower()):
            text = f"{shown(header)} is not a field that a credential can be written to"
            self._findings.error(keys.place("header_name"), "grant_header_invalid", text, "name a field such as Authorization or X-Api-Key")
        if prefix and (style != "header" or _PREFIX.fullmatch(prefix) is None):
            fix = "use it with auth_style: header, with at most 32 visible characters or spaces"
            self._findings.error(keys.place("header_prefix"), "value_invalid", "header_prefix cannot be used so", fix)
        refresh = keys.inner("refresh")
        if refresh is not None and refresh.text("strategy") not in ("static", "external"):
            text = f"the refresh strategy {shown(refresh.text('strategy'))} keeps long-lived secrets, and is not supported"
            self._findings.warn(refresh.at, "refresh_not_supported", text, "use token_grant, or a file that something else renews")
            inactive = inactive or "its refresh strategy is not supported"
        grant = None if grant_keys is None else self._grant(grant_keys)
        before = "Bearer " if style == "bearer" else prefix
        return ProfileCredential(
            at=keys.at,
            name=keys.text("name"),
            required=keys.flag("required"),
            header=header,
            prefix=before,
            style=style,
            grant=grant,
            inactive=inactive,
        )

    def _grant(self, keys: _Keys) -> TokenGrant | None:
        kind = keys.text("grant_type")
        if kind not in KINDS:
            self._later(keys.place("grant_type"), f"grant_type {shown(kind)}")
        for name in TOKEN_GRANT_LATER:
            if keys.has(name):
                self._later(keys.place(name), name)
        auth = keys.text("client_auth")
        if auth not in ("identity", "none"):
            self._later(keys.place("client_auth"), f"client_auth {shown(auth)}")
        endpoint = keys.text("token_endpoint")
        if kind == "client_credentials" and not endpoint:
            self._findings.error(
                keys.at, "token_endpoint_invalid", "token_endpoint is required", "add the URL of the issuer's token endpoint"
            )
        return TokenGrant(
            at=keys.at,
            endpoint_at=keys.place("token_endpoint"),
            kind=kind,
            token_endpoint=endpoint,
            issuer=self._plain(keys, "issuer"),
            audience=self._plain(keys, "audience"),
            scopes=self._scopes(keys),
            resources=self._resources(keys),
            jwt_svid_audience=self._plain(keys, "jwt_svid_audience"),
            assertion_type=self._assertion_type(keys),
            client_auth=cast("Literal['identity', 'none']", auth),
            client_id=self._plain(keys, "client_id"),
            extra=self._extra(keys),
            cap_s=self._cap_s(keys),
            check_scope=self._strictness(keys, "check_scope"),
            check_audience=self._strictness(keys, "check_audience"),
            overrides=tuple(filter(None, (self._override(item) for item in keys.items("audience_overrides")))),
        )

    def _later(self, at: Position, what: str) -> None:
        self._findings.error(at, "not_supported", f"{what} is not built yet", "remove it, or use what the reference lists")

    def _plain(self, keys: _Keys, name: str) -> str:
        text = keys.text(name)
        if text and _PLAIN.fullmatch(text) is None:
            self._findings.error(keys.place(name), "value_invalid", f"{name} is not printable ASCII", "write it as the issuer does")
        return text

    def _scopes(self, keys: _Keys) -> tuple[str, ...]:
        scopes = keys.texts("scopes")
        if not all(map(_SCOPE.fullmatch, scopes)):
            self._findings.error(
                keys.place("scopes"), "value_invalid", "a scope holds a space or another invalid character", "list each alone"
            )
        return scopes

    def _resources(self, keys: _Keys) -> tuple[str, ...]:
        resources = keys.texts("resource")
        for resource in resources:
            if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", resource) is None or "#" in resource:
                self._findings.error(
                    keys.place("resource"), "value_invalid", "a resource is not an absolute URI", "write it with its scheme"
                )
        return resources

    def _assertion_type(self, keys: _Keys) -> str:
        text = keys.text("client_assertion_type").strip() or JWT_BEARER
        if _URN.fullmatch(text) is None:
            fix = "use urn:ietf:params:oauth:client-assertion-type:jwt-bearer or ...:jwt-spiffe"
            self._findings.error(keys.place("client_assertion_type"), "value_invalid", "client_assertion_type is not a URN", fix)
        return text

    def _extra(self, keys: _Keys) -> tuple[tuple[str, str], ...]:
        inner = keys.inner("extra_params")
        if inner is None:
            return ()
        for name in inner.words():
            if name in _RESERVED_PARAMETERS:
                self._findings.error(inner.place(name), "extra_param_reserved", f"{name} is a parameter of the grant itself", "remove it")
        return tuple((name, str(value.value)) for name, value in inner.words().items())

    def _cap_s(self, keys: _Keys) -> float:
        seconds, duration = keys.number("cache_ttl_seconds"), keys.number("cache_ttl")
        if keys.has("cache_ttl_seconds") and keys.has("cache_ttl"):
            text = "cache_ttl_seconds and cache_ttl are both given"
            self._findings.error(keys.place("cache_ttl"), "value_invalid", text, "keep one of them")
        if duration is not None:
            return duration
        return seconds or math.inf

    def _strictness(self, keys: _Keys, name: str) -> Strictness:
        text = keys.text(name)
        if text not in ("warn", "require", "off"):
            self._findings.error(keys.place(name), "value_invalid", f"{shown(text)} is not one of its values", "use warn, require or off")
        return cast("Strictness", text)

    def _override(self, keys: _Keys) -> Override | None:
        host, path, methods = self._host(keys), self._path(keys), self._methods(keys)
        if host is None or path is None or methods is None:
            return None
        port = keys.number("port")
        return Override(
            at=keys.at,
            host=host,
            port=None if port is None else int(port),
            path=path,
            methods=methods,
            audience=self._plain(keys, "audience"),
            scopes=self._scopes(keys),
            resources=self._resources(keys),
        )

    # endpoints

    def _endpoint(self, keys: _Keys) -> ProfileEndpoint | None:
        host, path, methods = self._host(keys), self._path(keys), self._methods(keys)
        tls = keys.text("tls")
        if tls not in ("", "terminate", "none", "skip"):
            fix = "use terminate, none or skip"
            self._findings.error(keys.place("tls"), "value_invalid", f"tls {shown(tls)} is not one of its values", fix)
        tunnel = tls == "skip"
        if tunnel and not keys.flag("allow_uninspected_credentials"):
            text = "with tls: skip Robin does not see requests, and can write no credential"
            self._findings.error(keys.place("tls"), "endpoint_uninspected", text, "remove it, or add allow_uninspected_credentials: true")
        if keys.text("credential_signing"):
            text = "requests are signed with an AWS credential, and the profile has none"
            self._findings.error(keys.place("credential_signing"), "signing_kind_mismatch", text, "remove it")
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
        )

    def _host(self, keys: _Keys) -> HostPattern | None:
        return self._pattern(keys, "host", lambda: parse_host_pattern(keys.text("host")))

    def _path(self, keys: _Keys) -> PathPattern | None:
        return self._pattern(keys, "path", lambda: parse_path_pattern(keys.text("path")))

    def _methods(self, keys: _Keys) -> Methods | None:
        return self._pattern(keys, "methods", lambda: parse_methods(keys.texts("methods")))

    def _pattern(self, keys: _Keys, name: str, parse: Callable[[], P]) -> P | None:
        try:
            return parse()
        except PatternError as error:
            self._findings.error(keys.place(name), error.code, f"{name}: {error}", "correct the pattern")
            return None

    def _networks(self, keys: _Keys) -> tuple[str, ...]:
        found = []
        for text in keys.texts("allowed_ips"):
            try:
                found.append(str(ipaddress.ip_network(text)))
            except ValueError:
                fix = "write it such as 10.43.0.0/16"
                self._findings.error(keys.place("allowed_ips"), "value_invalid", f"{shown(text)} is not a network", fix)
        return tuple(found)

    def _rules(self, keys: _Keys) -> EndpointRules:
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

    def _allow_rules(self, keys: _Keys) -> tuple[AllowRule, ...]:
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

    def _deny_rules(self, keys: _Keys) -> tuple[tuple[DenyRule, ...], str]:
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


def _parse_method(words: dict[str, Located]) -> Methods | None:
    text = words["method"].text if "method" in words else "*"
    try:
        return parse_methods([text.upper()])
    except PatternError:
        return None


def _parse_allow(words: dict[str, Located]) -> AllowRule | None:
    methods = _parse_method(words)
    try:
        path = parse_path_pattern(words["path"].text if "path" in words else "")
    except PatternError:
        return None
    return None if methods is None else AllowRule(methods=methods, path=path)
