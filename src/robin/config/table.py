"""The one table of settings: flags, environment, files, JSON Schema, `robin check`, `robin --help` and the reference page come from it.

A row declares a setting once: its variable, its place in `robin.yaml` and in SidecarSettings, its kind and bounds (which parse it), its
default as text, one line of help and what it means. No kind holds a secret. No variable has the shape of a Kubernetes service link.
"""

import re
from dataclasses import dataclass

from robin.config import addresses, names, parse
from robin.config.parse import Kind
from robin.wire.forwarding import DEFAULT_STRIP

PREFIX = "ROBIN_"
_UNITS = {"duration": "_s", "size": "_bytes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `default` is text for its own parser, None: unset. `help` fits on one line; `meaning` is for the reference page.

    `path` is `group.name` in the section `sidecar` of robin.yaml; empty: it cannot be set there.
    `only_source`: the one value of ROBIN_TOKEN_SOURCE with which it has an effect; empty: with any.
    """

    key: str
    path: str
    kind: Kind
    default: str | None
    help: str
    meaning: str
    required: bool = False
    only_source: str = ""

    @property
    def flag(self) -> str:
        """Kebab-case without the prefix."""
        return "--" + self.key.removeprefix(PREFIX).lower().replace("_", "-")

    @property
    def group(self) -> str:
        """The part of the settings that it belongs to."""
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        """Its name within the group, in robin.yaml."""
        return self.path.partition(".")[2]

    @property
    def field(self) -> str:
        """The field of its part that it builds: its name with the unit of the value."""
        return self.name + _UNITS.get(self.kind.name, "")

    @property
    def choices(self) -> str:
        """`{a,b}` where only these words are values; else empty."""
        return "{" + ",".join(self.kind.bounds.split()) + "}" if self.kind.name == "choice" else ""

    @property
    def default_text(self) -> str:
        """The default as people read it."""
        if self.required:
            return "required"
        return "unset" if self.default is None else self.default


def _row(
    key: str,
    path: str,
    kind: Kind,
    default: str | None,
    help_line: str,
    meaning: str = "",
    *,
    required: bool = False,
    only_source: str = "",
) -> Setting:
    return Setting(
        key=PREFIX + key, path=path, kind=kind, default=default, help=help_line, meaning=meaning, required=required, only_source=only_source
    )


_UPSTREAM = (
    _row(
        "UPSTREAM_URL",
        "upstream.url",
        addresses.UPSTREAM,
        None,
        "where requests go, with an optional base path",
        "No userinfo, query, fragment or dot segment. `http:` only to loopback, unless `ROBIN_UNSAFE_UPSTREAM_HTTP`. "
        "Never Robin's own address.",
        required=True,
    ),
    _row(
        "UPSTREAM_CA_FILE",
        "upstream.ca_file",
        parse.PATH,
        None,
        "PEM bundle that replaces the system roots",
        "Concatenate bundles to add to the system roots. Re-read on change and on SIGHUP; a broken file keeps the last good one.",
    ),
    _row(
        "UPSTREAM_MAX_CONNECTIONS", "limits.upstream_connections", parse.integer("1", "65536"), "256", "connections to the upstream at most"
    ),
    _row(
        "UPSTREAM_QUEUE_TIMEOUT",
        "timeouts.queue",
        parse.duration("0s"),
        "5s",
        "longest wait for a free connection",
        "Then 503 `limit_connections`. `0`: refuse at once.",
    ),
    _row(
        "UPSTREAM_CONNECT_TIMEOUT",
        "timeouts.connect",
        parse.duration("1ms"),
        "10s",
        "name lookup, TCP and TLS together",
        "Then 504 `connect_timeout`.",
    ),
    _row(
        "UPSTREAM_RESPONSE_TIMEOUT",
        "timeouts.response",
        parse.duration("0s"),
        "15m",
        "request sent to final response head; 0: none",
        "Then 504 `response_timeout`. Long, since calls to models are slow.",
    ),
    _row(
        "UPSTREAM_IDLE_TIMEOUT",
        "timeouts.upstream_idle",
        parse.duration("1ms", or_auto=True),
        "auto",
        "how long an idle upstream connection is kept",
        "`auto`: what the upstream announces (`Keep-Alive: timeout=N`) less 1 s, within 1 s to 60 s, else 4 s.",
    ),
)

_IDENTITY = (
    _row("TOKEN_SOURCE", "identity.source", parse.choice("file", "jwtsvid"), "file", "where the identity comes from"),
    _row(
        "TOKEN_FILE",
        "identity.token_file",
        parse.ABSOLUTE_PATH,
        "/var/run/secrets/tokens/token",
        "the token file, for source file",
        "A projected Kubernetes service-account token, or any file that something else rotates.",
        only_source="file",
    ),
    _row(
        "TOKEN_FORMAT",
        "identity.token_format",
        parse.choice("jwt", "opaque"),
        "jwt",
        "opaque: no decoding, no expiry or audience check",
        "`opaque` only with source `file` and without `ROBIN_AUDIENCE`.",
    ),
    _row(
        "TOKEN_MIN_VALIDITY",
        "identity.min_validity",
        parse.duration("0s", "60s"),
        "5s",
        "never inject a token with less life left",
        "For flight time and clock skew; at most a tenth of the token's observed lifetime is held back.",
    ),
    _row(
        "TOKEN_FILE_GRACE",
        "identity.grace",
        parse.duration("0s"),
        "10s",
        "use the last good token this long after a failed read",
        "Source `file` only, for writers that are not atomic. `0`: 503 at once.",
        only_source="file",
    ),
    _row(
        "AUDIENCE",
        "identity.audience",
        parse.TEXT,
        None,
        "the one audience of the identity",
        "Verbatim, never split. Required for `jwtsvid`; for `file`, when set, the token's `aud` must contain it.",
    ),
    _row(
        "IDENTITY_WAIT",
        "identity.wait",
        parse.duration("0s", "30s"),
        "2s",
        "longest wait of one request for a token, for source jwtsvid",
        "Then 503; the upstream is not contacted. A file is not waited for: it is read at once, in three tries at most.",
        only_source="jwtsvid",
    ),
    _row(
        "SPIFFE_SOCKET",
        "identity.spiffe_socket",
        addresses.ENDPOINT,
        None,
        "Workload API endpoint, for source jwtsvid",
        "When unset, `SPIFFE_ENDPOINT_SOCKET` of the environment counts; there is no built-in path.",
        only_source="jwtsvid",
    ),
    _row(
        "SPIFFE_ID",
        "identity.spiffe_id",
        names.SPIFFE_ID,
        None,
        "which identity to use of several",
        "Source `jwtsvid` only. With `ROBIN_SVID_HINT` set too, both must match.",
        only_source="jwtsvid",
    ),
    _row(
        "SVID_HINT",
        "identity.hint",
        parse.TEXT,
        None,
        "hint of the identity to use",
        "Source `jwtsvid` only. With `ROBIN_SPIFFE_ID` set too, both must match.",
        only_source="jwtsvid",
    ),
    _row(
        "SVID_REFRESH_BEFORE",
        "identity.refresh_before",
        parse.duration("1ms"),
        "60s",
        "refresh this long before expiry",
        "Source `jwtsvid` only. Clamped to half the life that the token had left when it was received.",
        only_source="jwtsvid",
    ),
    _row(
        "SVID_FETCH_TIMEOUT",
        "identity.fetch_timeout",
        parse.duration("1s", "60s"),
        "10s",
        "deadline of one Workload API call",
        "Source `jwtsvid` only.",
        only_source="jwtsvid",
    ),
    _row(
        "SVID_ON_DENIED",
        "identity.on_denied",
        parse.choice("serve", "stop"),
        "serve",
        "on PermissionDenied: serve the cached token, or stop",
        "Source `jwtsvid` only. `serve` uses it to its end; `stop` forgets it at once (strict revocation).",
        only_source="jwtsvid",
    ),
)

_LISTENERS = (
    _row(
        "LISTEN_ADDR",
        "listeners.proxy",
        addresses.LISTEN,
        "127.0.0.1:4000",
        "where the application connects",
        "A list. `localhost:port` is both families. Unset: `[::1]:4000` as well, where there is IPv6. "
        "Loopback only, unless `ROBIN_UNSAFE_LISTEN`. "
        "Port 0: the kernel chooses one, and the `listening` log line has it.",
    ),
    _row(
        "LISTEN_UDS",
        "listeners.unix_socket",
        addresses.LISTEN_UDS,
        None,
        "Unix socket instead of TCP, callers known by UID",
        "Replaces TCP; setting `ROBIN_LISTEN_ADDR` too is an error. No abstract `@` sockets.",
    ),
    _row(
        "UDS_MODE",
        "listeners.unix_mode",
        parse.MODE,
        "auto",
        "mode of the Unix socket",
        "`auto`: `0600`, or `0666` with a UID list, which then decides who may connect.",
    ),
    _row(
        "PEERCRED_ALLOW_UIDS",
        "listeners.allow_uids",
        parse.UIDS,
        None,
        "UIDs that may connect to the Unix socket",
        "Checked with SO_PEERCRED before a byte is read. Unset: any local peer that the mode admits, with a warning; `none`: no peer. "
        "Needs `ROBIN_LISTEN_UDS`.",
    ),
    _row(
        "ADMIN_ADDR",
        "listeners.admin",
        addresses.ADMIN,
        ":4001",
        "probes and metrics; off: none",
        "A list. All interfaces by default since the kubelet probes the pod's address; on a host use `127.0.0.1:4001`.",
    ),
    _row(
        "ADMIN_QUIT",
        "listeners.admin_quit",
        parse.BOOLEAN,
        "false",
        "enable POST /quitquitquit",
        "For Jobs with a classic sidecar: `robin shutdown` ends it.",
    ),
)

_GUARDS = (
    _row(
        "ALLOWED_HOSTS",
        "guards.allowed_hosts",
        names.ALLOWED_HOSTS,
        "localhost,127.0.0.1,[::1]",
        "Host names accepted, any port",
        "Against DNS rebinding and SSRF. On a Unix socket only when set.",
    ),
    _row(
        "ALLOWED_ORIGINS",
        "guards.allowed_origins",
        names.ALLOWED_ORIGINS,
        "none",
        "browser origins accepted",
        "Exact values; `null` and `*` are never accepted.",
    ),
    _row(
        "REQUIRE_HEADER",
        "guards.require_header",
        names.REQUIRED_HEADER,
        None,
        "a header every request must carry",
        "Against SSRF; removed before forwarding. `robin check` hides its value.",
    ),
    _row(
        "STRIP_HEADERS",
        "guards.strip_headers",
        names.FIELD_NAMES,
        ",".join(DEFAULT_STRIP),
        "removed besides Authorization; replaces the default list",
        "`Authorization` and `Proxy-Authorization` are always removed. `_` and `-` are the same. "
        "`robin check` names what is no longer removed.",
    ),
    _row(
        "UPGRADE_PROTOCOLS",
        "guards.upgrade_protocols",
        names.UPGRADE_PROTOCOLS,
        "websocket",
        "upgrades that are forwarded",
        "`none`: no upgrades.",
    ),
)

_LIMITS = (
    _row("MAX_HEAD_SIZE", "limits.head", parse.size("4KiB", "1MiB"), "64KiB", "largest request head", "Then 431."),
    _row("MAX_TARGET_SIZE", "limits.target", parse.size("1KiB", "64KiB"), "16KiB", "longest request target", "Then 414."),
    _row("MAX_FIELDS", "limits.fields", parse.integer("10", "1000"), "100", "most header lines of a request", "Then 431."),
    _row("MAX_CONNECTIONS", "limits.connections", parse.integer("1", "65536"), "1024", "most connections from callers", "Then 503."),
    _row("HEADER_TIMEOUT", "timeouts.head", parse.duration("1ms"), "10s", "first to last byte of a request head", "Then 408."),
    _row(
        "KEEPALIVE_TIMEOUT", "timeouts.keepalive", parse.duration("1ms"), "75s", "how long an idle caller is kept", "Then a silent close."
    ),
    _row(
        "STREAM_IDLE_TIMEOUT",
        "timeouts.stream_idle",
        parse.duration("0s"),
        "1h",
        "silence that ends a body or tunnel; 0: none",
        "No byte either way. There is no total timeout.",
    ),
)

_LIFECYCLE = (
    _row(
        "DRAIN_MIN",
        "lifecycle.drain_min",
        parse.duration("0s"),
        "0s",
        "keep serving for this long after the signal",
        "For a classic sidecar: the application's shutdown time.",
    ),
    _row(
        "DRAIN_MAX",
        "lifecycle.drain_max",
        parse.duration("0s"),
        "25s",
        "cut what is left this long after the signal",
        "Not less than `ROBIN_DRAIN_MIN`. Keep it below the pod's grace period.",
    ),
    _row("STARTUP_TIMEOUT", "lifecycle.startup_timeout", parse.duration("0s"), "0", "exit 5 without an identity by then; 0: keep trying"),
    _row("WORKERS", "lifecycle.workers", parse.integer("1", "1"), "1", "processes; this version runs one"),
)

_OBSERVABILITY = (
    _row("LOG_LEVEL", "telemetry.log_level", parse.choice("debug", "info", "warning", "error"), "info", "lowest level that is logged"),
    _row("LOG_FORMAT", "telemetry.log_format", parse.choice("json", "console"), "json", "JSON lines, or lines for people"),
    _row("ACCESS_LOG", "telemetry.access_log", parse.choice("all", "errors", "off"), "all", "which exchanges are logged"),
    _row(
        "CONFIG",
        "",
        parse.PATH,
        None,
        "settings file: KEY=value lines, or robin.yaml",
        "Its content decides which of the two it is. Not world-writable. It sets any of these variables, except this one.",
    ),
)

_UNSAFE = (
    _row(
        "UNSAFE_LISTEN",
        "unsafe.listen",
        parse.BOOLEAN,
        "false",
        "allow listening beyond loopback",
        "Anyone who reaches the listener can use the identity.",
    ),
    _row(
        "UNSAFE_UPSTREAM_HTTP",
        "unsafe.upstream_http",
        parse.BOOLEAN,
        "false",
        "allow cleartext to a distant upstream",
        "The token crosses the network readable (JWT-SVID section 7.3 requires confidentiality on every hop).",
    ),
    _row(
        "UNSAFE_ANY_HOST",
        "unsafe.any_host",
        parse.BOOLEAN,
        "false",
        "switch off the Host and browser guards",
        "Host, Origin and Sec-Fetch-Site are not checked.",
    ),
)

IDENTITY_KEYS = tuple(setting.key for setting in _IDENTITY)

SECTIONS: tuple[tuple[str, tuple[Setting, ...]], ...] = (
    ("Upstream", _UPSTREAM),
    ("Identity", _IDENTITY),
    ("Listeners", _LISTENERS),
    ("Guards", _GUARDS),
    ("Limits", _LIMITS),
    ("Lifecycle", _LIFECYCLE),
    ("Logs and file", _OBSERVABILITY),
    ("Unsafe switches", _UNSAFE),
)

SETTINGS: dict[str, Setting] = {setting.key: setting for _section, rows in SECTIONS for setting in rows}

SETTING_NAMES: dict[str, str] = {key.removeprefix(PREFIX).lower(): key for key in SETTINGS}
"""How the sidecar names its settings where a fault refers to one (`model.faults.name_settings`)."""

BY_PATH: dict[str, Setting] = {setting.path: setting for setting in SETTINGS.values() if setting.path}

# A setting in a message, with a value where one is named; not in quotes, and not where a flag or a variable is meant.
_IN_MESSAGE = re.compile(r'(?<!["\w])(ROBIN_[A-Z_]+)\b(?:=(\w+))?(?! \(from (?:flag|env)\))')


def in_yaml(text: str) -> str:
    """A message about robin.yaml: each setting by its place there."""

    def placed(found: re.Match[str]) -> str:
        setting = SETTINGS.get(found[1])
        if setting is None or not setting.path:
            return found[0]
        return f"sidecar.{setting.path}" + (f": {found[2]}" if found[2] else "")

    return _IN_MESSAGE.sub(placed, text)
