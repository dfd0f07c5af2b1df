"""The section `broker` of robin.yaml: its schema, and what the broker's builder takes. What is not built yet is refused here.

Routes are judged by the rules of a bundle's routes, and key files are read, so that a broken policy never starts in part.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import ABSOLUTE_PATH, BOOLEAN, Form, InvalidValue, Kind, choice, duration, integer, shown
from robin.config.schema import Field, Mapping, Scalar, Sequence
from robin.model.address import TcpAddress
from robin.model.passport import IDENTITY, KEY_PROTECTION, PROFILES, SIGNER_CLASSES, PassportRoute
from robin.policy.broker_issue import PeerRule
from robin.wire.trust_bundle import BundleRefused, check_routes, parse_route

NOT_BUILT: Final = "not_supported"
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


NAME = Kind(name="name", parse=_parse_name, form=Form(pattern="^[\\u0021-\\u007e]+$", hint="write printable ASCII"))
LISTEN = Kind(name="address", parse=_parse_listen)
NETWORK = Kind(name="network", parse=_parse_network)
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
    _one("socket", ABSOLUTE_PATH, "/run/robin/broker.sock", "the broker's Unix socket"),
    _one("socket_mode", MODE, "0600"),
    _one("socket_group", NAME, nullable=True, text="not built yet"),
    _one("passport_ttl", duration("1s", "600s"), "300s"),
    _one("proof_ttl", duration("1s", "300s"), "60s"),
    _one("compat_claims", choice("extended", "exact"), "extended"),
    _map("identity", _one("profile", choice("local/software", "trustplane-spiffe-spire-k8s-v1"), "local/software")),
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
            _one("auto_create", BOOLEAN, "true"),
            _one("proof_key_max_age", duration("1s"), "1h"),
            _one("jose_alg_name", choice("Ed25519", "EdDSA"), "Ed25519"),
        ),
        _map("admin", _one("listen", LISTEN, "127.0.0.1:9464", "probes and metrics")),
        _map("audit", _one("file", ABSOLUTE_PATH, text="default: audit.jsonl in state_dir")),
        _one("drain_max", duration("0s", "10m"), "10s"),
        _ISSUE,
        _VERIFY,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueSettings:
    """`broker.issue`."""

    socket: str
    socket_mode: int
    passport_ttl_s: int
    proof_ttl_s: int
    extended: bool
    peers: tuple[PeerRule, ...]
    routes: tuple[PassportRoute, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """`broker.verify`."""

    bundle: Path
    bundle_keys: tuple[Path, ...]
    authorities: frozenset[str]
    scheme: str
    max_age_s: float
    clock_skew_s: float
    max_header_bytes: int
    max_body_bytes: int
    replay_entries: int
    inbound: tuple[TcpAddress, TcpAddress] | None
    forward_auth: TcpAddress | None
    trusted_proxies: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """`broker`."""

    trust_domain: str
    issuer: str
    state_dir: Path
    auto_create: bool
    proof_key_max_age_s: float
    jose_alg_name: str
    admin: TcpAddress
    audit_file: Path
    drain_max_s: float
    issue: IssueSettings | None
    verify: VerifySettings | None


def load_broker(content: bytes, name: str) -> tuple[BrokerSettings | None, tuple[Diagnostic, ...]]:
    """The settings of the section `broker`, and what is wrong with the file; with an error there are no settings."""
    from robin.config.robin_yaml import document  # noqa: PLC0415 - it lists the sections, this one among them
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415 - PyYAML is loaded only where there is a YAML file

    root, diagnostics = read_yaml(content, name, document())
    if root is None or any(one.severity == "error" for one in diagnostics):
        return None, diagnostics
    section = root.value.get("broker")
    if section is None or section.at is None:
        start = Position(file=name, line=1, col=1)
        fix = "add `broker:` with its settings"
        return None, (*diagnostics, Diagnostic(at=start, code="key_missing", message="there is no section `broker`", fix=fix))
    found = [*diagnostics, *_rules(section)]
    if any(one.severity == "error" for one in found):
        return None, tuple(found)
    try:
        return _build(section), tuple(found)
    except BundleRefused as refused:
        return None, (*found, Diagnostic(at=section.at, code="value_invalid", message=refused.detail, fix="correct the routes"))


def _rules(section: Any) -> Iterator[Diagnostic]:
    """What the schema cannot say."""
    values = section.value
    issue, verify = values["issue"], values["verify"]

    def error(at: Any, code: str, message: str, fix: str) -> Diagnostic:
        return Diagnostic(at=at.at or section.at, code=code, message=message, fix=fix)

    if issue.value is None and verify.value is None:
        yield error(section, "key_missing", "broker has neither `issue` nor `verify`", "add one of them")
    if "://" not in values["issuer"].value and not values["issuer"].value.startswith("urn:"):
        yield error(values["issuer"], "value_invalid", "broker.issuer is not an absolute URI", "write such as https://issuer.example")
    if issue.value is not None:
        yield from _issue_rules(issue.value, error)
    if verify.value is not None:
        yield from _verify_rules(verify.value, error)


def _issue_rules(issue: dict[str, Any], error: Any) -> Iterator[Diagnostic]:
    profile = issue["identity"].value["profile"]
    if profile.value != "local/software":
        yield error(profile, NOT_BUILT, "this identity profile is not built yet", "use local/software")
    if issue["socket_mode"].value != 0o600 or "socket_group" in issue:
        at = issue.get("socket_group", issue["socket_mode"])
        yield error(at, NOT_BUILT, "a group for the socket is not built yet", 'leave socket_group out and use socket_mode "0600"')
    known = {route.value["route_id"].value for route in issue["routes"].value}
    for peer in issue["peers"].value:
        match = peer.value["match"].value
        spiffe = next((match[name] for name in ("spiffe_id", "spiffe_prefix") if name in match), None)
        if spiffe is not None:
            yield error(spiffe, NOT_BUILT, "matching a SPIFFE ID is not built yet", "match uid, gid or exe")
        elif not match:
            yield error(peer, "key_missing", "a peer rule without a match would be for every process", "match uid, gid or exe")
        if "subject" not in peer.value:
            yield error(peer, "key_missing", "a peer rule needs a subject with local/software", "add `subject:`")
        for route in peer.value["routes"].value:
            if route.value not in known:
                yield error(route, "value_invalid", f"{shown(route.value)} is not a route_id of issue.routes", "add the route")


def _verify_rules(verify: dict[str, Any], error: Any) -> Iterator[Diagnostic]:
    replay = verify["replay"].value
    if replay["backend"].value != "memory":
        yield error(replay["backend"], NOT_BUILT, "this replay store is not built yet", "use memory with one instance")
    if replay["instances"].value != 1:
        yield error(replay["instances"], "value_invalid", "the memory store is for one instance", "use instances: 1")
    if not verify["bundle_keys"].value or not verify["authorities"].value:
        yield error(verify["bundle"], "key_missing", "verify needs bundle_keys and authorities", "add at least one of each")
    inbound = verify["inbound"].value
    if ("listen" in inbound) != ("upstream" in inbound):
        yield error(verify["inbound"], "key_missing", "inbound has a listen and an upstream, or neither", "add the other one")


def _build(section: Any) -> BrokerSettings:
    plain = section.plain()
    state = Path(plain["state_dir"])
    return BrokerSettings(
        trust_domain=plain["trust_domain"],
        issuer=plain["issuer"],
        state_dir=state,
        auto_create=plain["keys"]["auto_create"],
        proof_key_max_age_s=plain["keys"]["proof_key_max_age"],
        jose_alg_name=plain["keys"]["jose_alg_name"],
        admin=plain["admin"]["listen"],
        audit_file=Path(plain["audit"].get("file") or state / "audit.jsonl"),
        drain_max_s=plain["drain_max"],
        issue=None if plain["issue"] is None else _build_issue(plain["issue"]),
        verify=None if plain["verify"] is None else _build_verify(plain["verify"]),
    )


def _build_issue(plain: dict[str, Any]) -> IssueSettings:
    routes = tuple(build_route(route) for route in plain["routes"])
    check_routes(routes)
    peers = tuple(
        PeerRule(name=peer["name"], subject=peer["subject"], routes=tuple(peer["routes"]), **peer["match"]) for peer in plain["peers"]
    )
    return IssueSettings(
        socket=plain["socket"],
        socket_mode=plain["socket_mode"],
        passport_ttl_s=int(plain["passport_ttl"]),
        proof_ttl_s=int(plain["proof_ttl"]),
        extended=plain["compat_claims"] == "extended",
        peers=peers,
        routes=routes,
    )


def build_route(plain: dict[str, Any]) -> PassportRoute:
    """A route of the settings, by the rules of a bundle's routes. Raises BundleRefused."""
    return parse_route(plain_route(plain))


