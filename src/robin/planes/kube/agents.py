"""Who asks: the certificate of the TLS connection, a token of the tokens file, or both; an agent of the policy comes of it.

Every failure is one 401 with one body; the cause stands in the audit alone.
"""

import asyncio
import hashlib
import hmac
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.model.spiffe import is_workload_of
from robin.planes.kube.audit import KubeAudit
from robin.planes.kube.exchange import Agent, Connected, KubeExchange
from robin.planes.kube.state import TRUST_DOMAIN, agent_id
from robin.policy.kube.judge import agent_of
from robin.policy.kube.rules import AGENT_NAME, PolicyDocument
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.transport.tls import file_identity

if TYPE_CHECKING:
    from cryptography import x509

UNKNOWN: Final = "-"
_TOKEN: Final = re.compile(rb"rbk_[A-Za-z0-9_-]{43}")
_LOCAL: Final = agent_id("")
_FILE_BYTES: Final = 8 * 1024 * 1024
_LOOK_S: Final = 1.0
_CERTIFICATES_MAX: Final = 256
_PEERS_MAX: Final = 1024
_FAILURES_A_SECOND: Final = 10
_DELAY_S: Final = 1.0


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
    """One credential that was verified: the identity it shows, the agent that owns it (`-`: none), and when it ends (epoch).

    `token` is the digest of a bearer, empty for a certificate.
    """

    agent: str
    identity: str
    authn: str
    ends_at: float | None
    token: str = ""


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
    """Tokens by digest. `refresh` looks at the file once a second at most; a file that cannot be read keeps the tokens read before."""

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
        return self.entry(digest_of(token))

    def refresh(self) -> bool:
        """Look at the file once a second. Returns True if its tokens are others now."""
        now, before = self._clock.monotonic(), self._tokens
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            try:
                self._read()
                self.failure = ""
            except (OSError, ValueError):
                self.failure = "tokens_file"
        return self._tokens is not before

    def entry(self, digest: str) -> _Token | None:
        """The entry of a digest; every digest is compared."""
        found = None
        for known, entry in self._tokens.items():
            if hmac.compare_digest(known, digest):
                found = entry
        return found

    def _read(self) -> None:
        seen = file_identity(str(self._path))
        if seen and seen == self._seen:
            return
        tokens = {}
        for line in self._read_lines():
            if line.strip():
                try:
                    entry = json.loads(line)
                    tokens[str(entry["sha256"])] = _Token(agent=str(entry["agent"]), expires=float(entry["expires"]))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"the tokens file {self._path} holds a line that is no token") from None
        self._tokens, self._seen = tokens, seen

    def _read_lines(self) -> list[bytes]:
        with open(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a FIFO must not stop the loop
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"the tokens file {self._path} is not a regular file")
            if mode & stat.S_IWOTH:
                raise ValueError(f"the tokens file {self._path} can be written by everyone; chmod o-w {self._path}")
            octets = file.read(_FILE_BYTES + 1)
        if len(octets) > _FILE_BYTES:
            raise ValueError(f"the tokens file {self._path} is too large")
        return octets.splitlines()


class FailureDelay:
    """Slows down a peer that guesses: from its eleventh failure in a second on, each is answered a second later."""

    __slots__ = ("_peers",)

    def __init__(self) -> None:
        self._peers: dict[str, tuple[float, int]] = {}  # by address, without its port: when its second began, failures in it

    def after_failure(self, peer: str, now: float) -> float:
        """How long to wait before the answer, in seconds. `now` is monotonic."""
        host = peer.rpartition(":")[0]
        began_at, count = self._peers.get(host, (now, 0))
        if now - began_at >= 1.0:
            began_at, count = now, 0
        if len(self._peers) >= _PEERS_MAX and host not in self._peers:
            self._peers.clear()
        self._peers[host] = began_at, count + 1
        return _DELAY_S if count >= _FAILURES_A_SECOND else 0.0


