"""What is logged, and in which form."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySettings:
    """`access_log` is about exchanges, `log_level` about events; both are written in `log_format`."""

    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "console"]
    access_log: Literal["all", "errors", "off"]
