"""Passports for verified X.509-SVIDs: what one has to be, challenges, evidence of the pod, the broker as a process (P11, P30 to P35)."""

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.planes.broker.conftest import Life
from tests.planes.broker.rig import Rig
from tests.planes.broker.svids import AGENT, DOMAIN, Domain, Leaf, proof_of, render_proof

from robin.cli.main import main
from robin.model.address import UnixAddress
from robin.model.passport import HTTPSIG
from robin.model.passport_reasons import Refused
from robin.model.secret import Secret
from robin.planes.broker.attest import Attestor, AttestSettings, is_in_pod, is_pod_volume, mount_root
from robin.planes.broker.svid_source import SvidSource
from robin.policy.broker_issue import Peer, PeerRule, find_principal, judge_issue
from robin.policy.x509_svid import AllowedIds, load_anchors, verify_svid
from robin.testing.process import RobinProcess
from robin.testing.recording_upstream import RecordingUpstream
from robin.testing.waiting import eventually
from robin.testing.workload_api import Refusal, WorkloadApi, answer_never
from robin.wire.protobuf import BadMessage
from robin.wire.workload_x509 import X509SvidMessage, render_x509_reply, split_der

NOW = 1_800_000_000.0
POD = "0f6a5a2e-1111-4222-8333-944455556666"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
SPIFFE = "trustplane-spiffe-spire-k8s-v1"


# what an SVID has to be: P31


def judge(leaf: Leaf, *anchors: Domain, now: float = NOW) -> str:
    """The SPIFFE ID, or the code of the refusal with its detail."""
    try:
        return verify_svid(leaf.chain, load_anchors([one.anchor for one in anchors]), DOMAIN, now).spiffe_id
    except Refused as refused:
        return f"{refused.reason.code} {refused.detail}".strip()


def test_each_fault_of_an_svid_has_its_code() -> None:
    domain = Domain(now=NOW)
    between = domain.below()
    foreign = Domain(now=NOW)
    other = Domain("other.example", now=NOW)
    rows: dict[str, list[Leaf]] = {
        AGENT: [
            domain.issue(),
            between.issue(between=[between]),
            domain.issue(extended=None),
            domain.issue(key=ec.generate_private_key(ec.SECP384R1())),
            domain.issue(key=rsa.generate_private_key(65537, 2048)),
        ],
        "svid_invalid uri_names": [domain.issue(AGENT, AGENT + "2"), domain.issue(AGENT, "urn:x:y")],
        "svid_invalid ca": [domain.issue(ca=True)],
        "svid_invalid key_usage": [
            domain.issue(usage=("digital_signature", "key_cert_sign")),
            domain.issue(usage=("digital_signature", "crl_sign")),
            domain.issue(usage=("key_encipherment",)),
            domain.issue(usage=()),
            domain.issue(critical=False),
        ],
        "svid_invalid extended_key_usage": [domain.issue(extended=(CLIENT,)), domain.issue(extended=(SERVER,))],
        "svid_invalid spiffe_id": [
            domain.issue("spiffe://example.org"),
            domain.issue("spiffe://example.org/"),
            domain.issue("spiffe://example.org/a/../b"),
            domain.issue("spiffe://example.org//a"),
            domain.issue("spiffe://example.org/a%2Fb"),
            domain.issue("spiffe://EXAMPLE.org/a"),
            domain.issue("https://example.org/x"),
        ],
        "svid_invalid trust_domain": [domain.issue("spiffe://other.example/a"), domain.issue("spiffe://example.org.evil/a")],
        "svid_invalid not_yet_valid": [domain.issue(starts_s=60.0)],
        "svid_expired": [domain.issue(ends_s=-1.0)],
        "svid_untrusted": [
            foreign.issue(),
            other.issue(),
            between.issue(),
        ],
        "svid_invalid chain": [Leaf(domain.issue().certificate, domain.key, [between.certificate] * 5)],
    }
    for wanted, leaves in rows.items():
        for leaf in leaves:
            assert judge(leaf, domain) == wanted, leaf.certificate.extensions
    signer = domain.issue("spiffe://example.org/signer")  # a leaf that signs another
    forged = Domain(now=NOW)
    forged.key, forged.certificate = signer.key, signer.certificate
    assert judge(forged.issue(between=[forged]), domain) == "svid_untrusted"
    assert judge(domain.issue(), foreign, domain) == AGENT, "one of several anchors"
    assert judge(Leaf(domain.issue().certificate, domain.key), domain, now=NOW + 3601) == "svid_expired"


