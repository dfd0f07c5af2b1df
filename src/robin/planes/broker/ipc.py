"""The broker's socket: one request a connection, judged in one order, answered with one line, closed.

The peer is read at accept, before a byte. Every decision has its audit record before its answer; without a record there is no passport.
"""

import asyncio
import hashlib
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robin.model.caller import Caller
from robin.model.passport import PassportRoute
from robin.model.passport_reasons import Refused
from robin.planes.broker import records
from robin.planes.broker.attest import Attestor
from robin.planes.broker.issuer import Issuer
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.peer import read_peer
from robin.planes.broker.replay import MemoryReplayStore, RateLimit
from robin.policy.broker_issue import Peer, PeerRule, find_principal, find_rules, guard_request, judge_issue
from robin.proxy.drain import Drain
from robin.transport.stream import Stream, StreamClosed
from robin.wire.broker_ipc import (
    LINE_BYTES,
    PUBLIC,
    ChallengeRequest,
    IssueRequest,
    Reader,
    render_allow_own,
    render_allow_public,
    render_challenge,
    render_deny,
)

LINE_S: Final = 5.0
EXCHANGE_S: Final = 10.0
NONCE_S: Final = 600.0
PER_UID: Final = 32
CONNECTIONS: Final = 256


class IpcConnection(Stream):
    """One connection of a client."""

    def begin_closing(self) -> None:
        """Close if nothing was sent; a request that arrives is still answered."""
        if not self.received:
            self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPolicy:
    """Who may have what."""

    issuer: str
    peers: tuple[PeerRule, ...]
    routes: tuple[PassportRoute, ...]


