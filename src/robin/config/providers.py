"""Profiles and providers -> bindings and grants, checked against each other: ambiguity, overrides, plaintext, pins, shared audiences."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import nearest, shown
from robin.config.profile import Findings, Override, Profile, ProfileCredential, ProfileEndpoint, TokenGrant, read_profile
from robin.config.provider_schema import GrantsSettings, grants_settings
from robin.config.yaml_reader import Located
from robin.grants.settings import ClientCredentialsSettings, digest_of
from robin.policy.issuers import names_loopback
from robin.policy.overlap import find_overlaps, is_ambiguous, is_partial, uncovered
from robin.policy.patterns import HostKind
from robin.policy.providers import ProviderPermit
from robin.policy.select import Binding
from robin.telemetry.audit_chain import canonical

FILES_MAX: Final = 256
_SUFFIXES: Final = (".yaml", ".yml", ".json")
_REALM: Final = re.compile(r"(.+/realms/[^/]+)/protocol/openid-connect/token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider as it is configured. `callers` are names; `unsafe_plaintext` exact hosts that may be spoken to over http."""

    at: Position
    profile: str
    name: str
    callers: frozenset[str]
    identity: str = "default"
    permit: bool = True
    pin: str | None = None
    unsafe_plaintext: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantPlan:
    """How the token of some bindings is obtained and written. `identity` names its source; `settings` None: it is that of the identity."""

    provider: str
    credential: str
    header: str
    prefix: str
    identity: str
    audience: str
    settings: ClientCredentialsSettings | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPlan:
    """All that providers add to a plane. `grants`: by the name that bindings have in `Binding.grant`. `pins`: by profile id."""

    bindings: tuple[Binding, ...]
    grants: Mapping[str, GrantPlan]
    permits: tuple[ProviderPermit, ...]
    pins: Mapping[str, str]


def load_providers(
    section: Mapping[str, Located], folder: Path, at: Position, identities: Sequence[str]
) -> tuple[ProviderPlan, GrantsSettings, tuple[Diagnostic, ...]]:
    """What the keys `profiles`, `providers` and `grants` of a section (read without errors) come to, and what is wrong.

    `at` is the section's place, `identities` the names of its identity sources. With an error among the diagnostics the plan is not to be
    used.
    """
    findings = Findings()
    grants = grants_settings(section["grants"])
    profiles = _load_profiles(section["profiles"], folder, at, findings)
    providers = [provider for item in section["providers"].value if (provider := _provider(item, at, findings)) is not None]
    plan = compile_providers(providers, profiles, grants, identities, findings)
    return plan, grants, findings.ordered()


def check_profile(content: bytes, name: str, grants: GrantsSettings) -> tuple[str, tuple[Diagnostic, ...]]:
    """The pin of one profile, as if a provider without further settings used it, and what is wrong with it."""
    profile, found = read_profile(content, name)
    findings = Findings(found)
    if profile is None:
        return "", found
    provider = Provider(at=profile.at, profile=profile.id, name=profile.id, callers=frozenset({"*"}))
    plan = compile_providers([provider], {profile.id: profile}, grants, ("default",), findings)
    return plan.pins[profile.id], findings.ordered()


def pin_of(profile: Profile) -> str:
    """SHA-256 over the RFC 8785 form of what decides where tokens go: how they are obtained and written, and the endpoints."""
    security = {
        "credentials": [_credential_fields(one) for one in profile.credentials],
        "endpoints": [
            {"host": one.host.text, "ports": list(one.ports), "path": one.path.text, "methods": str(one.methods), "tls": one.scheme}
            for one in profile.endpoints
        ],
    }
    return "sha256:" + hashlib.sha256(canonical(security)).hexdigest()


def _credential_fields(credential: ProfileCredential) -> dict[str, object]:
    grant = credential.grant
    fields: dict[str, object] = {"auth_style": credential.style, "header_name": credential.header, "header_prefix": credential.prefix}
    if grant is not None:
        fields["token_grant"] = {
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
        }
    return fields


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