class Authenticator:
    """From a connection and a head to the agent."""

    __slots__ = ("_audit", "_certificates", "_clock", "_delay", "_entropy", "_failures", "_mtls", "_policies", "_tokens", "_trust")

    def __init__(
        self,
        *,
        mtls: MtlsSettings,
        tokens: TokensFile,
        policies: HoldsPolicy,
        audit: KubeAudit,
        failures: Counter[str],
        clock: Clock,
        entropy: Entropy,
        trust: Callable[[], int],
    ) -> None:
        """`failures` are counted by their cause. `trust()` is another number once a root of agents was taken away."""
        self._trust = trust
        self._mtls = mtls
        self._tokens = tokens
        self._policies = policies
        self._audit = audit
        self._failures = failures
        self._delay = FailureDelay()
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
            self._failures[failure.cause] += 1
            delay_s = self._delay.after_failure(caller.address, self._clock.monotonic())
            self._audit.auth_failed(id_, cause=failure.cause, peer=caller.address)
            if delay_s:
                await asyncio.sleep(delay_s)
            raise Fault("kube.unauthenticated", "unauthenticated: present the certificate or the token of an agent") from None
        exchange = KubeExchange(
            id_=id_,
            agent=evidence.agent,
            identity=evidence.identity,
            authn=evidence.authn,
            peer=caller.address,
            began_at=self._clock.monotonic(),
            identity_ends_at=evidence.ends_at,
            token=evidence.token,
            trust=self._trust(),
        )
        return Agent(
            evidence=caller.evidence,
            listener=caller.listener,
            address=caller.address,
            certificate=caller.certificate,
            reset=caller.reset,
            end=caller.end,
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
        return replace(shown[0], ends_at=min(ends, default=None), token=shown[-1].token)

    def still_holds(self, exchange: KubeExchange) -> bool:
        """Whether the identity of a request that lasts would still be that agent's: it may have lost it, or its token may be gone."""
        agent = self._policies.policy.agents.get(exchange.agent)
        if exchange.authn != "token" and exchange.trust != self._trust():
            return False
        if exchange.token:
            entry = self._tokens.entry(exchange.token)
            if entry is None or entry.agent != exchange.agent or agent is None or "token" not in agent.identities:
                return False
        if exchange.authn == "token" or (self._mtls.local and exchange.identity.startswith(_LOCAL)):
            return agent is not None
        owner = agent_of(self._policies.policy, exchange.identity)
        return owner is not None and owner.name == exchange.agent

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
        return Evidence(
            agent=entry.agent if known else UNKNOWN,
            identity="token",
            authn="token",
            ends_at=entry.expires,
            token=digest_of(token.strip()),
        )

    def _by_certificate(self, certificate: bytes, now: float) -> Evidence:
        identity, authn, ends_at = self._certificates.get(certificate) or self._read_certificate(certificate)
        if now >= ends_at:
            raise Unauthenticated("certificate_expired")
        if self._mtls.local and identity.startswith(_LOCAL):
            name = identity.removeprefix(_LOCAL)
            if re.fullmatch(AGENT_NAME, name) is None:
                raise Unauthenticated("certificate_identity")
            return Evidence(agent=name, identity=identity, authn=authn, ends_at=ends_at)
        agent = agent_of(self._policies.policy, identity)
        return Evidence(agent=agent.name if agent else UNKNOWN, identity=identity, authn=authn, ends_at=ends_at)

    def _read_certificate(self, certificate: bytes) -> tuple[str, str, float]:
        """Identity, kind of evidence and end of a certificate that TLS verified; remembered, since connections repeat it."""
        from cryptography import x509  # noqa: PLC0415 - only a connection with a certificate pays for it
        from cryptography.x509.oid import NameOID  # noqa: PLC0415

        parsed = x509.load_der_x509_certificate(certificate)
        if not _is_client_leaf(parsed):
            raise Unauthenticated("certificate_purpose")
        try:
            names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        ends_at = parsed.not_valid_after_utc.timestamp()
        if uris:
            if len(uris) > 1:
                raise Unauthenticated("several_uri_names")
            domains = self._mtls.trust_domains | ({TRUST_DOMAIN} if self._mtls.local else set())
            if not is_workload_of(uris[0], domains):
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


def _is_client_leaf(certificate: "x509.Certificate") -> bool:
    """Whether it is no CA and says that it is for clients; TLS takes a certificate without a purpose for one of every purpose."""
    from cryptography import x509  # noqa: PLC0415 - only a connection with a certificate pays for it
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    return not is_ca and ExtendedKeyUsageOID.CLIENT_AUTH in purposes


def digest_of(token: bytes) -> str:
    """By which a token stands in the file."""
    return hashlib.sha256(token).hexdigest()


def make_id(at: float, token_hex: Callable[[int], str]) -> str:
    """A UUIDv7 (RFC 9562 section 5.7): milliseconds, then entropy."""
    octets = bytearray(int(at * 1000).to_bytes(6, "big") + bytes.fromhex(token_hex(10)))
    octets[6] = octets[6] & 0x0F | 0x70
    octets[8] = octets[8] & 0x3F | 0x80
    digits = octets.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
