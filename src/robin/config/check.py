"""Rules between settings: each names the keys that it checks, runs only when they all parsed, and yields the conflicts with their fixes.

Pure: values in, errors out; nothing is opened, resolved or bound. Also the warnings that a start with these settings deserves.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robin.config.addresses import overlaps, reaches
from robin.config.diagnostic import Position
from robin.config.layers import Layer, ResolvedValue, SettingError
from robin.config.settings import SidecarSettings
from robin.config.table import in_yaml
from robin.model.address import Address, TcpAddress, is_loopback
from robin.model.origin import UpstreamUrl

UNMAPPED_UID = 65534  # /proc/sys/kernel/overflowuid, unless it was changed
_UNSAFE = {
    "listen": "anyone who reaches the listener can use the identity",
    "upstream_http": "the identity may cross the network in clear text",
    "any_host": "the Host, Origin and Sec-Fetch-Site guards are off",
}
LOOPBACK_V6 = TcpAddress(host="::1", port=4000, best_effort=True)


@dataclass(frozen=True, slots=True)
class ParsedSettings:
    """Parsed values by key (None: unset; of the type that the key's parser returns) and where each came from.

    `section` is where the section of robin.yaml begins, None without one.
    """

    values: Mapping[str, Any]
    sources: Mapping[str, ResolvedValue]
    section: Position | None = None

    def explicit(self, key: str) -> bool:
        """True if a layer set it; False for the default."""
        return self.sources[key].layer is not Layer.DEFAULT

    def named(self, key: str) -> str:
        """The key and where it came from, for a message about another key."""
        source = self.sources[key]
        if source.at is not None:
            return f"{in_yaml(key)} ({source.at})"
        return f"{key} (from {source.layer}{f' line {source.line}' if source.line else ''})"

    def error(self, key: str, what: str, fix: str) -> SettingError:
        """An error at `key`."""
        source = self.sources[key]
        where = f"line {source.line}: " if source.line and source.at is None else ""
        return SettingError(key=key, layer=source.layer, what=where + what, fix=fix, at=source.at)

    @property
    def listen(self) -> tuple[Address, ...]:
        """The proxy's listeners: the Unix socket, or the TCP addresses; unset, also IPv6 loopback."""
        uds = self.values["ROBIN_LISTEN_UDS"]
        if uds is not None:
            return (uds,)
        addresses: tuple[Address, ...] = self.values["ROBIN_LISTEN_ADDR"]
        return addresses if self.explicit("ROBIN_LISTEN_ADDR") else (*addresses, LOOPBACK_V6)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule over `keys`."""

    keys: tuple[str, ...]
    judge: Callable[[ParsedSettings], Iterator[SettingError]]


def _upstream_scheme(parsed: ParsedSettings) -> Iterator[SettingError]:
    upstream: UpstreamUrl | None = parsed.values["ROBIN_UPSTREAM_URL"]
    if upstream is None or upstream.origin.tls or parsed.values["ROBIN_UNSAFE_UPSTREAM_HTTP"]:
        return
    if is_loopback(upstream.origin.host) or upstream.origin.host == "localhost":  # the dialer takes only loopback for `localhost`
        return
    fix = "use https, or set ROBIN_UNSAFE_UPSTREAM_HTTP=true to send the identity in clear text"
    yield parsed.error("ROBIN_UPSTREAM_URL", "http to a host that is not loopback", fix)


def _upstream_is_robin(parsed: ParsedSettings) -> Iterator[SettingError]:
    upstream: UpstreamUrl | None = parsed.values["ROBIN_UPSTREAM_URL"]
    admin: tuple[Address, ...] = parsed.values["ROBIN_ADMIN_ADDR"]
    for key, addresses in (("ROBIN_LISTEN_ADDR", parsed.listen), ("ROBIN_ADMIN_ADDR", admin)):
        for address in addresses:
            if upstream is not None and reaches(upstream.origin, address):
                what = f"{upstream.origin} is Robin itself, at {address} of {parsed.named(key)}"
                yield parsed.error("ROBIN_UPSTREAM_URL", what, "name the broker that requests should go to")
                return


def _listen_on_loopback(parsed: ParsedSettings) -> Iterator[SettingError]:
    if parsed.values["ROBIN_UNSAFE_LISTEN"]:
        return
    for address in parsed.listen:
        if isinstance(address, TcpAddress) and not is_loopback(address.host):
            fix = "use 127.0.0.1 or [::1], or set ROBIN_UNSAFE_LISTEN=true to let the network use the identity"
            yield parsed.error("ROBIN_LISTEN_ADDR", f"{address} is not a loopback address", fix)


def _one_kind_of_listener(parsed: ParsedSettings) -> Iterator[SettingError]:
    if parsed.explicit("ROBIN_LISTEN_UDS") and parsed.explicit("ROBIN_LISTEN_ADDR"):
        yield parsed.error("ROBIN_LISTEN_UDS", f"set together with {parsed.named('ROBIN_LISTEN_ADDR')}", "keep one of them")


def _uids_need_a_unix_listener(parsed: ParsedSettings) -> Iterator[SettingError]:
    if parsed.values["ROBIN_PEERCRED_ALLOW_UIDS"] is not None and parsed.values["ROBIN_LISTEN_UDS"] is None:
        fix = "set ROBIN_LISTEN_UDS, or remove the list"
        yield parsed.error("ROBIN_PEERCRED_ALLOW_UIDS", "set without a Unix listener, where alone a caller's UID is known", fix)


def _admin_beside_proxy(parsed: ParsedSettings) -> Iterator[SettingError]:
    admin: tuple[Address, ...] = parsed.values["ROBIN_ADMIN_ADDR"]
    for address in admin:
        if any(overlaps(address, other) for other in parsed.listen):
            yield parsed.error("ROBIN_ADMIN_ADDR", f"{address} is also where the proxy listens", "use another port, path or name")


def _quit_needs_admin(parsed: ParsedSettings) -> Iterator[SettingError]:
    if parsed.values["ROBIN_ADMIN_QUIT"] and not parsed.values["ROBIN_ADMIN_ADDR"]:
        what = f"true without an admin listener, {parsed.named('ROBIN_ADMIN_ADDR')}"
        yield parsed.error("ROBIN_ADMIN_QUIT", what, "set ROBIN_ADMIN_ADDR, or remove it")


_FOR_JWTSVID = "is required for ROBIN_TOKEN_SOURCE=jwtsvid"


def _jwtsvid_needs(parsed: ParsedSettings) -> Iterator[SettingError]:
    source = parsed.values["ROBIN_TOKEN_SOURCE"]
    if source == "jwtsvid" and parsed.values["ROBIN_AUDIENCE"] is None:
        yield SettingError.missing("ROBIN_AUDIENCE", _FOR_JWTSVID, "set it to the audience that the upstream expects")
    if source == "jwtsvid" and parsed.values["ROBIN_SPIFFE_SOCKET"] is None:
        fix = "set it to unix:///path/to/agent.sock, or set SPIFFE_ENDPOINT_SOCKET"
        yield SettingError.missing("ROBIN_SPIFFE_SOCKET", _FOR_JWTSVID, fix)


def _opaque_excludes(parsed: ParsedSettings) -> Iterator[SettingError]:
    source, shape = parsed.values["ROBIN_TOKEN_SOURCE"], parsed.values["ROBIN_TOKEN_FORMAT"]
    if shape == "opaque" and source != "file":
        fix = "use ROBIN_TOKEN_FORMAT=jwt, or ROBIN_TOKEN_SOURCE=file"
        yield parsed.error("ROBIN_TOKEN_FORMAT", f"opaque with {parsed.named('ROBIN_TOKEN_SOURCE')} jwtsvid, which is a JWT", fix)
    if shape == "opaque" and parsed.values["ROBIN_AUDIENCE"] is not None:
        fix = "unset ROBIN_AUDIENCE, or use ROBIN_TOKEN_FORMAT=jwt"
        yield parsed.error("ROBIN_TOKEN_FORMAT", f"opaque with {parsed.named('ROBIN_AUDIENCE')}, which could not be checked", fix)


def _drain_order(parsed: ParsedSettings) -> Iterator[SettingError]:
    if parsed.values["ROBIN_DRAIN_MAX"] < parsed.values["ROBIN_DRAIN_MIN"]:
        fix = "make ROBIN_DRAIN_MAX at least as long as ROBIN_DRAIN_MIN"
        yield parsed.error("ROBIN_DRAIN_MAX", f"shorter than {parsed.named('ROBIN_DRAIN_MIN')}", fix)


_LISTENING = ("ROBIN_LISTEN_ADDR", "ROBIN_LISTEN_UDS")

RULES: tuple[Rule, ...] = (
    Rule(("ROBIN_UPSTREAM_URL", "ROBIN_UNSAFE_UPSTREAM_HTTP"), _upstream_scheme),
    Rule(("ROBIN_UPSTREAM_URL", "ROBIN_ADMIN_ADDR", *_LISTENING), _upstream_is_robin),
    Rule(("ROBIN_TOKEN_SOURCE", "ROBIN_AUDIENCE", "ROBIN_SPIFFE_SOCKET"), _jwtsvid_needs),
    Rule(("ROBIN_TOKEN_SOURCE", "ROBIN_TOKEN_FORMAT", "ROBIN_AUDIENCE"), _opaque_excludes),
    Rule((*_LISTENING, "ROBIN_UNSAFE_LISTEN"), _listen_on_loopback),
    Rule(_LISTENING, _one_kind_of_listener),
    Rule(("ROBIN_PEERCRED_ALLOW_UIDS", "ROBIN_LISTEN_UDS"), _uids_need_a_unix_listener),
    Rule(("ROBIN_ADMIN_ADDR", *_LISTENING), _admin_beside_proxy),
    Rule(("ROBIN_ADMIN_QUIT", "ROBIN_ADMIN_ADDR"), _quit_needs_admin),
    Rule(("ROBIN_DRAIN_MIN", "ROBIN_DRAIN_MAX"), _drain_order),
)


def check(parsed: ParsedSettings) -> Iterator[SettingError]:
    """Every conflict between settings that parsed."""
    for rule in RULES:
        if all(key in parsed.values for key in rule.keys):
            for error in rule.judge(parsed):
                yield error if error.at is not None or error.layer is not Layer.DEFAULT else replace(error, at=_place(parsed, rule))


def _place(parsed: ParsedSettings, rule: Rule) -> Position | None:
    """Where robin.yaml takes part in an error about what it leaves out: at the first key of the rule that it has, or else its section."""
    return next((at for key in rule.keys if (at := parsed.sources[key].at) is not None), parsed.section)


def warnings(settings: SidecarSettings) -> tuple[tuple[str, dict[str, str]], ...]:
    """What a start with these settings warns of, as events of the log with their fields; `detail` is a sentence for people."""
    found: list[tuple[str, dict[str, str]]] = [
        ("unsafe", {"switch": switch, "detail": f"ROBIN_UNSAFE_{switch.upper()} is on: {_UNSAFE[switch]}"})
        for switch in settings.unsafe.names
    ]
    if settings.listeners.on_unix_socket and settings.listeners.allow_uids is None:
        what = "ROBIN_PEERCRED_ALLOW_UIDS is unset: any local peer that the socket's mode admits can use the identity"
        found.append(("any_local_peer", {"detail": what}))
    if UNMAPPED_UID in (settings.listeners.allow_uids or ()):
        what = f"ROBIN_PEERCRED_ALLOW_UIDS lists {UNMAPPED_UID}: in a user namespace every UID without a mapping appears as it"
        found.append(("unmapped_uids_listed", {"detail": what}))
    return tuple(found)