def _load_profiles(patterns: Located, folder: Path, at: Position, findings: Findings) -> dict[str, Profile]:
    profiles: dict[str, Profile] = {}
    files: list[tuple[str, Position]] = []
    for item in patterns.value:
        place, text = item.at or at, str(item.value)
        head, _, last = text.rpartition("/")
        if "*" in head or not text.endswith(_SUFFIXES):
            findings.error(
                place, "value_invalid", f"{shown(text)} is not a profile file", "name a .yaml, .yml or .json file; * in its last part only"
            )
            continue
        found = sorted((folder / head).glob(last)) if "*" in last else [folder / text]
        files += [(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path), place) for path in found]
    if len(files) > FILES_MAX:
        findings.error(at, "profile_too_large", f"there are {len(files)} profile files", f"use at most {FILES_MAX}")
    for name, place in files[:FILES_MAX]:
        try:
            content = (folder / name).read_bytes()
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


def _provider(item: Located, at: Position, findings: Findings) -> Provider | None:
    place, values = item.at or at, item.plain()
    for name in ("stage1_identity", "files"):
        if values.get(name):
            findings.error(item.value[name].at or place, "not_supported", f"{name} is not built yet", "remove it")
    callers = frozenset(values["callers"])
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
        permit=values["permit"],
        pin=values.get("pin"),
        unsafe_plaintext=frozenset(host.lower() for host in values["unsafe_plaintext"]),
    )


# compiling


def compile_providers(
    providers: Iterable[Provider], profiles: Mapping[str, Profile], grants: GrantsSettings, identities: Sequence[str], findings: Findings
) -> ProviderPlan:
    """Bindings, grants and permits of all providers; what is wrong is noted in `findings`."""
    compiler = _Compiler(grants, identities, findings)
    names: set[str] = set()
    pins: dict[str, str] = {profile.id: pin_of(profile) for profile in profiles.values()}
    for provider in providers:
        profile = profiles.get(provider.profile)
        if profile is None:
            meant = nearest(provider.profile, profiles)
            fix = f"write {meant} (the nearest)" if meant else "name a profile that `profiles` lists"
            findings.error(provider.at, "provider_unknown_profile", f"there is no profile {shown(provider.profile)}", fix)
            continue
        if provider.name in names:
            findings.error(provider.at, "value_invalid", f"two providers have the name {shown(provider.name)}", "give each its own `name`")
        names.add(provider.name)
        if provider.pin is not None and provider.pin != pins[profile.id]:
            text = f"the security fields of {profile.at.file} are not those that were pinned"
            findings.error(provider.at, "profile_pin_mismatch", text, f"look at what changed; then pin: {pins[profile.id]}")
        compiler.add(provider, profile)
    compiler.check()
    return ProviderPlan(bindings=tuple(compiler.bindings), grants=compiler.grants, permits=tuple(compiler.permits), pins=pins)


