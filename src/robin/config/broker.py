"""The section `broker` of robin.yaml: its schema. It is loaded with every other section, so it imports no cryptography."""

import ipaddress
from typing import Any, Final

from robin.config.addresses import parse_endpoint, parse_unix_path
from robin.config.parse import ABSOLUTE_PATH, BOOLEAN, Form, InvalidValue, Kind, choice, duration, integer, shown
from robin.config.schema import Field, Mapping, Scalar, Sequence
from robin.model.address import TcpAddress, UnixAddress
from robin.model.passport import IDENTITY, KEY_PROTECTION, PROFILES, SIGNER_CLASSES

_UID = integer("0", "4294967294")


def _parse_mode(text: str) -> int:
    if text not in ("0600", "0660"):
        raise InvalidValue(f"{shown(text)} is not a mode of this socket", 'write "0600", or "0660" with a socket_group')
    return int(text, 8)


def _parse_listen(text: str) -> TcpAddress:
    host, colon, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        colon = ""
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidValue(f"{shown(text)} is not an address and a port", "write such as 127.0.0.1:9464")
    return TcpAddress(host=str(address), port=int(port))


def _parse_network(text: str) -> Any:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise InvalidValue(f"{shown(text)} is not a network", "write such as 10.0.0.0/8") from None


def _parse_name(text: str) -> str:
    if not text.isascii() or any(not 0x21 <= ord(char) <= 0x7E for char in text):
        raise InvalidValue(f"{shown(text)} is not printable ASCII without spaces", "write it so")
    return text


def parse_svid_endpoint(text: str) -> UnixAddress:
    """The Unix socket of a Workload API; it hands out keys, so never TCP. Raises InvalidValue."""
    address = parse_endpoint(text)
    if not isinstance(address, UnixAddress):
        raise InvalidValue("the Workload API hands out keys here, so it has to be a Unix socket", "write unix:///path")
    return address


SVID_ENDPOINT = Kind(name="endpoint", parse=parse_svid_endpoint, bounds="unix:///abs")
NAME = Kind(name="name", parse=_parse_name, form=Form(pattern="^[\\u0021-\\u007e]+$", hint="write printable ASCII"))
LISTEN = Kind(name="address", parse=_parse_listen)
NETWORK = Kind(name="network", parse=_parse_network)
SOCKET = Kind(name="path", parse=parse_unix_path, form=ABSOLUTE_PATH.form)
MODE = Kind(name="mode", parse=_parse_mode, form=Form(choices=("0600", "0660")))


def _one(name: str, kind: Kind, default: str | None = None, text: str = "", *, required: bool = False, nullable: bool = False) -> Field:
    return Field(name=name, schema=Scalar(kind=kind, default=default, nullable=nullable), help=text, required=required)


def _list(name: str, kind: Kind, text: str = "") -> Field:
    return Field(name=name, schema=Sequence(item=Scalar(kind=kind)), help=text)


def _map(name: str, *fields: Field, text: str = "", nullable: bool = False) -> Field:
    return Field(name=name, schema=Mapping(fields=fields, nullable=nullable), help=text)


