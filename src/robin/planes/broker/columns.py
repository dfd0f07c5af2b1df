"""The columns of the inbound verifier's access record; what was verified is in the audit record."""

from typing import Final

from robin.telemetry.columns import Column, Columns, render_path
from robin.telemetry.record import ExchangeRecord


def _render(parts: tuple[str, ...], record: ExchangeRecord, timestamp: str, _identity: str) -> str:
    ts, request_id, path, bytes_in, bytes_out, duration, end = parts
    return (
        f'{ts}"{timestamp}"{request_id}"{record.request_id}"{path}{render_path(record.path)}'
        f"{bytes_in}{record.bytes_in}{bytes_out}{record.bytes_out}{duration}{record.duration_s:.6f}{end}"
    )


BROKER_COLUMNS: Final = Columns(
    columns=(
        Column(name="ts"),
        Column(name="event", constant="exchange"),
        Column(name="request_id"),
        Column(name="outcome", attribute="outcome"),
        Column(name="method", attribute="method"),
        Column(name="path"),
        Column(name="status", attribute="status"),
        Column(name="upstream_status", attribute="upstream_status"),
        Column(name="bytes_in"),
        Column(name="bytes_out"),
        Column(name="duration_s"),
        Column(name="listener", attribute="caller.listener"),
    ),
    render=_render,
)