class IpcServer:
    """Answers requests. `wall` and `monotonic` are clocks; `new_stream` makes the stream of a connection; `attestor`: with SVIDs."""

    __slots__ = (
        "_attestor",
        "_audit",
        "_drain",
        "_issuer",
        "_loop",
        "_metrics",
        "_monotonic",
        "_new_stream",
        "_nonces",
        "_open",
        "_policy",
        "_rate",
        "_wall",
    )

    def __init__(
        self,
        policy: BrokerPolicy,
        issuer: Issuer,
        audit: records.PassportAudit,
        metrics: PassportMetrics,
        *,
        loop: asyncio.AbstractEventLoop,
        drain: Drain,
        new_stream: Callable[[], IpcConnection],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        attestor: Attestor | None = None,
        nonces: int = 1 << 20,
    ) -> None:
        self._loop = loop
        self._attestor = attestor
        self._policy = policy
        self._issuer = issuer
        self._audit = audit
        self._metrics = metrics
        self._drain = drain
        self._new_stream = new_stream
        self._wall = wall
        self._monotonic = monotonic
        self._nonces = MemoryReplayStore(nonces)
        self._rate = RateLimit(per_s=200.0, burst=400.0)
        self._open: Counter[int | None] = Counter()

    async def serve(self, sock: socket.socket, _: Caller) -> None:
        """Serve one admitted connection to its end."""
        peer = read_peer(sock)
        if self._open[peer.uid] >= PER_UID:
            sock.close()
            return
        self._open[peer.uid] += 1
        self._metrics.connections += 1
        stream = self._new_stream()
        self._drain.connected(stream)
        try:
            await self._loop.connect_accepted_socket(lambda: stream, sock)
            await self._exchange(stream, peer)
        except (OSError, StreamClosed, TimeoutError):
            pass  # the client disconnected
        finally:
            self._metrics.connections -= 1
            self._open[peer.uid] -= 1
            if not self._open[peer.uid]:
                del self._open[peer.uid]
            self._drain.disconnected(stream)
            stream.close()

    async def _exchange(self, stream: IpcConnection, peer: Peer) -> None:
        now = self._monotonic()
        reader = Reader()
        line, refused = await _read_line(stream, now)
        if line is None and refused is None:
            return  # it closed without a word
        answer = await self.answer(line or b"", refused, peer, reader)
        stream.deadline_at = now + EXCHANGE_S
        stream.write(answer)
        await stream.flush()

    async def answer(self, line: bytes, refused: Refused | None, peer: Peer, reader: Reader) -> bytes:
        """The reply to one line, or to what was refused while it was read."""
        known: dict[str, object] = records.of_peer(peer)
        try:
            if refused is not None:
                reader.version = PUBLIC if PUBLIC.encode() in line else reader.version
                raise refused
            request = reader.parse(line)
            if isinstance(request, ChallengeRequest):
                return await self._challenge(request, peer, known)
            known |= records.of_request(request)
            return await self._issue(request, peer, known)
        except Refused as denied:
            self._metrics.denied["broker", denied.reason.code] += 1
            try:
                said = records.outcome("broker", denied.reason.code, denied.detail, accepted=False)
                if denied.reason.code != "audit_unavailable":
                    await self._audit.write("passport.issue", reader.request_id, known | said)
            except Refused as unavailable:
                denied = unavailable
            return render_deny(reader, denied)

    async def _issue(self, request: IssueRequest, peer: Peer, known: dict[str, object]) -> bytes:
        policy = self._policy
        guard_request(request)
        rules = find_rules(peer, policy.peers)
        self._take_rate(peer)
        if self._attestor is None and request.svid_proof is not None:
            raise Refused("ipc_operation_unsupported", "svid_proof")
        attestation = None if self._attestor is None else self._attestor.attest(peer, request)
        known |= {} if attestation is None else records.of_attestation(attestation)
        principal = find_principal(rules, attestation)
        known |= {"subject": principal.subject, "policy_id": principal.rule}
        issue = judge_issue(request, principal, policy.routes)
        known |= records.of_issue(issue, None, policy.issuer)
        now = self._wall()
        draft = self._issuer.draft(issue, now=now, monotonic=self._monotonic())
        if request.nonce is not None:  # ours do not repeat
            self._consume(peer, request.nonce)
        known |= records.of_issue(issue, draft, policy.issuer)
        signed = self._issuer.sign(draft)
        known |= records.of_signed(signed)
        said = records.outcome("broker", "broker_passport_issued", "", accepted=True)
        await self._audit.write("passport.issue", request.request_id, known | said)
        self._metrics.issued[request.profile, issue.signer_class] += 1
        if request.version == PUBLIC:
            return render_allow_public(
                request,
                issued_at=draft.issued_at,
                expires_at=draft.expires_at,
                passport=signed.passport,
                jti=draft.jti,
                proof=signed.proof,
                digest=signed.digest,
            )
        signer = {"class": issue.signer_class, "identity": issue.axes.identity, "key_protection": issue.axes.key_protection}
        return render_allow_own(
            request,
            issued_at=draft.issued_at,
            expires_at=draft.expires_at,
            jti=draft.jti,
            headers=signed.headers,
            digest=signed.digest,
            signer=signer,
        )

    async def _challenge(self, request: ChallengeRequest, peer: Peer, known: dict[str, object]) -> bytes:
        if self._attestor is None:
            raise Refused("ipc_operation_unsupported", "kind")
        find_rules(peer, self._policy.peers)
        self._take_rate(peer)
        text, ends_at = self._attestor.challenge(peer)
        said = records.outcome("broker", "challenge_issued", "", accepted=True)
        await self._audit.write("passport.issue", request.request_id, known | said)
        return render_challenge(request, text, ends_at)

    def _take_rate(self, peer: Peer) -> None:
        assert peer.uid is not None
        if not self._rate.take(peer.uid, self._monotonic()):
            raise Refused("rate_limited")

    def _consume(self, peer: Peer, nonce: str) -> None:
        """A user may use a nonce once in ten minutes."""
        key = hashlib.sha256(f"{peer.uid}\n{nonce}".encode()).digest()
        now = self._monotonic()
        outcome = self._nonces.consume(key, now + NONCE_S, now)
        if outcome == "seen":
            raise Refused("nonce_replay")
        if outcome != "fresh":
            raise Refused("replay_store_full")


async def _read_line(stream: IpcConnection, began: float) -> tuple[bytes | None, Refused | None]:
    """One line without its LF, or what is wrong with it; both None where the client left first."""
    stream.deadline_at = began + LINE_S
    try:
        while (end := stream.received.find(b"\n")) < 0:
            if len(stream.received) > LINE_BYTES:
                return bytes(stream.received[:4096]), Refused("ipc_too_large")
            if not await stream.fill():
                return (None, None) if not stream.received else (bytes(stream.received[:4096]), _bad_line("no_line_end"))
    except TimeoutError:
        return bytes(stream.received[:4096]), Refused("ipc_timeout")
    line = bytes(stream.received[:end])
    if end >= LINE_BYTES:
        return line[:4096], Refused("ipc_too_large")
    if len(stream.received) > end + 1:
        return line[:4096], _bad_line("bytes_behind")
    return line, None


def _bad_line(problem: str) -> Refused:
    return Refused("ipc_malformed", problem, extra={"problem": problem})