@pytest.mark.parametrize(
    "octets", [b"\x31\x00", b"\x30", b"\x30\x82\x00", b"\x30\x80\x00\x00", b"\x30\x05\x00", b"\x30\x84\x00\x00\x00\x00"]
)
def test_what_is_no_row_of_certificates_is_refused(octets: bytes) -> None:
    with pytest.raises(BadMessage):
        split_der(octets, 5)


def test_more_certificates_than_a_chain_may_have_are_refused() -> None:
    assert split_der(b"\x30\x00" * 5, 5) == (b"\x30\x00",) * 5
    with pytest.raises(BadMessage):
        split_der(b"\x30\x00" * 6, 5)


def test_an_id_below_a_prefix_is_allowed_at_a_segment_alone() -> None:
    allowed = AllowedIds(
        ids=frozenset({"spiffe://example.org/one"}), prefixes=("spiffe://example.org/ns/agents/", "spiffe://example.org/ns/ci")
    )
    found = {}
    for path in ("one", "one/x", "ns/agents/x", "ns/agents", "ns/agentsx", "ns/ci/x", "ns/ci", "ns/cix", "two"):
        try:
            allowed.check(f"spiffe://example.org/{path}")
            found[path] = ""
        except Refused as refused:
            found[path] = refused.reason.code
    assert set(found.values()) == {"", "spiffe_id_not_allowed"}
    assert [path for path, code in found.items() if not code] == ["one", "ns/agents/x", "ns/agents", "ns/ci/x", "ns/ci"]
    with pytest.raises(Refused):
        AllowedIds().check("spiffe://example.org/one")


# with clocks of the test: the challenge of P11, P32, P34


class Callers:
    """An attestor over a Workload API that streamed one SVID. `now` is both clocks."""

    def __init__(self, mode: str = "caller-presented", **changes: Any) -> None:
        self.now = NOW
        self.codes: list[str] = []
        self.domain = Domain(now=NOW)
        self.leaf = self.domain.issue()
        self.source = SvidSource(UnixAddress(path="/nowhere"), trust_domain=DOMAIN, hint=None, wall=lambda: self.now, on_change=self._note)
        settings = AttestSettings(mode=mode, allowed=AllowedIds(prefixes=("spiffe://example.org/ns",)), pod_uid=POD)
        self.attestor = Attestor(
            replace(settings, **changes),
            self.source,
            trust_domain=DOMAIN,
            socket="/run/robin/broker.sock",
            octets=os.urandom,
            wall=lambda: self.now,
            monotonic=lambda: self.now,
        )
        self.rig = Rig()
        self.request = self.rig.ask(HTTPSIG)

    def _note(self, code: str, _detail: str) -> None:
        self.codes.append(code)

    def stream(self, message: tuple[X509SvidMessage, ...]) -> None:
        """What the Workload API sends."""
        self.source.take(Secret(render_x509_reply(message)))

    def outcome(self, peer: Peer, challenge: str, leaf: Leaf | None = None, **changes: Any) -> str:
        """The identity that is attested, or the code."""
        proof = proof_of(leaf or self.leaf, challenge, replace(self.request, **changes))
        try:
            return self.attestor.attest(peer, replace(self.request, svid_proof=proof)).svid.spiffe_id
        except Refused as refused:
            return refused.reason.code


ME, OTHER_PROCESS, OTHER_USER = (Peer(uid=uid, gid=1, pid=pid) for uid, pid in ((1, 10), (1, 11), (2, 10)))


def test_abuse_stale_nonce_of_a_challenge() -> None:
    callers = Callers()
    callers.stream((callers.domain.message(callers.leaf),))
    in_time, _ = callers.attestor.challenge(ME)
    late, ends_at = callers.attestor.challenge(ME)
    assert ends_at == NOW + 30
    callers.now += 30
    assert callers.outcome(ME, in_time) == AGENT
    assert callers.outcome(ME, in_time) == "nonce_replay"
    callers.now += 1
    assert callers.outcome(ME, late) == "nonce_stale"