class _Compiler:
    """Collects what all providers come to."""

    def __init__(self, grants: GrantsSettings, identities: Sequence[str], findings: Findings) -> None:
        self.bindings: list[Binding] = []
        self.grants: dict[str, GrantPlan] = {}
        self.permits: list[ProviderPermit] = []
        self._settings = grants
        self._identities = tuple(identities)
        self._findings = findings
        self._places: dict[str, Position] = {}  # of the provider, by name
        self._audiences: dict[str, tuple[str, str]] = {}  # assertion audience -> issuer origin and the credential that has it

    def add(self, provider: Provider, profile: Profile) -> None:
        """Compile one provider."""
        self._places[provider.name] = provider.at
        self._check_plaintext(provider, profile)
        identity = self._identity(provider)
        active = [one for one in profile.credentials if self._is_active(one)]
        for credential in active:
            self._bind(provider, profile, credential, identity)
        if provider.permit:
            for endpoint in profile.endpoints:
                if active or endpoint.tunnel:
                    self.permits += _permits(provider, endpoint)

    def check(self) -> None:
        """Compare all bindings with each other."""
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

    def _identity(self, provider: Provider) -> str:
        if provider.identity in self._identities:
            return provider.identity
        if provider.identity == "default" and len(self._identities) == 1:
            return self._identities[0]
        fix = f"use {', '.join(self._identities)}" if self._identities else "add it to `identities`"
        self._findings.error(provider.at, "identity_unknown", f"there is no identity {shown(provider.identity)}", fix)
        return provider.identity

    def _is_active(self, credential: ProfileCredential) -> bool:
        if not credential.inactive:
            return credential.grant is not None
        text = f"nothing provides the credential {shown(credential.name)}: {credential.inactive}"
        if credential.required:
            self._findings.error(credential.at, "credential_required", text, "add a token_grant")
        else:
            self._findings.warn(credential.at, "credential_inactive", text, "add a token_grant, or remove it")
        return False

    def _check_plaintext(self, provider: Provider, profile: Profile) -> None:
        for endpoint in profile.endpoints:
            host = endpoint.host
            named = host.kind is HostKind.EXACT and (names_loopback(host.text) or host.text in provider.unsafe_plaintext)
            if endpoint.scheme == "http" and not named:
                text = f"a credential for {host.text} would travel over http"
                fix = "use tls: terminate, or name the exact host in unsafe_plaintext of the provider"
                self._findings.error(endpoint.at, "endpoint_plaintext", text, fix)

    def _check_token_endpoint(self, provider: Provider, grant: TokenGrant) -> bool:
        code, text = _judge_token_endpoint(grant.token_endpoint, provider.unsafe_plaintext)
        if code:
            fix = "use an https URL; http is for loopback, and for hosts in unsafe_plaintext of the provider"
            self._findings.error(grant.endpoint_at, code, text, fix)
        return not code

    def _bind(self, provider: Provider, profile: Profile, credential: ProfileCredential, identity: str) -> None:
        grant = credential.grant
        assert grant is not None
        if grant.kind == "client_credentials" and not self._check_token_endpoint(provider, grant):
            return
        if grant.kind == "forward" and not all([grant.audience, *(one.audience for one in grant.overrides)]):
            self._findings.error(grant.at, "value_invalid", "grant_type forward needs an audience", "add `audience`")
            return
        reach = _reach(provider, profile)
        name = self._grant_name(provider, credential, grant, identity, reach)
        base: list[Binding] = []
        for endpoint in profile.endpoints:
            if not endpoint.tunnel:
                base += [_binding(provider, credential, endpoint, port, name, len(base) + at) for at, port in enumerate(endpoint.ports)]
        found = list(base)
        for override in grant.overrides:
            changed = replace(
                grant,
                audience=override.audience,
                scopes=override.scopes or grant.scopes,
                resources=override.resources or grant.resources,
            )
            inner = _override_bindings(override, base, self._grant_name(provider, credential, changed, identity, reach), len(found))
            if not inner:
                self._note_uncovered(override, base)
            found += inner
        self.bindings += found

    def _grant_name(self, provider: Provider, credential: ProfileCredential, grant: TokenGrant, identity: str, reach: bytes) -> str:
        """The name of the resolved grant; its plan is kept under it. Equal names are equal plans and reaches, in every generation."""
        settings = None
        audience = grant.audience
        if grant.kind == "client_credentials":
            audience = self._assertion_audience(provider, credential, grant)
            settings = ClientCredentialsSettings(
                token_endpoint=grant.token_endpoint,
                assertion_audience=audience,
                assertion_type=grant.assertion_type,
                client_auth=grant.client_auth,
                client_id=grant.client_id,
                audience=grant.audience,
                resources=grant.resources,
                scopes=grant.scopes,
                extra=grant.extra,
                cap_s=grant.cap_s,
                check_scope=grant.check_scope,
                check_audience=grant.check_audience,
                issuer=self._settings.issuer,
            )
        key = digest_of("forward", identity, audience) if settings is None else settings.key(identity)
        digest = digest_of(key.hex(), credential.header, credential.prefix, reach.hex()).hex()
        name = f"{provider.name}/{credential.name.replace(' ', '_')}~{digest[:16]}"
        self.grants[name] = GrantPlan(
            provider=provider.name,
            credential=credential.name,
            header=credential.header,
            prefix=credential.prefix,
            identity=identity,
            audience=audience,
            settings=settings,
        )
        return name

    def _assertion_audience(self, provider: Provider, credential: ProfileCredential, grant: TokenGrant) -> str:
        audience, guessed = assertion_audience(grant.token_endpoint, grant.issuer, grant.jwt_svid_audience)
        label = f"{provider.name}/{credential.name}"
        if guessed and grant.client_auth == "identity" and grant is credential.grant:
            text = f"the identity token for {label} is asked for with the token endpoint's URL as its audience"
            self._findings.warn(
                grant.at, "assertion_audience_guessed", text, "add `issuer` or `jwt_svid_audience` as the issuer documents it"
            )
        url = urlsplit(grant.token_endpoint)
        origin = f"{url.scheme}://{url.netloc}"
        known_origin, known_label = self._audiences.setdefault(audience, (origin, label))
        if known_origin != origin and grant.client_auth == "identity":
            text = f"{known_label} and {label} send assertions with one audience to two issuers: each could replay them at the other"
            self._findings.error(grant.at, "assertion_audience_shared", text, "give each its own jwt_svid_audience")
        return audience

    def _note_uncovered(self, override: Override, base: Sequence[Binding]) -> None:
        best, part = -1, f"host {override.host.text}"
        for one in base:
            outside = _uncovered_by(override, one)
            order = ("host", "port", "path", "methods").index(outside.partition(" ")[0])
            if order > best:
                best, part = order, outside
        text = f"the override for {override.host.text} is not inside one endpoint: no endpoint has {part}"
        self._findings.error(override.at, "override_not_subset", text, "narrow the override, or widen the endpoint")


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


