"""From the section `broker` of robin.yaml to the settings of the broker, or everything that is wrong with it.

Routes are judged by the rules of a bundle's routes, so that a broken policy never starts in part. What is not built yet is refused here.
"""

import grp
import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import shown
from robin.model.address import TcpAddress
from robin.model.passport import PassportRoute
from robin.model.spiffe import trust_domain_of
from robin.planes.broker.attest import AttestSettings
from robin.policy.broker_issue import PeerRule
from robin.policy.x509_svid import SVID_PROFILE, AllowedIds
from robin.wire.trust_bundle import BundleRefused, check_routes, parse_route

NOT_BUILT: Final = "not_supported"
_LOCAL: Final = "local/software"
_TRUST_DOMAIN: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueSettings:
    """`broker.issue`."""

    socket: str
    socket_mode: int
    socket_group: int | None
    passport_ttl_s: int
    proof_ttl_s: int
    extended: bool
    identity: AttestSettings | None
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
    keys_dir: Path | None
    auto_create: bool
    proof_key_max_age_s: float
    jose_alg_name: str
    admin: TcpAddress
    audit_file: Path
    checkpoint_every: int
    checkpoint_key_file: Path | None
    drain_max_s: float
    issue: IssueSettings | None
    verify: VerifySettings | None


def load_broker(content: bytes, name: str, *, here: bool = False) -> tuple[BrokerSettings | None, tuple[Diagnostic, ...]]:
    """The settings of the section `broker`, and what is wrong with the file; with an error there are no settings.

    `here`: for a broker of this machine, so that the folders that it cannot make have to be there.
    """
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
    found = [*diagnostics, *_rules(section), *(_folders(section) if here else ())]
    if not any(one.severity == "error" for one in found):
        found += _route_rules(section)
    if any(one.severity == "error" for one in found):
        return None, tuple(found)
    return _build(section), tuple(found)


def _folders(section: Any) -> Iterator[Diagnostic]:
    """The folder of the audit log: of what a start needs, the one that it does not make."""
    file = section.value["audit"].value.get("file")
    if file is not None:
        try:
            os.stat(os.path.dirname(file.value) + "/.")
        except (FileNotFoundError, NotADirectoryError):
            message = "the folder of broker.audit.file does not exist"
            fix = "make it for the broker's user, or leave the key out: the file is then in state_dir"
            yield Diagnostic(at=file.at, code="value_invalid", message=message, fix=fix)
        except OSError:
            pass  # the broker's user may be able to reach it


def _route_rules(section: Any) -> Iterator[Diagnostic]:
    """Each route by the rules of a bundle's routes, then all together."""
    issue = section.value["issue"].value
    nodes = () if issue is None else issue["routes"].value
    routes: list[PassportRoute] = []
    for node in nodes:
        try:
            routes.append(build_route(node.plain()))
        except BundleRefused as refused:
            member = node.value.get(refused.member)
            at = None if member is None else member.at
            fix = refused.fix or "correct the route"
            yield Diagnostic(at=at or node.at or section.at, code="value_invalid", message=refused.detail, fix=fix)
    if len(routes) == len(nodes) and (refusal := _refusal_of(routes)) is not None:
        first = next(count for count in range(1, len(routes) + 1) if _refusal_of(routes[:count]) is not None)
        at = nodes[first - 1].at or section.at
        yield Diagnostic(at=at, code="value_invalid", message=refusal.detail, fix="remove one of them, or change it")


def _refusal_of(routes: list[PassportRoute]) -> BundleRefused | None:
    try:
        check_routes(tuple(routes))
    except BundleRefused as refused:
        return refused
    return None


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
    keys = values["keys"].value
    if keys.get("dir") is not None and keys["auto_create"].at is not None and keys["auto_create"].value:
        yield error(keys["auto_create"], "value_invalid", "no key is made where keys.dir names a folder", "remove auto_create, or dir")
    if issue.value is not None:
        yield from _issue_rules(issue.value, error)
    if verify.value is not None:
        yield from _verify_rules(verify.value, error)