def test_a_proof_is_of_one_caller_one_request_and_one_key() -> None:
    callers = Callers()
    callers.stream((callers.domain.message(callers.leaf),))

    def challenge() -> str:
        return callers.attestor.challenge(ME)[0]

    assert callers.outcome(ME, challenge()) == AGENT
    for peer in (OTHER_PROCESS, OTHER_USER):
        assert callers.outcome(peer, challenge()) == "caller_proof_invalid", "the challenge of another"
    assert callers.outcome(ME, "A" * 43) == "caller_proof_invalid", "a challenge that was never given"
    for name, value in {"method": "POST", "target": "/orders/2", "authority": "x", "audience": "x", "body_sha256": "0" * 64}.items():
        assert callers.outcome(ME, challenge(), **{name: value}) == "caller_proof_invalid", name
    stolen = Leaf(callers.leaf.certificate, callers.domain.issue().key)
    assert callers.outcome(ME, challenge(), stolen) == "caller_proof_invalid"
    assert callers.outcome(ME, challenge(), callers.domain.issue("spiffe://example.org/other")) == "spiffe_id_not_allowed"
    assert callers.outcome(ME, challenge(), Domain(now=NOW).issue()) == "svid_untrusted"
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        assert callers.outcome(ME, challenge(), callers.domain.issue(key=key)) == AGENT
    with pytest.raises(Refused) as refused:
        callers.attestor.attest(ME, callers.request)
    assert refused.value.reason.code == "caller_proof_missing"


def test_one_user_cannot_have_challenges_without_number_nor_cost_another_theirs() -> None:
    callers = Callers()
    callers.stream((callers.domain.message(callers.leaf),))
    theirs, _ = callers.attestor.challenge(OTHER_USER)
    first, *others = [callers.attestor.challenge(ME)[0] for _ in range(1025)]
    assert callers.outcome(ME, first) == "caller_proof_invalid"
    assert callers.outcome(ME, others[0]) == AGENT
    assert callers.outcome(OTHER_USER, theirs) == AGENT


def test_nothing_is_issued_on_anchors_whose_svid_has_expired_and_no_passport_outlives_its_svid() -> None:
    callers = Callers()
    callers.stream((callers.domain.message(callers.domain.issue(ends_s=100.0)),))
    short = callers.domain.issue(ends_s=20.0)
    proof = proof_of(short, callers.attestor.challenge(ME)[0], callers.request)
    attestation = callers.attestor.attest(ME, replace(callers.request, svid_proof=proof))
    rig = callers.rig
    rule = PeerRule(name="me", subject="", routes=tuple(one.route_id for one in rig.routes), uid=1)
    issue = judge_issue(callers.request, find_principal([rule], attestation), rig.routes)
    assert rig.issuer.draft(issue, now=NOW, monotonic=0).expires_at == NOW + 20
    callers.now = NOW + 100.5
    assert callers.outcome(ME, callers.attestor.challenge(ME)[0]) == "svid_expired"


def test_an_svid_is_used_until_it_expires_and_what_replaces_it_must_be_one() -> None:
    callers = Callers("pod-binding", pod_evidence=("cgroup",))
    peer = replace(ME, pid_proven=True, cgroup=f"0::/kubepods/besteffort/pod{POD}/abc")

    def outcome() -> str:
        try:
            return callers.attestor.attest(peer, callers.request).svid.sha256
        except Refused as refused:
            return refused.reason.code

    assert (outcome(), callers.source.problem) == ("workload_api_unavailable",) * 2
    first, second = callers.domain.issue(ends_s=100.0), callers.domain.issue(ends_s=200.0)
    callers.stream((callers.domain.message(first),))
    before = outcome()
    callers.stream((callers.domain.message(second),))
    assert len({before, outcome(), "workload_api_unavailable"}) == 3
    callers.now = NOW + 200
    assert len(outcome()) == 64
    callers.now = NOW + 200.5
    assert (outcome(), callers.source.problem) == ("svid_expired", "svid_expired")
    callers.now = NOW
    callers.stream((callers.domain.message(second),))
    callers.stream(())
    assert outcome() == "svid_invalid", "an identity that was withdrawn is not used on"
    callers.stream((replace(callers.domain.message(second), key=callers.domain.message(first).key),))
    assert outcome() == "svid_invalid", "the key of another"
    callers.stream((callers.domain.message(second, spiffe_id=AGENT + "2"),))
    assert outcome() == "svid_invalid", "another ID than the certificate's"
    callers.stream((callers.domain.message(callers.domain.issue("spiffe://example.org/other"), "spiffe://example.org/other"),))
    assert outcome() == "spiffe_id_not_allowed"
    assert callers.codes == ["", "", "", "svid_invalid", "svid_invalid", "svid_invalid", ""]