def _binding(provider: Provider, credential: ProfileCredential, endpoint: ProfileEndpoint, port: int, grant: str, index: int) -> Binding:
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
        prefix=credential.prefix,
        grant=grant,
        rules=endpoint.rules,
        allowed_ips=endpoint.allowed_ips,
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
        )
        for port in endpoint.ports
    ]


def assertion_audience(token_endpoint: str, issuer: str, jwt_svid_audience: str) -> tuple[str, bool]:
    """The one audience of the identity token, and whether it is only the URL of the token endpoint for want of anything better."""
    realm = _REALM.fullmatch(token_endpoint)
    audience = jwt_svid_audience or issuer or (realm[1] if realm is not None else "")
    return audience or token_endpoint, not audience


def _judge_token_endpoint(text: str, unsafe_plaintext: frozenset[str]) -> tuple[str, str]:
    """A code and what is wrong; "" if nothing is."""
    try:
        url = urlsplit(text)
        port, host = url.port, (url.hostname or "").lower()
    except ValueError:
        return "token_endpoint_invalid", "token_endpoint is not a URL"
    if not text.isascii() or not text.isprintable() or " " in text or url.scheme not in ("http", "https") or not host or port == 0:
        return "token_endpoint_invalid", "token_endpoint is not an http or https URL"
    if "@" in url.netloc or "?" in text or "#" in text:
        return "token_endpoint_invalid", "token_endpoint has user information, a query or a fragment"
    if url.scheme == "http" and not names_loopback(host) and host not in unsafe_plaintext:
        return "token_endpoint_insecure", f"identity tokens for {shown(host)} would travel over http"
    return "", ""
