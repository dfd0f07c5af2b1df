"""Who asks: the certificate of the TLS connection, a token of the tokens file, or both; an agent of the policy comes of it.

Every failure is one 401 with one body; the cause stands in the audit alone.
"""

import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.exchange import Agent, Connected, KubeExchange
from robin.planes.kube.state import TRUST_DOMAIN
from robin.policy.kube.judge import agent_of
from robin.policy.kube.rules import PolicyDocument
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy

AGENT_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,40}[a-z0-9])?")
UNKNOWN: Final = "-"
_TOKEN: Final = re.compile(rb"rbk_[A-Za-z0-9_-]{43}")
_LOCAL: Final = f"spiffe://{TRUST_DOMAIN}/agent/"
_FILE_BYTES: Final = 8 * 1024 * 1024
_LOOK_S: Final = 1.0
_CERTIFICATES_MAX: Final = 256


class Unauthenticated(Exception):
    """No agent comes of this request. `cause` is for the audit."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class HoldsPolicy(Protocol):
    """Where the loaded policy is found; it may be replaced while the process runs."""

    @property
    def policy(self) -> PolicyDocument:
        """The policy in force."""
        ...

    @property
    def digest(self) -> str:
        """Its digest, as it stands in records."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One credential that was verified: the identity it shows, the agent that owns it (`-`: none), and when it ends (epoch)."""

    agent: str
    identity: str
    authn: str
    ends_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MtlsSettings:
    """`local`: certificates come of the local CA of the state folder, whose SPIFFE IDs name agents."""

    trust_domains: frozenset[str]
    cn: bool
    local: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    agent: str
    expires: float


