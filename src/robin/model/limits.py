"""Every limit and deadline of the engine, in one frozen value each; all come from Settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, counts in items. `upstream_connections` is per endpoint, `upstream_total` in all.

    `body_bytes`: of one request body, 0: no limit.
    `held_bytes`: of all bodies that one engine holds at a time.
    """

    head_bytes: int = 65536
    target_bytes: int = 16384
    fields: int = 100
    connections: int = 1024
    upstream_connections: int = 256
    upstream_total: int = 256
    response_head_bytes: int = 65536
    response_fields: int = 1000
    body_bytes: int = 0
    held_bytes: int = 268_435_456


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDeadlines:
    """Seconds for each step of a new connection by itself: the name, TCP, the TLS handshake."""

    dns_s: float
    connect_s: float
    tls_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Seconds. 0 means none where the settings allow it; `upstream_idle_s` None means `auto`.

    `connect_s`: all steps of a new connection together; `connect_steps`, where a plane has it, bounds each of them instead.
    """

    head_s: float = 10.0
    keepalive_s: float = 75.0
    stream_idle_s: float = 3600.0
    response_s: float = 900.0
    connect_s: float = 10.0
    connect_steps: StepDeadlines | None = None
    queue_s: float = 5.0
    upstream_idle_s: float | None = None
