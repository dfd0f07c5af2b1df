"""Profiles and providers -> bindings and grants, checked against each other: ambiguity, overrides, plaintext, pins, shared audiences."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from robin.config.callers import can_call, expand, is_caller
from robin.config.compiling import KEY_SUFFIX, AssertionAudiences, Compiling, IdentityNames, Provider
from robin.config.diagnostic import Diagnostic, Position
from robin.config.grant_kinds.aws_web_identity import REGION
from robin.config.grant_kinds.catalog import KINDS
from robin.config.grant_kinds.static_file import plan_of_file
from robin.config.parse import nearest, shown
from robin.config.profile import FILE_BYTES_MAX, read_profile
from robin.config.profile_endpoints import ProfileEndpoint
from robin.config.profile_keys import Findings
from robin.config.profile_parts import Override, Profile, ProfileCredential, TokenGrant
from robin.config.provider_schema import grants_settings
from robin.config.yaml_reader import Located
from robin.grants.settings import ASSERTION_TYP, GrantPlan, GrantsSettings, digest_of
from robin.planes.gateway.settings import ProviderSettings
from robin.policy.issuers import names_loopback
from robin.policy.overlap import find_overlaps, find_shared, is_ambiguous, is_partial, uncovered
from robin.policy.patterns import HostKind
from robin.policy.providers import ProviderPermit
from robin.policy.select import Binding
from robin.policy.signing import Signing
from robin.telemetry.audit_chain import canonical

FILES_MAX: Final = 256
_AWS_REGION: Final = re.compile(rf"(?:^|\.)({REGION})\.amazonaws\.com(?:\.cn)?$")
_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPlan:
    """All that providers add to a plane. `attached` are the providers that were compiled, with their places."""

    settings: ProviderSettings
    permits: tuple[ProviderPermit, ...]
    attached: tuple[Provider, ...]


def load_providers(
    section: Mapping[str, Located],
    folder: Path,
    at: Position,
    identities: Mapping[str, str | None],
    callers: Mapping[str, tuple[str, ...]],
) -> tuple[ProviderPlan, GrantsSettings, tuple[Diagnostic, ...]]:
    """What the keys `profiles`, `providers` and `grants` of a section (read without errors) come to, and what is wrong.

    `at` is the section's place, `identities` the names of its identity sources with the one audience that each has, if it has one, and
    `callers` its short names. With an error among the diagnostics the plan is not to be used.
    """
    findings = Findings()
    grants = grants_settings(section["grants"])
    profiles = _load_profiles(section["profiles"], folder, at, findings)
    found = (_provider(item, at, callers, findings) for item in section["providers"].value)
    providers = [provider for provider in found if provider is not None]
    plan = compile_providers(providers, profiles, grants, identities, findings)
    return plan, grants, findings.ordered()


def check_profile(content: bytes, name: str, grants: GrantsSettings) -> tuple[str, tuple[Diagnostic, ...]]:
    """The pin of one profile, as if a provider without further settings used it, and what is wrong with it."""
    profile, found = read_profile(content, name)
    findings = Findings(found)
    if profile is None:
        return "", found
    provider = Provider(at=profile.at, profile=profile.id, name=profile.id, callers=frozenset({"*"}), files=None)
    plan = compile_providers([provider], {profile.id: profile}, grants, {"default": None}, findings)
    return plan.settings.pins[profile.id], findings.ordered()


def pin_of(profile: Profile) -> str:
    """SHA-256 over the RFC 8785 form of what decides where tokens go: how they are obtained and written, and the endpoints."""
    security = {
        "credentials": [_credential_fields(one) for one in profile.credentials],
        "endpoints": [
            {
                "host": one.host.text,
                "ports": list(one.ports),
                "path": one.path.text,
                "methods": str(one.methods),
                "tls": one.scheme,
                **({"signing": [one.signing.mode, one.signing.service, one.signing.region]} if one.signing.given else {}),
            }
            for one in profile.endpoints
        ],
    }
    return "sha256:" + hashlib.sha256(canonical(security)).hexdigest()


def _credential_fields(credential: ProfileCredential) -> dict[str, object]:
    grant = credential.grant
    fields: dict[str, object] = {"auth_style": credential.style, "header_name": credential.header, "header_prefix": credential.prefix}
    if credential.username:
        fields["username"] = credential.username
    return fields if grant is None else {**fields, "token_grant": _grant_fields(grant)}


def _grant_fields(grant: TokenGrant) -> dict[str, object]:
    """All but how long its token is kept. A key that has no value is left out, so that new keys do not change the pins of old files."""
    stages = grant.options if grant.kind == "chain" else ()
    later: dict[str, object] = {
        "preset": grant.preset,
        "assertion_typ": "" if grant.typ == ASSERTION_TYP else grant.typ,
        "fresh_assertion": grant.fresh_assertion,
        "stages": [_grant_fields(one) for one in cast("tuple[TokenGrant, ...]", stages)],
        **KINDS[grant.kind].pinned(grant.options),
    }
    return {
        "grant_type": grant.kind,
        "token_endpoint": grant.token_endpoint,
        "issuer": grant.issuer,
        "audience": grant.audience,
        "scopes": list(grant.scopes),
        "resource": list(grant.resources),
        "jwt_svid_audience": grant.jwt_svid_audience,
        "client_assertion_type": grant.assertion_type,
        "client_auth": grant.client_auth,
        "client_id": grant.client_id,
        "extra_params": [list(pair) for pair in grant.extra],
        "check": [grant.check_scope, grant.check_audience],
        "audience_overrides": [_override_fields(one) for one in grant.overrides],
        **{name: value for name, value in later.items() if value},
    }


def _override_fields(override: Override) -> dict[str, object]:
    return {
        "host": override.host.text,
        "port": override.port or 0,
        "path": override.path.text,
        "methods": str(override.methods),
        "audience": override.audience,
        "scopes": list(override.scopes),
        "resource": list(override.resources),
    }


# files and providers


def profile_paths(folder: Path, text: str) -> list[Path]:
    """The files of an entry of `profiles`; `*` stands in its last part only."""
    head, _, last = text.rpartition("/")
    return sorted((folder / head).glob(last)) if "*" in last else [folder / text]


def _load_profiles(patterns: Located, folder: Path, at: Position, findings: Findings) -> dict[str, Profile]:
    profiles: dict[str, Profile] = {}
    files: list[tuple[str, Position]] = []
    for item in patterns.value:
        place, text = item.at or at, str(item.value)
        head = text.rpartition("/")[0]
        if "*" in head or not text.endswith(_SUFFIXES):
            findings.error(
                place, "value_invalid", f"{shown(text)} is not a profile file", "name a .yaml, .yml or .json file; * in its last part only"
            )
            continue
        found = profile_paths(folder, text)
        if not found:
            message = f"no file matches {shown(text)}"
            findings.warn(place, "profiles_none", message, "correct it, or remove it; it is relative to the folder of this file")
        files += [(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path), place) for path in found]
    if len(files) > FILES_MAX:
        findings.error(at, "profile_too_large", f"there are {len(files)} profile files", f"use at most {FILES_MAX}")
    for name, place in files[:FILES_MAX]:
        try:
            content = _read(folder / name)
        except OSError as error:
            findings.error(place, "profile_unreadable", f"{shown(name)}: {error.strerror}", "correct the name, or its permissions")
            continue
        profile, found_in = read_profile(content, name)
        findings.extend(found_in)
        if profile is None:
            continue
        if profile.id in profiles:
            other = profiles[profile.id].at.file
            findings.error(profile.at, "profile_duplicate_id", f"{other} has the id {shown(profile.id)} too", "give each its own id")
        profiles.setdefault(profile.id, profile)
    return profiles


def _read(path: Path) -> bytes:
    """A regular file, no further than what is too large; whatever else has its place does not hold up a reload."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return opened.read(FILE_BYTES_MAX + 1)


