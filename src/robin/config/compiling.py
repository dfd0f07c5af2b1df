"""One credential of one provider while it becomes a plan: what a grant kind asks of its provider, and what it notes."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from robin.config import file_modes
from robin.config.diagnostic import Position
from robin.config.parse import nearest, shown
from robin.config.profile_keys import Findings
from robin.config.profile_parts import Profile, ProfileCredential, TokenGrant
from robin.grants.files import UnusableFile, read_key
from robin.grants.settings import GrantPlan, GrantsSettings, TokenRequestSettings, origin_of
from robin.policy.issuers import is_no_issuer, names_loopback

KEY_SUFFIX: Final = ".key"
_REALM: Final = re.compile(r"(.+/realms/[^/]+)/protocol/openid-connect/token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider as it is configured. `callers` are texts of patterns, `unsafe_plaintext` exact hosts that may be spoken to over http.

    `files`: by the name of a credential its token, and by that name and `.key` its private key; None: they are not known, only the profile
    is checked. `stage1_identity` None: there is no such stage.
    """

    at: Position
    profile: str
    name: str
    callers: frozenset[str]
    identity: str = "default"
    stage1_identity: str | None = None
    files: Mapping[str, str] | None = field(default_factory=dict)
    permit: bool = True
    pin: str | None = None
    unsafe_plaintext: frozenset[str] = frozenset()


class IdentityNames:
    """The identity sources of the configuration, and the one audience that each has, if it has one."""

    __slots__ = ("_audiences", "_findings")

    def __init__(self, audiences: Mapping[str, str | None], findings: Findings) -> None:
        self._audiences = audiences
        self._findings = findings

    def resolve(self, name: str) -> str | None:
        """The source of this name, None where there is none; `default` is also the only one."""
        if name in self._audiences:
            return name
        return next(iter(self._audiences)) if name == "default" and len(self._audiences) == 1 else None

    def find(self, name: str, at: Position) -> str:
        """The same; that there is none is noted."""
        found = self.resolve(name)
        if found is not None:
            return found
        fix = f"use {', '.join(self._audiences)}" if self._audiences else "add it to `identities`"
        self._findings.error(at, "identity_unknown", f"there is no identity {shown(name)}", fix)
        return name

    def audience_of(self, name: str) -> str | None:
        """The one audience of its tokens; None where they are asked for by audience."""
        return self._audiences.get(name)


