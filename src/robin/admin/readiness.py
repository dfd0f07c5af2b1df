"""What the probes report: a snapshot of the start, the drain and the identities, without subject, audience, URL or token."""

import json
import math
from dataclasses import dataclass

from robin.model.identity import IdentityStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`started`: the listeners are bound and the plane was usable once. `draining`: a drain began.

    `reasons`: what else keeps the plane from serving, beside its identities; empty: nothing. `degraded`: what is wrong although it serves.
    """

    started: bool
    draining: bool
    identities: tuple[IdentityStatus, ...] = ()
    reasons: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """True if a request that arrives now would be served with a token, and new requests are welcome."""
        return self.usable and not self.draining

    @property
    def status(self) -> str:
        """`draining`, `starting`, `ready` or `not_ready`."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        return "ready" if self.usable else "not_ready"

    @property
    def usable(self) -> bool:
        """True if every identity is usable and nothing else keeps the plane from serving."""
        return not self.reasons and all(identity.usable for identity in self.identities)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why the plane is not usable: each fault code once, those of the identities first."""
        codes = [reason for identity in self.identities if not identity.usable for reason in identity.reasons]
        return tuple(dict.fromkeys([*codes, *self.reasons]))

    def render(self) -> bytes:
        """Return the body of /startupz and /readyz: JSON with the state, the reasons against it, and the identities.

        `identity` is the first one that is not usable, else the first one; with several, `identities` lists them all.
        """
        reasons = ["draining"] * self.draining + ["starting"] * (not self.started) + list(self.failures)
        body: dict[str, object] = {"status": self.status, "reasons": reasons}
        if self.degraded:
            body["degraded"] = list(self.degraded)
        if self.identities:
            body["identity"] = _describe(next((one for one in self.identities if not one.usable), self.identities[0]))
        if len(self.identities) > 1:
            body["identities"] = [_describe(one) for one in self.identities]
        return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def _describe(status: IdentityStatus) -> dict[str, object]:
    left_s = status.expires_in_s
    return {
        "source": status.source,
        "state": status.state,
        "expires_in_s": int(left_s) if left_s is not None and math.isfinite(left_s) else None,
    }