# evidence of the pod: P33; seen on a real node by tests/cluster/test_broker_pods.py


def test_evidence_names_this_pod_in_full() -> None:
    other = POD.replace("0f6a", "1f6a")
    underscored = POD.replace("-", "_")
    rows = {
        f"0::/kubepods/besteffort/pod{POD}/abc": True,
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{underscored}.slice/cri-abc.scope": True,
        f"2:cpu:/kubepods/pod{POD}/a\n1:memory:/kubepods/pod{POD}/b": True,
        f"2:cpu:/kubepods/pod{POD}/a\n1:name=systemd:/": True,
        f"0::/user.slice/user-1000.slice/user@1000.service/app.slice/x-pod{POD}.slice/s.scope": False,
        f"0::/user.slice/user-1000.slice/user@1000.service/pod{POD}/s.scope": False,
        f"0::/system.slice/x.service/kubepods-pod{POD}.slice/s.scope": False,
        f"3:memory:/pod{POD}/abc": True,  # cgroupsPerQOS: false
        f"2:cpu:/kubepods/pod{POD}/a\n1:memory:/kubepods/pod{other}/a": False,
        f"0::/kubepods/pod{other}/a": False,
        f"0::/kubepods/pod{POD}0/a": False,
        "0::/../abc": False,  # a cgroup namespace of its own
        "": False,
    }
    assert {text: is_in_pod(text, POD) for text in rows} == rows
    volume = f"/var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/run"
    roots = {
        volume: True,
        volume.removeprefix("/var/lib/kubelet"): True,
        volume.replace(POD, other): False,
        f"/pods/{POD}/volumes/kubernetes.io~host-path/run": False,
        f"/pods/{POD}/volumes/kubernetes.io~empty-dir/run/deeper": False,
        "/": False,  # in memory
        "": False,
    }
    assert {root: is_pod_volume(root, POD) for root in roots} == roots