class AssertionAudiences:
    """Which issuer each audience of identity tokens belongs to: with one audience for two, each could replay tokens at the other."""

    __slots__ = ("_findings", "_known")

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._known: dict[str, tuple[str, str]] = {}  # issuer origin, and the credential that has it

    def note(self, audience: str, origin: str, label: str, at: Position) -> None:
        """One more use of an audience."""
        known_origin, known_label = self._known.setdefault(audience, (origin, label))
        if known_origin != origin:
            text = f"{known_label} and {label} send assertions with one audience to two issuers: each could replay them at the other"
            self._findings.error(at, "assertion_audience_shared", text, "give each its own jwt_svid_audience")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compiling:
    """One credential of one provider. `compile_stage` compiles another grant for the same, such as a stage of a chain.

    `used_files` collects the names of files that are read. `is_override`: it is compiled once more for an override, so what does not depend
    on that was noted before.
    """

    provider: Provider
    profile: Profile
    credential: ProfileCredential
    settings: GrantsSettings
    findings: Findings
    identities: IdentityNames
    audiences: AssertionAudiences
    compile_stage: Callable[["Compiling", TokenGrant], GrantPlan | None]
    used_files: set[str] = field(default_factory=set)
    is_override: bool = False

    @property
    def label(self) -> str:
        """How messages name the credential."""
        return f"{self.provider.name}/{self.credential.name}"

    def error(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note an error."""
        self.findings.error(at, code, message, fix)

    def warn(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note a warning, unless it was noted for the grant without its override."""
        if not self.is_override:
            self.findings.warn(at, code, message, fix)

    def plan(self, **parts: Any) -> GrantPlan:
        """A plan of this credential."""
        one = self.credential
        return GrantPlan(
            provider=self.provider.name,
            credential=one.name,
            header=one.header,
            prefix=one.prefix,
            style=one.style,
            username=one.username,
            issuer="" if one.grant is None else one.grant.issuer,
            **parts,
        )

    def identity(self, audience: str, *, source: str | None = None) -> str:
        """The name of the identity source of the provider, or of `source`, whose tokens for `audience` are sent."""
        name = self.identities.find(self.provider.identity if source is None else source, self.provider.at)
        fixed = self.identities.audience_of(name)
        if fixed is not None and fixed != audience:
            text = f"{self.label} needs identity tokens for {shown(audience)}, and those of {name} are for another"
            fix = "give it an identity for this audience, or set jwt_svid_audience as the issuer documents it"
            self.error(self.provider.at, "identity_audience_mismatch", text, fix)
        return name

    def file(self, name: str, at: Position, what: str) -> str:
        """The path of a file that the provider must name: `what` is said where it does not."""
        files = self.provider.files
        if files is None:
            return "/"  # not known, and never read
        if name not in files:
            self.error(at, "value_invalid", f"{what} needs a file", f"add {shown(name)} to `files` of the provider {self.provider.name}")
            return "/"
        self.used_files.add(name)
        path = files[name]
        if not os.path.exists(path):
            text = f"files: that of {shown(name)} is not there: requests that need it are refused until it is"
            self.warn(self.provider.at, "file_missing", text, "write it there, or correct its path")
        elif name.endswith(KEY_SUFFIX):
            self._check_key(path)
        elif _others_may_write(path):
            fix = "chmod 0640 it, or mount it read-only"
            self.error(self.provider.at, "secret_file_writable", f"others can write the token file of {shown(name)}", fix)
        return path

    def _check_key(self, path: str) -> None:
        try:
            read_key(path)
        except UnusableFile as unusable:
            if unusable.reason != "missing":
                text = f"the key of {self.label} cannot be used: {unusable.text}"
                fix = f"use an RSA key of 2048 bits or more, or P-256, in PEM or JWK; {file_modes.KEY_MODE_FIX}"
                self.error(self.provider.at, "key_unusable", text, fix)

    def check_endpoint(self, grant: TokenGrant) -> bool:
        """Whether the token endpoint is one; what is wrong is noted."""
        code, text = judge_token_endpoint(grant.token_endpoint, self.provider.unsafe_plaintext)
        if code and not self.is_override:
            fix = "use an https URL; http is for loopback, and for hosts in unsafe_plaintext of the provider"
            self.error(grant.endpoint_at, code, text, fix)
        return not code

    def assertion_audience(self, grant: TokenGrant, *, sent: bool) -> str:
        """The audience of the identity token, or of the assertion that is signed; `sent`: one of them is."""
        audience, guessed = assertion_audience(grant)
        if guessed and sent:
            text = f"the identity token for {self.label} is asked for with the token endpoint's URL as its audience"
            fix = "add `issuer` or `jwt_svid_audience` as the issuer documents it"
            self.warn(grant.at, "assertion_audience_guessed", text, fix)
        if sent and not grant.shares_audience:
            self.audiences.note(audience, origin_of(grant.token_endpoint), self.label, grant.at)
        return audience

    def token_request(self, grant: TokenGrant, audience: str, **parts: Any) -> TokenRequestSettings:
        """The settings of a call to the token endpoint, with those of the kind in `parts`."""
        return TokenRequestSettings(
            kind=grant.kind,
            token_endpoint=grant.token_endpoint,
            assertion_audience=audience,
            assertion_type=grant.assertion_type,
            client_auth=grant.client_auth,
            client_id=grant.client_id,
            typ=grant.typ,
            algorithms=grant.algorithms,
            audience=grant.audience,
            resources=grant.resources,
            scopes=grant.scopes,
            extra=grant.extra,
            intermediate=grant.intermediate,
            fresh_assertion=grant.fresh_assertion,
            cap_s=grant.cap_s,
            check_scope=grant.check_scope,
            check_audience=grant.check_audience,
            issuer=self.settings.issuer,
            **parts,
        )

    def key_file(self, grant: TokenGrant) -> str:
        """The private key of the client, where it signs its assertions; else ""."""
        if grant.client_auth != "private_key_jwt":
            return ""
        return self.file(self.credential.name + KEY_SUFFIX, grant.at, "client_auth: private_key_jwt")

    def sibling(self, name: str) -> ProfileCredential | None:
        """Another credential of the profile."""
        return next((one for one in self.profile.credentials if one.name == name and one is not self.credential), None)

    def nearest_sibling(self, name: str) -> str:
        """The name that was probably meant."""
        return nearest(name, [one.name for one in self.profile.credentials if one is not self.credential]) or ""


def assertion_audience(grant: TokenGrant) -> tuple[str, bool]:
    """The one audience of the identity token, and whether it is only the URL of the token endpoint for want of anything better."""
    realm = _REALM.fullmatch(grant.token_endpoint)
    audience = grant.jwt_svid_audience or grant.preset_audience or grant.issuer or (realm[1] if realm is not None else "")
    return audience or grant.token_endpoint, not audience


def judge_token_endpoint(text: str, unsafe_plaintext: frozenset[str]) -> tuple[str, str]:
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
    if is_no_issuer(host):
        return "token_endpoint_invalid", "token_endpoint is an address that is never dialled"
    if url.scheme == "http" and not names_loopback(host) and host not in unsafe_plaintext:
        return "token_endpoint_insecure", f"identity tokens for {shown(host)} would travel over http"
    return "", ""


def _others_may_write(path: str) -> bool:
    """Whether it is there, and any user can write it; one that is not there yet makes only its own requests fail."""
    try:
        return file_modes.others_may(path, file_modes.WRITE)
    except OSError:
        return False