def plain_route(plain: dict[str, Any]) -> dict[str, object]:
    """The route as a bundle has it: without what was left out, so that the defaults are the same."""
    lists = ("profiles", "covered_headers", "covered_if_present")
    kept = {name: value for name, value in plain.items() if not (name in lists and not value)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


def _build_verify(plain: dict[str, Any]) -> VerifySettings:
    inbound, forward = plain["inbound"], plain["forward_auth"]
    trusted = tuple(forward["trusted_proxies"]) or tuple(map(ipaddress.ip_network, ("127.0.0.1/32", "::1/128")))
    return VerifySettings(
        bundle=Path(plain["bundle"]),
        bundle_keys=tuple(map(Path, plain["bundle_keys"])),
        authorities=frozenset(name.lower() for name in plain["authorities"]),
        scheme=plain["scheme"],
        max_age_s=plain["max_age"],
        clock_skew_s=plain["clock_skew"],
        max_header_bytes=plain["max_header_bytes"],
        max_body_bytes=plain["max_body_bytes"],
        replay_entries=plain["replay"]["max_entries"],
        inbound=(inbound["listen"], inbound["upstream"]) if inbound.get("listen") else None,
        forward_auth=forward.get("listen"),
        trusted_proxies=trusted,
    )


def bundle_routes(settings: BrokerSettings) -> list[dict[str, object]]:
    """The routes of `issue` as a bundle has them. A route without sources admits the broker's own issuer."""
    own = {"source_type": "software_jwks", "issuer": settings.issuer, "trust_domain": settings.trust_domain}
    found = []
    for route in settings.issue.routes if settings.issue is not None else ():
        members: dict[str, object] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((field.name, getattr(route, field.name)) for field in fields(route))
        }
        members["require"] = asdict(route.require)
        members["ctx"] = {name: value for name, value in asdict(route.ctx).items() if value}
        sources = [{name: value for name, value in asdict(source).items() if value} for source in route.allowed_sources]
        members["allowed_sources"] = sources or [own]
        found.append(members)
    return found