def _provider(item: Located, at: Position, short: Mapping[str, tuple[str, ...]], findings: Findings) -> Provider | None:
    place, values = item.at or at, item.plain()
    callers = frozenset(text for name in values["callers"] for text in expand(name, short))
    for text in sorted(callers):
        if not is_caller(text):
            fix = "write an id, a name of `callers`, or *"
            findings.error(place, "value_invalid", f"{shown(text)} is no caller, pattern or short name", fix)
            return None
        if not can_call(text):
            fix = "add the name to `callers`, or write an id such as k8s:NAMESPACE/NAME"
            findings.warn(place, "caller_unknown", f"no caller has the name {shown(text)}", fix)
    if not callers:
        fix = 'list the callers that may use it, or ["*"] for every authenticated caller'
        findings.error(place, "provider_callers_missing", f"the provider of {shown(values['profile'])} has no callers", fix)
        return None
    return Provider(
        at=place,
        profile=values["profile"],
        name=values.get("name") or values["profile"],
        callers=callers,
        identity=values["identity"],
        stage1_identity=values.get("stage1_identity"),
        files=values["files"],
        permit=values["permit"],
        pin=values.get("pin"),
        unsafe_plaintext=frozenset(host.lower() for host in values["unsafe_plaintext"]),
    )


# compiling