def test_the_mount_of_a_path_is_the_last_and_longest(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    lines = ["1 0 8:1 / / rw - ext4 /dev/vda rw", "2 1 8:1 /one /run rw - ext4 x rw", "3 1 8:1 /two /run rw - ext4 x rw"]
    table.write_text("\n".join([*lines, r"4 1 8:1 /a\040b /run/with\040space rw - ext4 x rw", ""]))
    found = {path: mount_root(path, table) for path in ("/run/broker.sock", "/runx/broker.sock", "/run/with space/broker.sock")}
    assert found == {"/run/broker.sock": "/two", "/runx/broker.sock": "/", "/run/with space/broker.sock": "/a b"}
    assert mount_root("/run/broker.sock", tmp_path / "none") == ""


@pytest.mark.parametrize("uid", ["", "x", POD.upper(), POD + "0"])
def test_without_a_pod_uid_nothing_is_evidence(uid: str) -> None:
    callers = Callers("pod-binding", pod_uid=uid)
    callers.stream((callers.domain.message(callers.leaf),))
    with pytest.raises(Refused) as refused:
        callers.attestor.attest(replace(ME, pid_proven=True, cgroup=f"0::/pod{uid}"), callers.request)
    assert refused.value.reason.code == "pod_binding_unverified"


# the broker as a process, beside a Workload API


class Attested(Life):
    """A broker whose callers present SVIDs. Its route asks for an attested workload."""

    def __init__(self, folder: Path, service: RecordingUpstream) -> None:
        super().__init__(folder, service)
        self.domain = Domain()
        self.api = WorkloadApi(answer_never)
        self.agent = str(folder / "agent.sock")
        issue = self.broker["issue"]
        issue["identity"] = {
            "profile": SPIFFE,
            "mode": "caller-presented",
            "endpoint": f"unix://{self.agent}",
            "allowed_prefixes": ["spiffe://example.org/"],
        }
        issue["peers"] = [{"name": "me", "match": {"uid": os.getuid(), "spiffe_id": AGENT}, "routes": ["read"]}]
        for route in issue["routes"]:
            route["required_key_binding"] = "attested_workload"
        self.write()

    async def is_unready(self, reason: str) -> bool:
        """Whether the broker is not ready for this reason."""
        return reason in await self.text("/readyz", to=self.admin)

    async def present(self, leaf: Leaf, **changes: Any) -> dict[str, Any]:
        """Ask with a challenge and a proof."""
        challenge = await self.ask({"request_id": "c-1"}, kind="challenge")
        assert challenge["reason"] == "challenge_issued", challenge
        request = self.request(**changes)
        return await self.ask({**request, "svid_proof": render_proof(leaf, challenge["challenge"], request)})


@pytest.fixture
async def attested(folder: Path, service: RecordingUpstream) -> AsyncIterator[Attested]:
    one = Attested(folder, service)
    one.make_bundle()
    async with RobinProcess("broker", "--config", str(one.config)) as process:
        listening = await process.event("listening")
        one.process, one.admin = process, listening["admin"][0]
        try:
            yield one
        finally:
            await one.api.close()


async def test_a_broker_waits_for_the_workload_api_and_attests_the_svid_that_a_caller_shows(attested: Attested) -> None:
    life, domain = attested, attested.domain
    proof = render_proof(domain.issue(), "A" * 43, life.request())
    reply = await life.ask({**life.request(), "svid_proof": proof})
    assert (reply["reason"], reply["error"]["retryable"]) == ("workload_api_unavailable", True)
    assert await life.is_unready("workload_api_unavailable")
    life.api.replace_x509((domain.message(domain.issue("spiffe://example.org/broker"), "spiffe://example.org/broker"),))
    await life.api.start_unix(life.agent)
    await life.process.event("svid_loaded")

    reply = await life.present(domain.issue())
    assert (reply["status"], reply["signer"]) == (
        "allow",
        {"class": "attested_workload", "identity": "caller_svid", "key_protection": "software"},
    )
    headers = [tuple(pair) for pair in reply["headers"]]
    assert (await life.send(headers))[0] == 200, "the verifier knows nothing of SPIFFE"
    assert life.service.requests[-1].values(b"robin-passport-subject") == [AGENT.encode()]
    assert (await life.present(domain.issue(AGENT + "2")))["reason"] == "peer_not_allowed", "the rule is for one ID"
    assert (await life.ask(life.request()))["reason"] == "caller_proof_missing"

    again = await life.present(domain.issue())
    keys, digests = zip(*(_claims(one) for one in (reply, again)), strict=True)
    assert len(set(keys)) == len(set(digests)) == 2, "another SVID has another proof key"
    records = [one for one in life.records("passport.issue") if one["reason_code"] == "broker_passport_issued"]
    assert [(one["profile"], one["mode"], one["evidence"], one["source_spiffe_id"], one["svid_sha256"]) for one in records] == [
        (SPIFFE, "caller-presented", "svid_proof", AGENT, digest) for digest in digests
    ]

    life.api.replace_x509(Refusal(code="PermissionDenied"))
    await eventually(partial(life.is_unready, "workload_api_unavailable"), what="the loss of the SVID in /readyz")
    assert (await life.ask({**life.request(), "svid_proof": proof}))["reason"] == "workload_api_unavailable", "the anchors went with it"


def _claims(reply: dict[str, Any]) -> tuple[str, str]:
    """The proof key and the SVID of a passport."""
    token = dict(map(tuple, reply["headers"]))["Workload-Identity-Token"]
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    provenance = claims["urn:robin:passport:v1"]["provenance"]
    wanted = {"profile": SPIFFE, "posture": "spiffe_svid_verified", "trust_domain": DOMAIN, "spiffe_id": AGENT, "mode": "caller-presented"}
    assert provenance == {**wanted, "svid_sha256": provenance["svid_sha256"]}
    return claims["cnf"]["jwk"]["x"], provenance["svid_sha256"]


def test_explain_says_what_attested_does_not_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "attested_workload"]) == 0
    assert "does not check the SVID again" in capsys.readouterr().out