def _issue_rules(issue: dict[str, Any], error: Any) -> Iterator[Diagnostic]:
    attested = issue["identity"].value["profile"].value != _LOCAL
    yield from _identity_rules(issue["identity"], error)
    group = issue.get("socket_group")
    if (issue["socket_mode"].value == 0o660) != (group is not None and group.value is not None):
        yield error(group or issue["socket_mode"], "value_invalid", "a socket_group has socket_mode 0660, and 0660 has a group", "set both")
    elif group is not None and group.value is not None and find_group(group.value) is None:
        yield error(group, "value_invalid", f"there is no group {shown(group.value)} here", "name one that exists, or use its number")
    for route in issue["routes"].value:
        for name in ("profiles", "covered_headers", "covered_if_present", "allowed_sources"):
            yield from _explicitly_empty(route.value[name], name, error)
    known = {route.value["route_id"].value for route in issue["routes"].value}
    for peer in issue["peers"].value:
        match = peer.value["match"].value
        spiffe = next((match[name] for name in ("spiffe_id", "spiffe_prefix") if name in match), None)
        if spiffe is not None and not attested:
            fix = f"match uid, gid or exe, or set issue.identity.profile: {SVID_PROFILE}"
            yield error(spiffe, "value_invalid", "there is no SPIFFE ID with local/software", fix)
        elif not match:
            yield error(peer, "key_missing", "a peer rule without a match would be for every process", "match uid, gid or exe")
        elif match.keys() == {"exe"}:
            message = "every user who may run this program matches the rule, with libraries of their own in it"
            fix = "match the uid or gid as well"
            yield Diagnostic(at=match["exe"].at, code="exe_alone", message=message, fix=fix, severity="warning")
        if "subject" not in peer.value and not attested:
            yield error(peer, "key_missing", "a peer rule needs a subject with local/software", "add `subject:`")
        elif "subject" in peer.value and attested:
            message = "with SVIDs the SPIFFE ID is the subject"
            yield error(
                peer.value["subject"], "value_invalid", message, "remove `subject:`; match spiffe_id or spiffe_prefix to narrow the rule"
            )
        for route in peer.value["routes"].value:
            if route.value not in known:
                yield error(route, "value_invalid", f"{shown(route.value)} is not a route_id of issue.routes", "add the route")


def _identity_rules(node: Any, error: Any) -> Iterator[Diagnostic]:
    """What SVIDs need, and that nothing is set for them without them."""
    identity = node.value
    if identity["profile"].value == _LOCAL:
        for name in ("endpoint", "hint", "mode", "allowed_ids", "allowed_prefixes", "pod_evidence"):
            given = identity.get(name)
            if given is not None and given.at is not None:
                yield error(given, "value_invalid", f"{name} has no effect with {_LOCAL}", f"remove it, or set profile: {SVID_PROFILE}")
        return
    if identity.get("mode") is None or identity["mode"].value is None:
        yield error(node, "key_missing", "an identity with SVIDs needs a mode", "add `mode: pod-binding` or `mode: caller-presented`")
    ids, prefixes = identity["allowed_ids"].value, identity["allowed_prefixes"].value
    if not ids and not prefixes:
        yield error(node, "key_missing", "no SPIFFE ID may have a passport", "add allowed_ids or allowed_prefixes")
    for one in ids:
        if trust_domain_of(one.value) is None:
            yield error(one, "value_invalid", f"{shown(one.value)} is not a SPIFFE ID", "write spiffe://trust-domain/path")
    for one in prefixes:
        if trust_domain_of(one.value.rstrip("/")) is None and not _TRUST_DOMAIN.fullmatch(one.value):
            yield error(one, "value_invalid", f"{shown(one.value)} is not a prefix of SPIFFE IDs", "write spiffe://trust-domain/ or longer")
    yield from _explicitly_empty(identity["pod_evidence"], "pod_evidence", error)


