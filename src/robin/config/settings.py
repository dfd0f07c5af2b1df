"""Every setting of the sidecar as one frozen, validated value: each part owns its own, this groups them.

Code that has a SidecarSettings need not check anything again. Durations end in `_s` (float seconds), sizes in `_bytes` (int). No field
ever holds a token. `config/table.py` documents each setting, `config/load.py` builds the value.
"""

from dataclasses import dataclass

from robin.identity.settings import IdentitySettings
from robin.model.limits import Deadlines, Limits
from robin.policy.settings import GuardSettings
from robin.telemetry.settings import TelemetrySettings
from robin.transport.settings import ListenerSettings, UpstreamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleSettings:
    """The life of one process: seconds from the signal for `drain_*`; `startup_timeout_s` 0: none."""

    drain_min_s: float
    drain_max_s: float
    startup_timeout_s: float
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsafeSettings:
    """Switches that give up a protection."""

    listen: bool
    upstream_http: bool
    any_host: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are on, as the `switch` label of `robin_unsafe`."""
        switches = (("listen", self.listen), ("upstream_http", self.upstream_http), ("any_host", self.any_host))
        return tuple(name for name, on in switches if on)


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarSettings:
    """What `robin sidecar` runs with (docs/reference/settings.md). `config`: the file that some of it came from."""

    identity: IdentitySettings
    upstream: UpstreamSettings
    listeners: ListenerSettings
    guards: GuardSettings
    limits: Limits
    deadlines: Deadlines
    lifecycle: LifecycleSettings
    telemetry: TelemetrySettings
    unsafe: UnsafeSettings
    config: str | None
