"""How a caller is bound to a verified SVID: it shares the broker's pod, or it presents an SVID of its own (passports.md 7).

`pod-binding` takes the broker's own SVID and the kernel's evidence that the peer is in the broker's pod. `caller-presented` takes the
caller's certificates, and a signature by their key over the request and a challenge that is used once.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robin.model.address import UnixAddress
from robin.model.passport_reasons import Refused
from robin.planes.broker.svid_source import SvidSource
from robin.policy.broker_issue import Attestation, Peer
from robin.policy.x509_svid import AllowedIds, verify_proof, verify_svid
from robin.wire.broker_ipc import IssueRequest
from robin.wire.compact_jws import encode_base64url

CHALLENGE_S: Final = 30.0
_REMEMBERED_S: Final = 600.0
_CHALLENGES_MOST: Final = 1024  # of one user, live, used and expired
_POD_SEGMENT: Final = re.compile(
    r"(?:pod|(?:kubelet-)?kubepods-(?:[a-z]+-)?pod)([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?"
)
_OF_PODS: Final = ("kubepods", "kubelet")  # what the slices above those of pods begin with
_POD_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestSettings:
    """`broker.issue.identity`. `endpoint` None: that of SPIFFE_ENDPOINT_SOCKET; `pod_uid` comes from the downward API by POD_UID."""

    mode: str
    allowed: AllowedIds
    endpoint: UnixAddress | None = None
    hint: str | None = None
    pod_evidence: tuple[str, ...] = ("cgroup", "volume")
    pod_uid: str = ""


class Attestor:
    """`octets(n)` gives unpredictable bytes; `wall` and `monotonic` are clocks; `socket` is the path that callers connect to."""

    __slots__ = ("_challenges", "_monotonic", "_octets", "_proc", "_settings", "_socket", "_source", "_trust_domain", "_wall")

    def __init__(
        self,
        settings: AttestSettings,
        source: SvidSource,
        *,
        trust_domain: str,
        socket: str,
        octets: Callable[[int], bytes],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        proc: Path = Path("/proc"),
    ) -> None:
        self._settings = settings
        self._source = source
        self._trust_domain = trust_domain
        self._socket = socket
        self._octets = octets
        self._wall = wall
        self._monotonic = monotonic
        self._proc = proc
        self._challenges: dict[int, OrderedDict[str, _Challenge]] = {}

    def attest(self, peer: Peer, request: IssueRequest) -> Attestation:
        """What stands for the caller of this request. Raises Refused with a code of passports.md 7."""
        if self._settings.mode == "pod-binding":
            if request.svid_proof is not None:
                raise Refused("ipc_operation_unsupported", "svid_proof")
            svid = self._source.current()
            self._settings.allowed.check(svid.spiffe_id)
            return Attestation(svid=svid, mode="pod-binding", evidence=self._pod_evidence(peer))
        anchors = self._source.anchors()
        proof = request.svid_proof
        if proof is None:
            raise Refused("caller_proof_missing")
        self._consume(peer, proof.challenge)
        svid = verify_svid(proof.chain, anchors, self._trust_domain, self._wall())
        self._settings.allowed.check(svid.spiffe_id)
        verify_proof(proof, request, svid)
        return Attestation(svid=svid, mode="caller-presented", evidence="svid_proof")

    def challenge(self, peer: Peer) -> tuple[str, int]:
        """A new challenge for this peer, and when it ends in Unix seconds. Raises Refused `ipc_operation_unsupported` with pod-binding."""
        if self._settings.mode != "caller-presented":
            raise Refused("ipc_operation_unsupported", "challenge")
        assert peer.uid is not None
        now = self._monotonic()
        held = self._challenges.setdefault(peer.uid, OrderedDict())
        while held and (len(held) >= _CHALLENGES_MOST or now - next(iter(held.values())).made_at >= _REMEMBERED_S):
            held.popitem(last=False)
        text = encode_base64url(self._octets(32))
        held[text] = _Challenge(pid=peer.pid, made_at=now)
        return text, int(self._wall() + CHALLENGE_S)

    def _consume(self, peer: Peer, text: str) -> None:
        """A challenge is used once, by the process that got it, within 30 s."""
        assert peer.uid is not None
        held = self._challenges.get(peer.uid)
        found = None if held is None else held.get(text)
        if found is None or found.pid != peer.pid:
            raise Refused("caller_proof_invalid", "challenge")
        if found.used:
            raise Refused("nonce_replay", "challenge")
        if self._monotonic() - found.made_at > CHALLENGE_S:
            raise Refused("nonce_stale", "challenge")
        found.used = True

    def _pod_evidence(self, peer: Peer) -> str:
        """Which evidence shows that the peer is in the broker's pod. Raises Refused `pod_binding_unverified`."""
        uid = self._settings.pod_uid
        if _POD_UID.fullmatch(uid) is None:
            raise Refused("pod_binding_unverified", "there is no POD_UID")
        wanted = self._settings.pod_evidence
        if "cgroup" in wanted and is_in_pod(peer.cgroup, uid):
            return "cgroup"
        if "volume" in wanted and is_pod_volume(mount_root(self._socket, self._proc / "self" / "mountinfo"), uid):
            return "volume"
        raise Refused("pod_binding_unverified")


@dataclass(slots=True, kw_only=True)
class _Challenge:
    pid: int | None
    made_at: float
    used: bool = False


def is_in_pod(cgroup: str, pod_uid: str) -> bool:
    """Whether a `/proc/PID/cgroup` names this pod (`pod<uid>`, with `_` where systemd names its slice) and no other.

    Of several hierarchies (v1) not every one has pods. A group below a unit of systemd that is none of the kubelet's, such as
    `user@1000.service`, names nothing: a user may choose its name.
    """
    found = set()
    for line in cgroup.splitlines():
        for segment in line.split(":", 2)[-1].split("/"):
            if (named := _POD_SEGMENT.fullmatch(segment)) is not None:
                found.add(named[1].replace("_", "-"))
                break
            if segment.endswith((".slice", ".service", ".scope")) and not segment.startswith(_OF_PODS):
                break
    return found == {pod_uid}


def is_pod_volume(root: str, pod_uid: str) -> bool:
    """Whether a mount's root is an emptyDir of this pod, as the kubelet names it."""
    return re.fullmatch(rf"(?:/[^/]+)*/pods/{re.escape(pod_uid)}/volumes/kubernetes\.io~empty-dir/[^/]+", root) is not None


def mount_root(path: str, mountinfo: Path) -> str:
    """The root, within its file system, of the mount that a path is on (proc(5), mountinfo); empty where it cannot be read."""
    found, longest = "", ""
    try:
        lines = mountinfo.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        root, point = (_unescape(field) for field in fields[3:5])
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(longest):
            found, longest = root, point  # of two on one point, the later one covers the other
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