def compile_providers(
    providers: Iterable[Provider],
    profiles: Mapping[str, Profile],
    grants: GrantsSettings,
    identities: Mapping[str, str | None],
    findings: Findings,
) -> ProviderPlan:
    """Bindings, grants and permits of all providers; what is wrong is noted in `findings`."""
    compiler = _Compiler(grants, identities, findings)
    attached: dict[str, Provider] = {}
    pins: dict[str, str] = {profile.id: pin_of(profile) for profile in profiles.values()}
    for provider in providers:
        profile = profiles.get(provider.profile)
        if profile is None and findings.failed:
            continue  # a profile could not be read, and it may be this one
        if profile is None:
            meant = nearest(provider.profile, profiles)
            fix = f"write {meant} (the nearest)" if meant else "name a profile that `profiles` lists"
            findings.error(provider.at, "provider_unknown_profile", f"there is no profile {shown(provider.profile)}", fix)
            continue
        if provider.name in attached:
            findings.error(provider.at, "value_invalid", f"two providers have the name {shown(provider.name)}", "give each its own `name`")
        attached[provider.name] = provider
        if provider.pin is not None and provider.pin != pins[profile.id]:
            text = f"the security fields of {profile.at.file} are not those that were pinned"
            findings.error(provider.at, "profile_pin_mismatch", text, f"look at what changed; then pin: {pins[profile.id]}")
        compiler.add(provider, profile)
    compiler.check()
    settings = ProviderSettings(bindings=tuple(compiler.bindings), grants=compiler.grants, pins=pins)
    return ProviderPlan(settings=settings, permits=tuple(compiler.permits), attached=tuple(attached.values()))