class TokensFile:
    """Tokens by digest. The file is looked at once a second at most; a file that cannot be read keeps the tokens read before."""

    __slots__ = ("_clock", "_looked_at", "_path", "_seen", "_tokens", "failure")

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read the file. Raises ValueError, OSError."""
        self._path = path
        self._clock = clock
        self._tokens: dict[str, _Token] = {}
        self._seen: tuple[int, ...] = ()
        self._looked_at = -_LOOK_S
        self.failure = ""
        self._read()

    def find(self, token: bytes) -> _Token | None:
        """The entry of a token, if it is in the file."""
        now = self._clock.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            try:
                self._read()
                self.failure = ""
            except (OSError, ValueError):
                self.failure = "tokens_file"
        digest = hashlib.sha256(token).hexdigest()
        found = None
        for known, entry in self._tokens.items():
            if hmac.compare_digest(known, digest):
                found = entry
        return found

    def _read(self) -> None:
        status = os.stat(self._path)
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if seen == self._seen:
            return
        if status.st_size > _FILE_BYTES:
            raise ValueError("the tokens file is too large")
        tokens = {}
        for line in self._path.read_bytes().splitlines():
            if line.strip():
                entry = json.loads(line)
                tokens[str(entry["sha256"])] = _Token(agent=str(entry["agent"]), expires=float(entry["expires"]))
        self._tokens, self._seen = tokens, seen


class Authenticator:
    """From a connection and a head to the agent."""

    __slots__ = ("_audit", "_certificates", "_clock", "_entropy", "_mtls", "_policies", "_tokens")

    def __init__(
        self, *, mtls: MtlsSettings, tokens: TokensFile, policies: HoldsPolicy, audit: KubeAudit, clock: Clock, entropy: Entropy
    ) -> None:
        self._mtls = mtls
        self._tokens = tokens
        self._policies = policies
        self._audit = audit
        self._clock = clock
        self._entropy = entropy
        self._certificates: dict[bytes, tuple[str, str, float]] = {}

    async def authenticate(self, head: RequestHead, caller: Caller) -> Caller:
        """The agent of one request. Raises Fault `kube.unauthenticated`."""
        assert isinstance(caller, Connected)
        at = self._clock.wall()
        id_ = make_id(at, self._entropy.token_hex)
        try:
            evidence = self._judge(head, caller, at)
        except Unauthenticated as failure:
            self._audit.auth_failed(id_, cause=failure.cause, peer=caller.address)
            raise Fault("kube.unauthenticated", "unauthenticated: present the certificate or the token of an agent") from None
        exchange = KubeExchange(
            id_=id_,
            agent=evidence.agent,
            identity=evidence.identity,
            authn=evidence.authn,
            peer=caller.address,
            at=at,
            identity_ends_at=evidence.ends_at,
        )
        return Agent(
            evidence=caller.evidence,
            listener=caller.listener,
            address=caller.address,
            certificate=caller.certificate,
            reset=caller.reset,
            exchange=exchange,
        )

    def _judge(self, head: RequestHead, caller: Caller, now: float) -> Evidence:
        fields = head.values(b"authorization")
        if len(fields) > 1:
            raise Fault("kube.request_malformed", "repeated: Authorization may stand once")
        shown = [] if caller.certificate is None else [self._by_certificate(caller.certificate, now)]
        if fields:
            shown.append(self._by_bearer(fields[0], now))
        if not shown:
            raise Unauthenticated("no_credential")
        if len(shown) > 1 and shown[0].agent != shown[1].agent:
            raise Unauthenticated("identity_conflict")
        ends = [one.ends_at for one in shown if one.ends_at is not None]
        return Evidence(agent=shown[0].agent, identity=shown[0].identity, authn=shown[0].authn, ends_at=min(ends, default=None))

    def _by_bearer(self, field: bytes, now: float) -> Evidence:
        scheme, _, token = field.partition(b" ")
        if scheme.lower() != b"bearer" or _TOKEN.fullmatch(token.strip()) is None:
            raise Unauthenticated("bearer_form")
        entry = self._tokens.find(token.strip())
        if entry is None:
            raise Unauthenticated("bearer_unknown")
        if now >= entry.expires:
            raise Unauthenticated("bearer_expired")
        agent = self._policies.policy.agents.get(entry.agent)
        known = agent is not None and "token" in agent.identities
        return Evidence(agent=entry.agent if known else UNKNOWN, identity="token", authn="token", ends_at=entry.expires)

    def _by_certificate(self, certificate: bytes, now: float) -> Evidence:
        identity, authn, ends_at = self._certificates.get(certificate) or self._read_certificate(certificate)
        if now >= ends_at:
            raise Unauthenticated("certificate_expired")
        if self._mtls.local and identity.startswith(_LOCAL):
            name = identity.removeprefix(_LOCAL)
            if AGENT_NAME.fullmatch(name) is None:
                raise Unauthenticated("certificate_identity")
            return Evidence(agent=name, identity=identity, authn=authn, ends_at=ends_at)
        agent = agent_of(self._policies.policy, identity)
        return Evidence(agent=agent.name if agent else UNKNOWN, identity=identity, authn=authn, ends_at=ends_at)

    def _read_certificate(self, certificate: bytes) -> tuple[str, str, float]:
        """Identity, kind of evidence and end of a certificate that TLS verified; remembered, since connections repeat it."""
        from cryptography import x509  # noqa: PLC0415 - only a connection with a certificate pays for it
        from cryptography.x509.oid import NameOID  # noqa: PLC0415

        parsed = x509.load_der_x509_certificate(certificate)
        try:
            names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        ends_at = parsed.not_valid_after_utc.timestamp()
        if uris:
            if len(uris) > 1:
                raise Unauthenticated("several_uri_names")
            found = re.fullmatch(r"spiffe://([a-z0-9._-]{1,255})/[A-Za-z0-9._/-]{1,1024}", uris[0])
            domains = self._mtls.trust_domains | ({TRUST_DOMAIN} if self._mtls.local else set())
            if found is None or found[1] not in domains:
                raise Unauthenticated("trust_domain")
            read = (uris[0], "mtls-spiffe", ends_at)
        else:
            common = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            if not self._mtls.cn or len(common) != 1:
                raise Unauthenticated("certificate_identity")
            read = (f"cn:{str(common[0].value)[:256]}", "mtls-cn", ends_at)
        if len(self._certificates) >= _CERTIFICATES_MAX:
            self._certificates.clear()
        self._certificates[certificate] = read
        return read


def make_id(at: float, token_hex: Callable[[int], str]) -> str:
    """A UUIDv7 (RFC 9562 section 5.7): milliseconds, then entropy."""
    octets = bytearray(int(at * 1000).to_bytes(6, "big") + bytes.fromhex(token_hex(10)))
    octets[6] = octets[6] & 0x0F | 0x70
    octets[8] = octets[8] & 0x3F | 0x80
    digits = octets.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
