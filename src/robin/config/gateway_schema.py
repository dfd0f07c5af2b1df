"""The keys of the section `gateway` of robin.yaml, with their defaults."""

import re
from collections.abc import Callable
from typing import Final

from robin.config.addresses import HOST_PORT, UPSTREAM, parse_admin
from robin.config.gateway_routes import route_schema
from robin.config.identities import IDENTITIES
from robin.config.parse import BOOLEAN, TEXT, Form, InvalidValue, Kind, choice, duration, integer, shown
from robin.config.provider_schema import FIELDS
from robin.config.schema import LONGEST_RULES, Entries, Field, Mapping, Scalar, Schema, Sequence


def _matching(pattern: str, what: str, fix: str) -> Callable[[str], str]:
    """A parser of texts that match `pattern`."""

    def parse(text: str) -> str:
        if re.search(pattern, text) is None:
            raise InvalidValue(f"{shown(text)} is no {what}", fix)
        return text

    return parse


def _pattern_kind(name: str, what: str, *, pattern: str, bounds: str, fix: str) -> Kind:
    return Kind(name=name, parse=_matching(pattern, what, fix), bounds=bounds, form=Form(pattern=pattern, hint=fix))


_NAME: Final = _pattern_kind(
    "name", "name", pattern="^[a-z0-9-]{1,63}$", bounds="a-z, 0-9 and -, at most 63", fix="use a-z, 0-9 and -, at most 63 of them"
)
_MODE: Final = _pattern_kind("mode", "file mode", pattern="^0?[0-7]{3}$", bounds="octal", fix='write it in quotes, such as "0660"')
_ADMIN: Final = Kind(name="address", parse=parse_admin, bounds="IP:port or off")
_OFF: Final = 'write `"off"` with quotes'  # without them it is a boolean
_PORT: Final = integer("1", "65535")
_UID: Final = integer("0", "4294967294")
_LIST: Final = Sequence(item=Scalar(kind=TEXT))


def _key(name: str, kind: Kind, default: str | None = None, text: str = "") -> Field:
    return Field(name=name, schema=Scalar(kind=kind, default=default), help=text)


def _list(name: str, text: str = "", item: Schema | None = None) -> Field:
    return Field(name=name, schema=_LIST if item is None else Sequence(item=item), help=text)


def _group(name: str, *fields: Field, text: str = "") -> Field:
    return Field(name=name, schema=Mapping(fields=fields), help=text)


