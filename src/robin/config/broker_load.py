"""From the section `broker` of robin.yaml to the settings of the broker, or everything that is wrong with it.

Routes are judged by the rules of a bundle's routes, so that a broken policy never starts in part. What is not built yet is refused here.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import shown
from robin.model.address import TcpAddress
from robin.model.passport import PassportRoute
from robin.policy.broker_issue import PeerRule
from robin.wire.trust_bundle import BundleRefused, check_routes, parse_route

NOT_BUILT: Final = "not_supported"


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