def _verify_rules(verify: dict[str, Any], error: Any) -> Iterator[Diagnostic]:
    replay = verify["replay"].value
    if replay["backend"].value != "memory":
        yield error(replay["backend"], NOT_BUILT, "this replay store is not built yet", "use memory with one instance")
    if replay["instances"].value != 1:
        yield error(replay["instances"], "value_invalid", "the memory store is for one instance", "use instances: 1")
    if not verify["bundle_keys"].value or not verify["authorities"].value:
        yield error(verify["bundle"], "key_missing", "verify needs bundle_keys and authorities", "add at least one of each")
    yield from _explicitly_empty(verify["forward_auth"].value["trusted_proxies"], "trusted_proxies", error)
    inbound = verify["inbound"].value
    if ("listen" in inbound) != ("upstream" in inbound):
        yield error(verify["inbound"], "key_missing", "inbound has a listen and an upstream, or neither", "add the other one")


def _explicitly_empty(node: Any, name: str, error: Any) -> Iterator[Diagnostic]:
    """A list that is written as empty would get the default of one that is left out."""
    if node.at is not None and not node.value:
        yield error(node, NOT_BUILT, f"{name} cannot be an empty list", "leave it out for its default, or name what is meant")


def _build(section: Any) -> BrokerSettings:
    plain = section.plain()
    state, audit = Path(plain["state_dir"]), plain["audit"]
    return BrokerSettings(
        trust_domain=plain["trust_domain"],
        issuer=plain["issuer"],
        state_dir=state,
        keys_dir=Path(plain["keys"]["dir"]) if plain["keys"].get("dir") else None,
        auto_create=plain["keys"]["auto_create"],
        proof_key_max_age_s=plain["keys"]["proof_key_max_age"],
        jose_alg_name=plain["keys"]["jose_alg_name"],
        admin=plain["admin"]["listen"],
        audit_file=Path(audit.get("file") or state / "audit.jsonl"),
        checkpoint_every=audit["checkpoint_every"],
        checkpoint_key_file=Path(audit["checkpoint_key_file"]) if audit.get("checkpoint_key_file") else None,
        drain_max_s=plain["drain_max"],
        issue=None if plain["issue"] is None else _build_issue(plain["issue"]),
        verify=None if plain["verify"] is None else _build_verify(plain["verify"]),
    )


def _build_issue(plain: dict[str, Any]) -> IssueSettings:
    routes = tuple(build_route(route) for route in plain["routes"])
    peers = tuple(
        PeerRule(name=peer["name"], subject=peer.get("subject", ""), routes=tuple(peer["routes"]), **peer["match"])
        for peer in plain["peers"]
    )
    return IssueSettings(
        socket=plain["socket"],
        socket_mode=plain["socket_mode"],
        socket_group=find_group(plain["socket_group"]) if plain.get("socket_group") else None,
        passport_ttl_s=int(plain["passport_ttl"]),
        proof_ttl_s=int(plain["proof_ttl"]),
        extended=plain["compat_claims"] == "extended",
        identity=_build_identity(plain["identity"]),
        peers=peers,
        routes=routes,
    )


def _build_identity(plain: dict[str, Any]) -> AttestSettings | None:
    if plain["profile"] == _LOCAL:
        return None
    return AttestSettings(
        mode=plain["mode"],
        allowed=AllowedIds(ids=frozenset(plain["allowed_ids"]), prefixes=tuple(plain["allowed_prefixes"])),
        endpoint=plain.get("endpoint"),
        hint=plain.get("hint"),
        pod_evidence=tuple(plain["pod_evidence"]) or ("cgroup", "volume"),
    )


def find_group(name: str) -> int | None:
    """The number of a group of this machine."""
    if name.isdigit():
        return int(name) if len(name) < 11 and int(name) < 2**32 - 1 else None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


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
