"""What the probes show: a snapshot of the start, the drain and the identity, without subject, audience, URL or token."""

import json
import math
from dataclasses import dataclass

from robin.model.identity import IdentityStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`started`: the listeners are bound and a usable identity was seen once. `draining`: a drain began."""

    started: bool
    draining: bool
    identity: IdentityStatus

    @property
    def ready(self) -> bool:
        """True if a request that came now would be accepted, and served with a token."""
        return self.identity.usable and not self.draining

    @property
    def status(self) -> str:
        """`draining`, `starting`, `ready` or `not_ready`."""
        if self.draining:
            return "draining"
        if not self.started:
            return "starting"
        return "ready" if self.identity.usable else "not_ready"

    def render(self) -> bytes:
        """The body of /startupz and /readyz: JSON with the state, the reasons against it, and the identity."""
        reasons: list[str] = []
        if self.draining:
            reasons.append("draining")
        if not self.started:
            reasons.append("starting")
        if not self.identity.usable:
            reasons.extend(self.identity.reasons)
        left_s = self.identity.expires_in_s
        identity = {
            "source": self.identity.source,
            "state": self.identity.state,
            "expires_in_s": int(left_s) if left_s is not None and math.isfinite(left_s) else None,
        }
        return json.dumps({"status": self.status, "reasons": reasons, "identity": identity}, separators=(",", ":")).encode() + b"\n"