_LISTENER: Final = Mapping(
    fields=(
        Field(name="name", schema=Scalar(kind=_NAME), help="unique", required=True),
        _key("kind", choice("proxy", "reverse"), "proxy", "a forward proxy, or a server that has the routes"),
        _key("listen", TEXT, "127.0.0.1:8081", "IP:port, [IPv6]:port or unix:/path; of a reverse one 127.0.0.1:8080 is the default"),
        _key("auth", choice("none", "jwt", "mtls", "unix"), "none", "how callers are known"),
        _list("issuers", "names of issuers whose tokens are accepted, for auth jwt"),
        _list("uids", "users that may use the Unix socket, for auth unix", Scalar(kind=_UID)),
        _key("unix_mode", _MODE, "0660", "mode of the Unix socket"),
        _key("unsafe_open", BOOLEAN, "false", "auth none off loopback: everyone is the caller `open`"),
        _key("unsafe_plaintext", BOOLEAN, "false", "auth jwt off loopback without tls"),
        _group(
            "tls",
            _key("cert_file", TEXT, None, "certificate with its chain (PEM); with key_file"),
            _key("key_file", TEXT, None, "its key (PEM)"),
            _list("minted_names", "or: names and addresses of a leaf that the CA of the bridge signs"),
            text="TLS of the listener",
        ),
        _group(
            "mtls",
            _key("ca_file", TEXT, None, "roots of the certificates of clients (PEM)"),
            _list("trust_domains", "of their SPIFFE IDs"),
            _key("accept_cn", BOOLEAN, "false", "without a SPIFFE ID the caller is cn:NAME"),
            text="for auth mtls",
        ),
    )
)
_JWKS: Final = Mapping(
    fields=(
        _key("url", TEXT, None, "where the keys are fetched; or file"),
        _key("file", TEXT, None, "where the keys are read; or url"),
        _key("ca_file", TEXT, None, "roots of the URL in place of the system's"),
        _key("bearer_file", TEXT, None, "token sent to the URL"),
        _key("refresh", duration("1s"), "5m"),
        _key("min_refetch", duration("1s"), "10s"),
        _key("max_stale", duration("1s"), "24h"),
    )
)
_ISSUER: Final = Mapping(
    fields=(
        Field(name="name", schema=Scalar(kind=_NAME), help="unique", required=True),
        Field(name="kind", schema=Scalar(kind=choice("kubernetes", "spiffe", "oidc")), help="what its tokens say", required=True),
        _key("issuer", TEXT, None, "compared byte for byte with `iss`; optional for spiffe"),
        _list("audiences", "one must be in `aud`"),
        _list("algorithms", "RS, PS, ES with 256, 384, 512, and EdDSA"),
        _key("trust_domain", TEXT, None, "of the SPIFFE IDs, for kind spiffe"),
        _list("namespaces", "of Kubernetes; empty: all"),
        _key("leeway", duration("0s", "5m"), "30s"),
        _key("max_lifetime", duration("1m"), "24h"),
        Field(name="jwks", schema=_JWKS, help="the keys"),
    )
)
_RULE: Final = Mapping(
    fields=(
        Field(name="name", schema=Scalar(kind=_NAME), help="unique; in records and refusals", required=True),
        _key("effect", choice("allow", "deny"), "allow"),
        _key("mode", choice("enforce", "report"), "enforce", "report: of a deny, only record what it would refuse"),
        _list("callers", "ids, patterns, names of callers; * is every authenticated caller"),
        _list("hosts", "names, *.S, **.S, p*q.S, **, addresses"),
        _list("schemes", "https, http, tcp", Scalar(kind=choice("https", "http", "tcp"))),
        _list("ports", "empty: 443 for https, 80 for http; tcp lists them", Scalar(kind=_PORT)),
        _list("methods", "upper case; empty: any"),
        _list("paths", "/a, /a/*, /a/**; empty: any"),
        _list("upgrade", "websocket", Scalar(kind=choice("websocket"))),
        _key("tls", choice("auto", "bridge", "passthrough"), "auto", "auto: bridge only where the rule must see requests"),
        _list("private", "private networks that these exact hosts may resolve to"),
        _key("upstream_ca_file", TEXT, None, "roots for these hosts in place of all others"),
    )
)