_AXES = (_one("identity", choice(*IDENTITY), "none"), _one("key_protection", choice(*KEY_PROTECTION), "software"))
_SOURCE = Mapping(
    fields=(
        _one("source_type", NAME, required=True),
        _one("issuer", NAME, required=True),
        _one("trust_domain", NAME, required=True),
        _one("subject_exact", NAME),
        _one("subject_prefix", NAME),
        _one("required_key_binding", choice(*SIGNER_CLASSES)),
    )
)
_ROUTE = Mapping(
    fields=(
        _one("route_id", NAME, required=True),
        _list("audiences", NAME, "the first is issued"),
        _one("method", NAME, required=True),
        _one("path_template", NAME, required=True, text="exact, or {name} for one segment"),
        _one("scheme", choice("https", "http"), "https"),
        _list("authorities", NAME, "host[:port], exact"),
        _list("profiles", choice(*PROFILES), "both where left out"),
        _one("required_key_binding", choice(*SIGNER_CLASSES), "software"),
        _map("require", *_AXES),
        Field(name="allowed_sources", schema=Sequence(item=_SOURCE), help="empty admits no passport"),
        _list("covered_headers", NAME),
        _list("covered_if_present", NAME),
        _list("extra_components", NAME),
        _one("require_authority", BOOLEAN, "true"),
        _one("audience_match", choice("exact", "target-uri"), "exact"),
        _one("repeated_keys", BOOLEAN, "false"),
        _one("query_order", choice("strict", "any"), "strict"),
        _one("body", choice("bound", "asserted", "unsigned"), "bound"),
        _map(
            "ctx", _list("allow", NAME), _one("required_tool_name", NAME), _one("required_workflow_id", NAME), _one("max_txn_value", NAME)
        ),
        _one("freshness_class", NAME, "bounded"),
        _one("max_staleness_seconds", integer("0", "31536000"), "300"),
    )
)
_PEER = Mapping(
    fields=(
        _one("name", NAME, required=True),
        _map(
            "match", _one("uid", _UID), _one("gid", _UID), _one("exe", ABSOLUTE_PATH), _one("spiffe_id", NAME), _one("spiffe_prefix", NAME)
        ),
        _one("subject", NAME),
        _list("routes", NAME),
    )
)
_ISSUE = _map(
    "issue",
    _one("socket", SOCKET, "/run/robin/broker.sock", "the broker's Unix socket"),
    _one("socket_mode", MODE, "0600"),
    _one("socket_group", NAME, nullable=True, text="name or number of the group that may connect, with mode 0660"),
    _one("passport_ttl", duration("1s", "600s"), "300s"),
    _one("proof_ttl", duration("1s", "300s"), "60s"),
    _one("compat_claims", choice("extended", "exact"), "extended"),
    _map(
        "identity",
        _one("profile", choice("local/software", "trustplane-spiffe-spire-k8s-v1"), "local/software"),
        _one("source", choice("workload-api"), "workload-api"),
        _one("endpoint", SVID_ENDPOINT, nullable=True, text="of the Workload API, unix:///path; default: SPIFFE_ENDPOINT_SOCKET"),
        _one("hint", NAME, nullable=True, text="which of several SVIDs; default: the first"),
        _one("mode", choice("pod-binding", "caller-presented"), nullable=True, text="required with SVIDs"),
        _list("allowed_ids", NAME, "SPIFFE IDs that may have passports"),
        _list("allowed_prefixes", NAME, "the same, with all below them"),
        _list("pod_evidence", choice("cgroup", "volume"), "both where left out"),
    ),
    Field(name="peers", schema=Sequence(item=_PEER), help="who may have passports; empty: no peer"),
    Field(name="routes", schema=Sequence(item=_ROUTE)),
    text="issue passports to local peers",
    nullable=True,
)
_VERIFY = _map(
    "verify",
    _one("bundle", ABSOLUTE_PATH, required=True, text="the signed bundle"),
    Field(name="bundle_keys", schema=Sequence(item=Scalar(kind=ABSOLUTE_PATH)), required=True, help="files with pinned public JWKs"),
    Field(name="authorities", schema=Sequence(item=Scalar(kind=NAME)), required=True, help="served hosts"),
    _one("scheme", choice("https", "http"), "https"),
    _one("max_age", duration("1s", "600s"), "60s"),
    _one("clock_skew", duration("0s", "30s"), "5s"),
    _one("max_header_bytes", integer("1024", "65536"), "16384", "of all credential headers"),
    _one("max_body_bytes", integer("0", "67108864"), "1048576"),
    _map(
        "replay",
        _one("backend", choice("memory", "redis"), "memory"),
        _one("max_entries", integer("1", "10000000"), "100000"),
        _one("instances", integer("1", "1024"), "1"),
    ),
    _one("forward_credentials", choice("strip"), "strip", "the passport headers never reach the service"),
    _map(
        "inbound",
        _one("listen", LISTEN, nullable=True, text="verify requests here and forward them"),
        _one("upstream", LISTEN, nullable=True, text="the service behind it, over plain HTTP"),
    ),
    _map(
        "forward_auth",
        _one("listen", LISTEN, nullable=True, text="answer nginx, Envoy and Traefik here"),
        _list("trusted_proxies", NETWORK, "127.0.0.1/32 and ::1/128 where left out"),
    ),
    text="verify passports",
    nullable=True,
)
SCHEMA: Final = Mapping(
    fields=(
        _one("trust_domain", NAME, required=True),
        _one("issuer", NAME, required=True, text="an absolute URI"),
        _one("state_dir", ABSOLUTE_PATH, "/var/lib/robin/broker", "keys, locks, bundle serial"),
        _map(
            "keys",
            _one("dir", ABSOLUTE_PATH, text="a folder that others fill, such as a mounted Secret; default: the broker's own in state_dir"),
            _one("auto_create", BOOLEAN, "true"),
            _one("proof_key_max_age", duration("1s"), "1h"),
            _one("jose_alg_name", choice("Ed25519", "EdDSA"), "Ed25519"),
        ),
        _map("admin", _one("listen", LISTEN, "127.0.0.1:9464", "probes and metrics")),
        _map(
            "audit",
            _one("file", ABSOLUTE_PATH, text="default: audit.jsonl in state_dir"),
            _one("checkpoint_every", integer("1", "1000000"), "1000"),
            _one("checkpoint_key_file", ABSOLUTE_PATH, text="Ed25519 key (PEM) that signs checkpoints"),
        ),
        _one("drain_max", duration("0s", "10m"), "10s"),
        _ISSUE,
        _VERIFY,
    )
)
