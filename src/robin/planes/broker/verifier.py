"""The verifier: the pure judgement, then the body, the replay store and the audit record, in that order. The first failure answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from robin.model.passport import HTTPSIG, TRANSCRIPT, ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.planes.broker import records
from robin.planes.broker.bundle_file import BundleFile
from robin.planes.broker.metrics import PassportMetrics
from robin.planes.broker.replay import MemoryReplayStore
from robin.policy.passport_proof import check_body, check_unseen_body
from robin.policy.passport_verify import Findings, VerifyRules, replay_key, verify_head


@dataclass(slots=True, kw_only=True)
class Verification:
    """One request under judgement. `surface` names where it came in, for the record."""

    request: ReceivedRequest
    request_id: str
    surface: str
    found: Findings = field(default_factory=Findings)


class Verifier:
    """Judges requests with the bundle that is in force."""

    __slots__ = ("_audit", "_bundle", "_metrics", "_monotonic", "_replay", "_wall", "rules")

    def __init__(
        self,
        rules: VerifyRules,
        bundle: BundleFile,
        replay: MemoryReplayStore,
        audit: records.PassportAudit,
        metrics: PassportMetrics,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.rules = rules
        self._bundle = bundle
        self._replay = replay
        self._audit = audit
        self._metrics = metrics
        self._wall = wall
        self._monotonic = monotonic

    async def check_head(self, one: Verification) -> None:
        """Steps 1 to 12. Raises Refused, whose record is written."""
        began = self._monotonic()
        try:
            verify_head(one.request, self._bundle.bundle, self._bundle.reason, self.rules, self._wall(), one.found)
        except Refused as refused:
            raise await self.refuse(one, refused) from None
        finally:
            self._metrics.observe(one.found.profile or "none", self._monotonic() - began)

    async def admit(self, one: Verification, body: bytes | None) -> None:
        """Steps 13 to 15; `body` None: this surface does not get it. Raises Refused, whose record is written."""
        found = one.found
        assert found.proof is not None
        assert found.route is not None
        try:
            if body is None:
                check_unseen_body(found.proof, found.route, one.request)
            else:
                check_body(found.proof, found.route, body)
            now = self._wall()
            if now > found.proof.until:  # the body took so long that the store would forget this use at once
                raise Refused("nonce_stale", "slow_body")
            outcome = self._replay.consume(replay_key(found), found.proof.until, now)
            if outcome == "seen":
                raise Refused("jti_replay" if found.profile == TRANSCRIPT else "nonce_replay")
            if outcome == "stale":
                raise Refused("nonce_stale", "clock_set_back")
            if outcome != "fresh":
                raise Refused("replay_store_full" if outcome == "full" else "replay_store_unavailable")
        except Refused as refused:
            raise await self.refuse(one, refused) from None
        await self._write(one, "passport_verified", "", accepted=True)
        self._metrics.verified[found.profile or HTTPSIG, one.surface, "allow"] += 1

    async def refuse(self, one: Verification, refused: Refused) -> Refused:
        """Count and record a refusal. Returns what is answered: the refusal, or `audit_unavailable`."""
        self._count(one, refused)
        try:
            await self._write(one, refused.reason.code, refused.detail, accepted=False)
        except Refused as unavailable:
            return unavailable
        return refused

    def note_refusal(self, one: Verification, refused: Refused) -> None:
        """Count and record a refusal where nothing can be awaited."""
        self._count(one, refused)
        self._audit.put("passport.verify", one.request_id, self._values(one, refused.reason.code, refused.detail, accepted=False))

    def _count(self, one: Verification, refused: Refused) -> None:
        self._metrics.denied["verifier", refused.reason.code] += 1
        self._metrics.verified[one.found.profile or "none", one.surface, "deny"] += 1

    async def _write(self, one: Verification, reason: str, detail: str, *, accepted: bool) -> None:
        await self._audit.write("passport.verify", one.request_id, self._values(one, reason, detail, accepted=accepted))

    def _values(self, one: Verification, reason: str, detail: str, *, accepted: bool) -> dict[str, object]:
        bundle, request = self._bundle.bundle, one.request
        values: dict[str, object] = {
            "method": records.ascii_text(request.method),
            "authority": records.ascii_text(request.authority),
            "surface": one.surface,
            "bundle_serial": None if bundle is None else bundle.serial,
        }
        return values | records.of_findings(one.found) | records.outcome("verifier", reason, detail, accepted=accepted)