class _Compiler:
    """Collects what all providers come to."""

    def __init__(self, grants: GrantsSettings, identities: Mapping[str, str | None], findings: Findings) -> None:
        self.bindings: list[Binding] = []
        self.grants: dict[str, GrantPlan] = {}
        self.permits: list[ProviderPermit] = []
        self._settings = grants
        self._identities = IdentityNames(identities, findings)
        self._audiences = AssertionAudiences(findings)
        self._findings = findings
        self._places: dict[str, Position] = {}  # of the provider, by name

    def add(self, provider: Provider, profile: Profile) -> None:
        """Compile one provider."""
        self._places[provider.name] = provider.at
        self._check_plaintext(provider, profile)
        self._check_files(provider, profile)
        for name in (provider.identity, provider.stage1_identity):
            if name not in (None, "default"):
                self._identities.find(name or "", provider.at)
        subjects = {getattr(subject, "credential", "") for one in profile.credentials for subject in _subjects(one.grant)}
        active = [one for one in profile.credentials if one.name not in subjects and self._is_active(provider, one)]
        used: set[str] = set()
        for credential in active:
            self._bind(provider, profile, credential, used)
        for name in sorted(set(provider.files or ()) - used) if not self._findings.failed else ():
            self._findings.warn(provider.at, "file_unused", f"files: nothing reads that of {shown(name)}", "remove it")
        if provider.pin is None and any(_sends_tokens_of_others(one) for one in active):
            text = f"{provider.name} sends tokens of others to an issuer: whoever can edit {profile.at.file} could have them sent elsewhere"
            self._findings.warn(provider.at, "profile_pin_absent", text, "pin the profile: `robin check --profile` prints its pin")
        if provider.permit:
            for endpoint in profile.endpoints:
                if active or endpoint.tunnel:
                    self.permits += _permits(provider, endpoint)

    def check(self) -> None:
        """Compare all bindings with each other."""
        for first, second, name, witness in find_shared(self.bindings):
            text = f"{first.label} and {second.label} both match {witness}, and both write {name}"
            fix = "narrow one path or methods list, give them different callers, or detach one"
            self._findings.error(self._places[second.provider], "binding_ambiguous", text, fix)
        for overlap in find_overlaps(self.bindings):
            first, second = overlap.first, overlap.second
            at = self._places[second.provider]
            if is_ambiguous(overlap):
                text = f"{first.label} and {second.label} both match {overlap.witness} with equal rank and both write {first.header}"
                fix = "narrow one path or methods list, give them different callers, or detach one"
                self._findings.error(at, "binding_ambiguous", text, fix)
            elif is_partial(overlap):
                text = f"{first.label} and {second.label} overlap in a part of each, such as {overlap.witness}; {first.label} wins there"
                self._findings.warn(at, "partial_overlap", text, "narrow one of them if that is not meant")
            elif first.override and second.override and first.provider == second.provider and not _outside(second, first):
                text = f"{second.label} is never used: {first.label} wins everywhere in it"
                self._findings.warn(at, "override_unused", text, "remove it, or narrow the other one")

    def _is_active(self, provider: Provider, credential: ProfileCredential) -> bool:
        if credential.takes_file and provider.files is not None and credential.name in provider.files:
            return True
        if not credential.inactive:
            return credential.grant is not None
        text = f"nothing provides the credential {shown(credential.name)}: {credential.inactive}"
        fix = "add a token_grant, or a file for it in `files` of the provider" if credential.takes_file else "use one that is supported"
        if credential.required and not (credential.takes_file and provider.files is None):
            self._findings.error(credential.at, "credential_required", text, fix)
        else:
            self._findings.warn(credential.at, "credential_inactive", text, fix)
        return False

    def _check_files(self, provider: Provider, profile: Profile) -> None:
        names = [one.name for one in profile.credentials]
        known = [*names, *(name + KEY_SUFFIX for name in names)]
        for name in provider.files or ():
            if name not in known:
                meant = nearest(name, known)
                fix = f"write {meant} (the nearest)" if meant else "use the name of a credential, or that and .key"
                self._findings.error(provider.at, "value_invalid", f"files: the profile has no credential {shown(name)}", fix)

    def _check_plaintext(self, provider: Provider, profile: Profile) -> None:
        for endpoint in profile.endpoints:
            host = endpoint.host
            named = host.kind is HostKind.EXACT and (names_loopback(host.text) or host.text in provider.unsafe_plaintext)
            if endpoint.scheme == "http" and not named:
                text = f"a credential for {host.text} would travel over http"
                fix = "use tls: terminate, or name the exact host in unsafe_plaintext of the provider"
                self._findings.error(endpoint.at, "endpoint_plaintext", text, fix)

    def _bind(self, provider: Provider, profile: Profile, credential: ProfileCredential, used: set[str]) -> None:
        compiling = Compiling(
            provider=provider,
            profile=profile,
            credential=credential,
            settings=self._settings,
            findings=self._findings,
            identities=self._identities,
            audiences=self._audiences,
            compile_stage=_compile_grant,
            used_files=used,
        )
        grant = credential.grant
        plan = plan_of_file(compiling, credential.at) if grant is None else _compile_grant(compiling, grant)
        if plan is None:
            return
        reach = _reach(provider, profile)
        name = self._keep(plan, reach)
        base: list[Binding] = []
        for endpoint in profile.endpoints:
            if not endpoint.tunnel:
                places = enumerate(endpoint.ports)
                signing = self._signing(endpoint) if plan.signs else None
                base += [_binding(provider, credential, endpoint, port, name, len(base) + at, plan, signing) for at, port in places]
        found = list(base)
        for override in () if grant is None else grant.overrides:
            assert grant is not None
            changed = replace(
                grant,
                audience=override.audience,
                scopes=override.scopes or grant.scopes,
                resources=override.resources or grant.resources,
            )
            inner_plan = _compile_grant(replace(compiling, is_override=True), changed)
            if inner_plan is None:
                continue
            inner = _override_bindings(override, base, self._keep(inner_plan, reach), len(found))
            if not inner:
                self._note_uncovered(override, base)
            found += inner
        self.bindings += found

    def _signing(self, endpoint: ProfileEndpoint) -> Signing | None:
        """How requests to an endpoint are signed; what is missing is noted."""
        asked, error = endpoint.signing, self._findings.error
        mode = asked.mode or "sigv4"
        label = found[1] if (found := _AWS_REGION.search(endpoint.host.text)) is not None else ""
        region = asked.region or label
        if not asked.service:
            text = f"requests to {endpoint.host.text} are signed, and the service is not known"
            error(asked.at, "signing_service_required", text, "add signing_service, such as s3 or dynamodb")
        if not region:
            text = f"requests to {endpoint.host.text} are signed, and the host does not name a region"
            error(asked.at, "signing_region_required", text, "add signing_region, such as eu-west-1")
        if mode == "sigv4:no_body" and endpoint.scheme == "http":
            text = "sigv4:no_body sends a body that nothing protects over http"
            error(asked.at, "value_invalid", text, "use tls: terminate, or credential_signing: sigv4:body")
        return Signing(mode=mode, service=asked.service, region=region, limit_bytes=self._settings.signing_max_body_bytes)

    def _keep(self, plan: GrantPlan, reach: bytes) -> str:
        """The name of the resolved grant; its plan is kept under it. Equal names are equal plans and reaches, in every generation."""
        digest = digest_of(plan.key.hex(), plan.header, plan.prefix, plan.username, *plan.also, *plan.also_values, reach.hex()).hex()
        name = f"{plan.provider}/{plan.credential.replace(' ', '_')}~{digest[:16]}"
        self.grants[name] = plan
        return name

    def _note_uncovered(self, override: Override, base: Sequence[Binding]) -> None:
        best, part = -1, f"host {override.host.text}"
        for one in base:
            outside = _uncovered_by(override, one)
            order = ("host", "port", "path", "methods").index(outside.partition(" ")[0])
            if order > best:
                best, part = order, outside
        text = f"the override for {override.host.text} is not inside one endpoint: no endpoint has {part}"
        self._findings.error(override.at, "override_not_subset", text, "narrow the override, or widen the endpoint")


