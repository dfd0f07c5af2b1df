"""What a process of `robin gateway` has of the runtime, as a gateway or as a relay."""

from collections.abc import Mapping
from typing import Final

from robin.app.plane import RuntimeSettings
from robin.planes.gateway.settings import GatewaySettings

_TUNNELS_CLOSE_S: Final = 5.0  # before the end of a drain


def runtime_settings(settings: GatewaySettings, setting_names: Mapping[str, str]) -> RuntimeSettings:
    """The part of the settings that is about the process. `setting_names`: what messages of the engine call its settings."""
    return RuntimeSettings(
        plane="gateway",
        admin=settings.admin,
        admin_setting="gateway.admin.listen",
        probes=settings.probes,
        probes_setting="gateway.admin.probes",
        drain_min_s=settings.drain_min_s,
        drain_max_s=settings.drain_max_s,
        drain_tunnels_s=_TUNNELS_CLOSE_S,
        unsafe={"open": any(listener.unsafe_open for listener in settings.listeners)},
        warnings=settings.warnings,
        setting_names=setting_names,
    )
