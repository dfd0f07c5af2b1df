"""Broker and verifier in this process, with clocks that tests set: codes that need a store, a file, a limit (P29, P38, P50, P51)."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.planes.broker.rig import AUTHORITY, NOW, Rig, route

from robin.cli.main import main
from robin.model.passport import HTTPSIG, TRANSCRIPT
from robin.model.passport_reasons import REASONS, Refused
from robin.planes.broker.bundle_file import BundleFile
from robin.planes.broker.ipc import BrokerPolicy, IpcServer
from robin.planes.broker.issuer import Issuer, IssuerSettings
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.peer import read_peer
from robin.planes.broker.records import PassportAudit
from robin.planes.broker.replay import MemoryReplayStore
from robin.planes.broker.verifier import Verification, Verifier
from robin.policy.broker_issue import UNKNOWN, Peer, PeerRule
from robin.policy.passport_proof import ProofRules
from robin.policy.passport_verify import VerifyRules
from robin.proxy.drain import Drain
from robin.telemetry.audit import AuditLog
from robin.telemetry.audit_file import AuditFile
from robin.telemetry.metrics import Metrics
from robin.wire.broker_ipc import Reader, render_issue
from robin.wire.passport_keys import from_raw
from robin.wire.trust_bundle import signed_bytes

ME = Peer(uid=1000, gid=1000, pid=1)
RULES = (
    PeerRule(name="me", subject="spiffe://example.org/agent", routes=("orders.read", "orders.create"), uid=1000),
    PeerRule(name="one", subject="spiffe://example.org/one", routes=("orders.read",), uid=7),
    PeerRule(name="two", subject="spiffe://example.org/two", routes=("orders.read",), gid=7),
    PeerRule(name="program", subject="spiffe://example.org/program", routes=("orders.read",), exe="/usr/bin/agent"),
)


class Bench:
    """Both halves over one audit log. `now` is wall and monotonic clock."""

    def __init__(self, folder: Path, *, nonces: int = 100, replay: int = 100) -> None:
        self.folder = folder
        self.rig = Rig(
            route(audiences=["orders-api", "other"]), route("orders.create", method="POST", path_template="/orders", profiles=[HTTPSIG])
        )
        self.now = float(NOW)

        def clock() -> float:
            return self.now

        self.file = folder / "audit.jsonl"
        self.audit = PassportAudit(AuditLog(AuditFile(self.file, plane="broker", wall=clock), monotonic=clock), clock)
        self.metrics = PassportMetrics()
        settings = IssuerSettings(issuer="https://issuer.example", trust_domain="example.org")
        self.server = IpcServer(
            BrokerPolicy(issuer="https://issuer.example", peers=RULES, routes=self.rig.routes),
            Issuer(settings, (self.rig.key,), os.urandom),
            self.audit,
            self.metrics,
            loop=asyncio.get_running_loop(),
            drain=Drain(Metrics(version="0", unsafe={})),
            new_stream=lambda: pytest.fail("no connection here"),
            wall=clock,
            monotonic=clock,
            nonces=nonces,
        )
        self.said: list[tuple[str, str]] = []
        self.bundle = BundleFile(
            folder / "bundle.json",
            {"pinned": from_raw(self.rig.key.key.public_key().public_bytes_raw())},
            serial_path=folder / "bundle.serial",
            on_load=lambda event, detail: self.said.append((event, detail)),
        )
        proof = ProofRules(scheme="https", max_age_s=60.0, skew_s=5.0, not_before_at=0.0)
        rules = VerifyRules(authorities=frozenset({AUTHORITY}), proof=proof)
        store = MemoryReplayStore(replay)
        self.verifier = Verifier(rules, self.bundle, store, self.audit, self.metrics, wall=clock, monotonic=clock)

    def write_bundle(self, **changes: object) -> None:
        """Sign the bundle with these members, and have it read."""
        document = {**self.rig.document, **changes}
        value = self.rig.sign(signed_bytes(document))
        text = json.dumps({**document, "signature": {"kid": "pinned", "alg": "Ed25519", "value": value}})
        path = self.folder / "bundle.json"
        path.unlink(missing_ok=True)
        path.write_text(text)
        self.bundle.poll()

    async def ask(self, peer: Peer = ME, line: bytes | None = None, **changes: object) -> dict[str, object]:
        """What the broker replies to a request of its own envelope."""
        http = {"method": "GET", "scheme": "https", "authority": AUTHORITY, "target": "/orders/1", "fields": [], "body_sha256": None}
        request = {"request_id": "r1", "profile": TRANSCRIPT, "http": http, "audience": None, "route_id": None, "nonce": None, "ctx": {}}
        request |= {"signer": {"identity": "none", "key_protection": "software"}, "svid_proof": None}
        request["http"] = {**http, **{name: changes.pop(name) for name in list(changes) if name in http}}
        line = line or render_issue({**request, **changes})
        return json.loads(await self.server.answer(line[:-1], None, peer, Reader()))

    async def verify(self, request: object, body: bytes | None = b"") -> str:
        """The reason of the verifier for a request."""
        one = Verification(request=request, request_id="v1", surface="test")
        try:
            await self.verifier.check_head(one)
            await self.verifier.admit(one, body)
        except Refused as refused:
            return "/".join(filter(None, (refused.reason.code, refused.detail)))
        return "passport_verified"

    def codes(self) -> list[str]:
        """The reason codes in the audit log."""
        records = [json.loads(line) for line in self.file.read_text().splitlines()]
        return [one["reason_code"] for one in records if one["event"].startswith("passport.")]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.audit.close()
    assert main(["audit", "verify", str(made.file)]) == 0


SVID_PROOF = {"chain": ["MAA="], "challenge": "A" * 43, "alg": "ES256", "signature": "AAAA"}
ASKED = {
    "a peer without credentials": ("peer_unverified", {"peer": Peer(uid=None, gid=None, pid=None)}),
    "a stranger": ("peer_not_allowed", {"peer": Peer(uid=8, gid=8, pid=1)}),
    "a program that is not proven": ("peer_not_allowed", {"peer": Peer(uid=8, gid=8, pid=1, exe=UNKNOWN)}),
    "a user without a mapping": ("peer_not_allowed", {"peer": Peer(uid=65534, gid=65534, pid=1, pid_proven=True, exe="/usr/bin/agent")}),
    "of two rules": ("peer_ambiguous", {"peer": Peer(uid=7, gid=7, pid=1)}),
    "another route": ("peer_route_not_allowed", {"route_id": "orders.delete"}),
    "another path": ("route_mismatch", {"target": "/orders/1/items"}),
    "a path that is two": ("route_mismatch", {"profile": HTTPSIG, "target": "/orders/..%2fadmin"}),
    "another scheme": ("route_mismatch", {"scheme": "http"}),
    "another host": ("route_mismatch", {"authority": "other.example"}),
    "another audience": ("audience_mismatch", {"audience": "admin-api"}),
    "a profile that the route does not take": ("profile_not_allowed", {"method": "POST", "target": "/orders"}),
    "an ambiguous query": ("transcript_ambiguous", {"target": "/orders/1?a=b+c"}),
    "a lower-case method": ("route_mismatch", {"method": "get"}),
    "a header that the route does not cover": ("covered_headers_mismatch", {"fields": [["x-other", "1"]]}),
    "a context value": ("context_mismatch", {"ctx": {"purpose": "test"}}),
    "a stronger signer": ("insufficient_key_binding", {"signer": {"identity": "pod_svid", "key_protection": "software"}}),
    "an SVID": ("ipc_operation_unsupported", {"svid_proof": SVID_PROOF}),
    "an SVID that is none": ("ipc_malformed", {"svid_proof": {**SVID_PROOF, "chain": ["not base64"]}}),
    "an SVID without a chain": ("ipc_malformed", {"svid_proof": {**SVID_PROOF, "chain": []}}),
    "a longer chain than there may be": ("ipc_malformed", {"svid_proof": {**SVID_PROOF, "chain": ["MAA="] * 6}}),
    "an algorithm of its own": ("ipc_malformed", {"svid_proof": {**SVID_PROOF, "alg": "none"}}),
    "a signature that is none": ("ipc_malformed", {"svid_proof": {**SVID_PROOF, "signature": "a+b="}}),
    "what it may have": ("broker_passport_issued", {"nonce": "nonce-123"}),
    "the same nonce": ("nonce_replay", {"nonce": "nonce-123"}),
}


async def test_the_broker_gives_its_code_and_a_record_to_each_request(bench: Bench):
    for name, (wanted, changes) in ASKED.items():
        reply = await bench.ask(**changes)
        assert reply["reason"] == wanted, name
        assert ("headers" in reply) == (wanted == "broker_passport_issued")
        assert reply["status"] == "allow" or reply["error"]["retryable"] is REASONS[wanted].retryable
    assert bench.codes() == [wanted for wanted, _ in ASKED.values()]


async def test_a_user_asks_so_often_and_no_oftener(bench: Bench):
    replies = [await bench.ask() for _ in range(401)]
    assert [reply["reason"] for reply in replies[399:]] == ["broker_passport_issued", "rate_limited"]
    assert replies[-1]["error"]["retryable"] is True
    other = Peer(uid=7, gid=8, pid=2)
    assert (await bench.ask(other))["reason"] == "broker_passport_issued"
    bench.now += 0.0125
    assert [(await bench.ask())["reason"] for _ in range(3)] == ["broker_passport_issued"] * 2 + ["rate_limited"]


async def test_a_nonce_is_used_once_in_ten_minutes_and_the_store_never_forgets_early(tmp_path: Path):
    bench = Bench(tmp_path, nonces=1)
    assert (await bench.ask(nonce="nonce-123"))["reason"] == "broker_passport_issued"
    assert (await bench.ask(nonce="nonce-456"))["reason"] == "replay_store_full"
    bench.now += 600
    assert (await bench.ask(nonce="nonce-123"))["reason"] == "nonce_replay"
    bench.now += 1
    assert (await bench.ask(nonce="nonce-123"))["reason"] == "broker_passport_issued"
    await bench.audit.close()


async def test_without_an_audit_record_nothing_is_issued_and_nothing_accepted(bench: Bench):
    bench.write_bundle()
    request, refused = bench.rig.signed(HTTPSIG), bench.rig.signed(TRANSCRIPT)
    await bench.audit.close()
    reply = await bench.ask()
    assert (reply["reason"], reply["error"]["retryable"]) == ("audit_unavailable", True)
    assert "headers" not in reply
    assert (await bench.ask(Peer(uid=8, gid=8, pid=1)))["reason"] == "audit_unavailable"
    assert await bench.verify(request) == "audit_unavailable/closed"
    assert await bench.verify(refused, b"body") == "audit_unavailable/closed"
    assert REASONS["audit_unavailable"].status(HTTPSIG) == 503


async def test_the_bundle_in_force_decides(bench: Bench):
    request = bench.rig.signed(HTTPSIG)
    assert await bench.verify(request) == "bundle_policy_missing"
    bench.bundle.poll()
    bench.bundle.poll()
    assert bench.said == [("bundle_policy_missing", "No such file or directory")]  # said once
    (bench.folder / "bundle.json").write_text(json.dumps(bench.rig.document))
    bench.bundle.poll()
    assert await bench.verify(request) == "bundle_signature_invalid"
    pinned = '{"signature": {"kid": "pinned", "alg": "Ed25519", "value": "AAAA"}, "version": %s}'
    for hostile in ['"\\ud800"', *("[" * depth + "]" * depth for depth in range(880, 1000))]:  # no exception, at the edge of the stack too
        (bench.folder / "bundle.json").write_text(pinned % hostile)
        bench.bundle.poll()
    assert ("bundle_policy_missing", "a text holds half of a surrogate pair") in bench.said
    bench.write_bundle(serial=5)
    assert bench.said[-1][0] == "loaded"
    assert await bench.verify(request) == "passport_verified"
    bench.write_bundle(serial=4, revocations=[])
    bench.write_bundle(serial=5, created_at=NOW - 11)
    assert [event for event, _ in bench.said[-2:]] == ["loaded", "bundle_rollback"]  # the same refusal is said once
    assert bench.bundle.bundle.created_at == NOW - 10
    assert (bench.folder / "bundle.serial").read_text() == "5\n"
    (bench.folder / "bundle.json").unlink()
    os.mkfifo(bench.folder / "bundle.json")  # to open it would wait for a writer, and the broker with it
    bench.bundle.poll()
    assert bench.said[-1] == ("bundle_policy_missing", "it is not a regular file")
    assert bench.bundle.bundle.serial == 5


@pytest.mark.parametrize("kept", ["6\n", "", "six\n"])
async def test_after_a_restart_an_older_bundle_is_refused_also_where_the_serial_was_damaged(bench: Bench, kept):
    (bench.folder / "bundle.serial").write_text(kept)
    bench.write_bundle(serial=5)
    assert await bench.verify(bench.rig.signed(HTTPSIG)) == "bundle_rollback"
    assert bench.bundle.bundle is None
    if not kept.strip().isdigit():  # the fix that its detail names
        (bench.folder / "bundle.serial").write_text("5\n")
        bench.bundle.poll()
        assert await bench.verify(bench.rig.signed(HTTPSIG)) == "passport_verified"


async def test_the_verifiers_store_never_forgets_early_and_survives_a_clock_that_is_set(tmp_path: Path):
    bench = Bench(tmp_path, replay=1)
    bench.write_bundle()
    first, second = bench.rig.signed(HTTPSIG), bench.rig.signed(TRANSCRIPT)
    assert await bench.verify(first) == "passport_verified"
    assert await bench.verify(second) == "replay_store_full"
    assert await bench.verify(first) == "nonce_replay"
    bench.now += 3600  # the clock is set forward: the use of `first` is forgotten ...
    bench.rig.now = bench.now
    assert await bench.verify(bench.rig.signed(HTTPSIG)) in ("passport_verified", "stale_bundle_fail_closed")
    bench.write_bundle(created_at=NOW + 3600, serial=2)
    assert await bench.verify(bench.rig.signed(HTTPSIG)) == "passport_verified"
    bench.now = float(NOW)  # ... and back again
    assert await bench.verify(first) == "nonce_stale/clock_set_back"
    await bench.audit.close()


async def test_a_body_that_takes_longer_than_its_proof_lives_is_stale(bench: Bench):
    bench.write_bundle()
    one = Verification(request=bench.rig.signed(HTTPSIG), request_id="v1", surface="test")
    await bench.verifier.check_head(one)
    bench.now += 66
    with pytest.raises(Refused, match="nonce_stale"):
        await bench.verifier.admit(one, b"")


# who is at the other end of a socket


def test_a_name_is_believed_only_while_the_process_lives(tmp_path: Path):
    path = str(tmp_path / "s")
    code = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE) as child:
            sock, _ = listening.accept()
            with sock:
                living = read_peer(sock)
                child.stdin.close()
                child.wait(30)
                ended = read_peer(sock)
    assert (living.uid, living.gid, living.pid) == (ended.uid, ended.gid, ended.pid) == (os.getuid(), os.getgid(), child.pid)
    assert (ended.pid_proven, ended.process, ended.exe) == (False, UNKNOWN, UNKNOWN)
    rule = PeerRule(name="r", subject="s", routes=(), exe=os.path.realpath(sys.executable))
    if living.pid_proven:  # Linux 6.5
        assert living.exe == rule.exe
        assert rule.matches(living)
    assert not rule.matches(ended)


# item P51

NEVER = frozenset({"reserved_rls_deny", "issuer_key_unavailable"})  # reserved; and a start without an active key is refused


def test_the_tests_produce_each_code_that_can_come():
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__))
    text += Path(__file__).read_text().partition("# item P51")[0]
    named = {code for code in REASONS if re.search(rf"\b{code}\b", text)}
    assert REASONS.keys() - named == NEVER