def _compile_grant(compiling: Compiling, grant: TokenGrant) -> GrantPlan | None:
    return KINDS[grant.kind].compile(compiling, grant)


def _subjects(grant: TokenGrant | None) -> list[object]:
    """What the grant and its stages exchange, where their kind has such a thing."""
    if grant is None:
        return []
    stages = cast("tuple[TokenGrant, ...]", grant.options) if grant.kind == "chain" else (grant,)
    return [getattr(one.options, "subject", one.options) for one in stages]


def _sends_tokens_of_others(credential: ProfileCredential) -> bool:
    grant = credential.grant
    return grant is not None and KINDS[grant.kind].others_tokens(grant.options)


def _reach(provider: Provider, profile: Profile) -> bytes:
    """What names the callers and places of a provider: a request that waits for a token does not outlive a change of them."""
    places = [f"{one.scheme} {one.host.text} {one.ports} {one.path.text} {one.methods}" for one in profile.endpoints]
    return digest_of(digest_of(*sorted(provider.callers)).hex(), *places)


def _outside(inner: Binding, outer: Binding) -> str:
    return uncovered(inner.host, inner.port, inner.path, inner.methods, outer)


def _uncovered_by(override: Override, base: Binding) -> str:
    """What of the override is outside this endpoint; what the override leaves out is the endpoint's own."""
    path = base.path if override.path.is_any else override.path
    methods = base.methods if override.methods.names is None else override.methods
    return uncovered(override.host, override.port or base.port, path, methods, base)


def _binding(
    provider: Provider,
    credential: ProfileCredential,
    endpoint: ProfileEndpoint,
    port: int,
    grant: str,
    index: int,
    plan: GrantPlan,
    signing: Signing | None,
) -> Binding:
    return Binding(
        provider=provider.name,
        credential=credential.name,
        index=index,
        callers=provider.callers,
        scheme=endpoint.scheme,
        host=endpoint.host,
        port=port,
        path=endpoint.path,
        methods=endpoint.methods,
        override=False,
        header=credential.header,
        prefix=plan.prefix,
        grant=grant,
        rules=endpoint.rules,
        allowed_ips=endpoint.allowed_ips,
        also=plan.also,
        signing=signing,
        placeholder=credential.placeholder,
        subject_fields=frozenset(one.subject_header for one in plan.stages if one.subject_header),
    )


def _override_bindings(override: Override, base: Sequence[Binding], grant: str, index: int) -> list[Binding]:
    """One for each endpoint and port that the override is inside of."""
    found: list[Binding] = []
    for one in base:
        if _uncovered_by(override, one):
            continue
        path = one.path if override.path.is_any else override.path
        methods = one.methods if override.methods.names is None else override.methods
        inner = replace(one, host=override.host, path=path, methods=methods, override=True, grant=grant, index=index + len(found))
        found.append(inner)
    return found


def _permits(provider: Provider, endpoint: ProfileEndpoint) -> list[ProviderPermit]:
    return [
        ProviderPermit(
            provider=provider.name,
            callers=provider.callers,
            scheme=endpoint.scheme,
            host=endpoint.host,
            port=port,
            path=endpoint.path,
            methods=endpoint.methods,
            tunnel=endpoint.tunnel,
            upgrade=endpoint.rules.upgrade_only,
            encoded_slash=endpoint.rules.allow_encoded_slash,
            allowed_ips=endpoint.allowed_ips,
        )
        for port in endpoint.ports
    ]