SCHEMA: Final = Mapping(
    fields=(
        _key("name", _NAME, "robin-gateway", "in Via, Proxy-Status and records"),
        _list("listeners", "default: one proxy on 127.0.0.1:8081", _LISTENER),
        _list("issuers", "whose tokens name callers", _ISSUER),
        Field(name="callers", schema=Entries(value=_LIST), help="short names for callers"),
        _group(
            "policy",
            _key("mode", choice("enforce", "report"), "enforce", "report: record denials, do not enforce them"),
            Field(name="rules", schema=Sequence(item=_RULE, longest=LONGEST_RULES), help="what is allowed, and what is not"),
            text="the rules; silence denies",
        ),
        _group(
            "bridge",
            Field(name="slots", schema=Entries(value=Scalar(kind=TEXT)), help="folders with tls.crt and tls.key of a CA"),
            _key("sign_with", TEXT, None, "the slot that signs"),
            _key("leaf_ttl", duration("10m"), "24h"),
            _key("leaf_cache", integer("1", "65536"), "1024"),
            _key("ech", choice("refuse", "allow"), "refuse", "encrypted ClientHello in passthrough"),
            text="TLS that the gateway opens",
        ),
        _group(
            "upstream_tls",
            _key("system_roots", BOOLEAN, "true"),
            _list("ca_files", "roots beside those of the system"),
            _key("min_version", choice("1.2", "1.3"), "1.2"),
            text="how origins are verified",
        ),
        _group(
            "addresses",
            _list("resolver", "name servers, IP:port; empty: those of resolv.conf"),
            Field(
                name="hosts",
                schema=Entries(value=_LIST, name="^[^*/ ]{1,253}$"),
                help="lists of fixed addresses by name, such as {db.example: [10.0.0.5]}; judged like those of DNS",
            ),
            _list("deny", "networks refused whatever a rule says"),
            _list("nat64_prefixes", "prefixes that embed public IPv4 addresses"),
            _list("self_names", "names of this gateway's Services"),
            _list("unsafe_loopback", "loopback IP:port that may be reached, for development"),
            text="names and addresses",
        ),
        _group(
            "limits",
            _key("connections", integer("1", "1000000"), "4096"),
            _key("tunnels", integer("0", "1000000"), "2048", "0: no limit"),
            _key("tunnels_per_caller", integer("0", "1000000"), "128", "0: no limit"),
            _key("connections_per_caller", integer("0", "1000000"), "256", "0: no limit"),
            _key("inflight_per_caller", integer("0", "1000000"), "256", "requests at the same time, without CONNECT; 0: no limit"),
            _key("rps_per_caller", integer("0", "1000000"), "0", "requests and CONNECTs in a second; 0: no limit"),
            _key("mints_per_second", integer("1", "100000"), "200", "leaf certificates; one caller has at most half of them"),
            _key("body_bytes", integer("0", "100000000000"), "0", "of one request; 0: no limit"),
        ),
        _group(
            "timeouts",
            _key("head", duration("100ms"), "10s"),
            _key("first_bytes", duration("100ms"), "10s", "after the 200 to a CONNECT"),
            _key("dns", duration("100ms"), "5s", "the name of a destination"),
            _key("connect", duration("100ms"), "10s", "TCP to a destination"),
            _key("tls", duration("100ms"), "10s", "a TLS handshake, of either side"),
            _key("response_head", duration("0s"), "10m"),
            _key("relay_idle", duration("0s"), "15m"),
            _key("tunnel_idle", duration("0s"), "15m"),
            _key("tunnel_max", duration("0s"), "0s", "0s: no limit"),
            _key("keepalive_idle", duration("1s"), "75s"),
            _key("upstream_idle", duration("1s"), "15s"),
        ),
        _group("drain", _key("min", duration("0s"), "5s"), _key("max", duration("0s"), "5m")),
        _group(
            "admin",
            _key("listen", _ADMIN, "127.0.0.1:9464", f"probes and metrics for this host; {_OFF}"),
            _key(
                "probes", _ADMIN, "off", f"/livez, /readyz, /startupz, /metrics, /ca.crt and /bundle.crt for others than this host; {_OFF}"
            ),
        ),
        _group(
            "audit",
            _key("file", TEXT, None, "left out: standard output"),
            _key("on_failure", choice("deny", "allow"), "deny", "deny: what cannot be recorded is not forwarded"),
            _key("checkpoint_every", integer("1", "1000000"), "1000"),
            _key("checkpoint_key_file", TEXT, None, "Ed25519 key (PEM) that signs checkpoints"),
        ),
        Field(name="identities", schema=IDENTITIES, help="where proof of this workload comes from, by name; for issuers of tokens"),
        *FIELDS,
        _list("routes", "of reverse listeners", route_schema(_NAME)),
        _key("canary", HOST_PORT, None, "host:port that callers must not reach; dialled every 30 s for `robin wait egress`"),
        _group(
            "parent",
            _key("url", UPSTREAM, None, "the gateway; http only on loopback"),
            _key("ca_file", TEXT, None, "CA of its certificate (PEM) in place of the system's roots"),
            _key("token_file", TEXT, None, "the token that it knows this pod by; read for each request"),
            text="makes this a relay: everything goes to that gateway",
        ),
    )
)
