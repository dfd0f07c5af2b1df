"""The columns of the sidecar's access record (docs/reference/log-fields.md)."""

from typing import Final

from robin.telemetry.columns import Column, Columns, render_path
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.trace_context import render_trace_id


def _render(parts: tuple[str, ...], record: ExchangeRecord, timestamp: str, identity: str) -> str:
    ts, request_id, trace_id, path, bytes_in, bytes_out, ttfb, duration, wait, uid, pid, token, end = parts
    ttfb_s, wait_s, caller = record.ttfb_s, record.identity_wait_s, record.caller
    return (
        f'{ts}"{timestamp}"{request_id}"{record.request_id}"'
        f"{trace_id}{'null' if record.traceparent is None else render_trace_id(record.traceparent)}{path}{render_path(record.path)}"
        f"{bytes_in}{record.bytes_in}{bytes_out}{record.bytes_out}{ttfb}{'null' if ttfb_s is None else f'{ttfb_s:.6f}'}"
        f"{duration}{record.duration_s:.6f}{wait}{f'{wait_s:.6f}' if wait_s else '0'}"
        f"{uid}{'null' if caller.uid is None else caller.uid}{pid}{'null' if caller.pid is None else caller.pid}{token}{identity}{end}"
    )


SIDECAR_COLUMNS: Final = Columns(
    columns=(
        Column(name="ts"),
        Column(name="event", constant="exchange"),
        Column(name="request_id"),
        Column(name="trace_id"),
        Column(name="outcome", attribute="outcome"),
        Column(name="credential", attribute="credential"),
        Column(name="method", attribute="method"),
        Column(name="path"),
        Column(name="protocol", attribute="protocol"),
        Column(name="status", attribute="status"),
        Column(name="upstream_status", attribute="upstream_status"),
        Column(name="bytes_in"),
        Column(name="bytes_out"),
        Column(name="ttfb_s"),
        Column(name="duration_s"),
        Column(name="identity_wait_s"),
        Column(name="retries", attribute="retries"),
        Column(name="reused", attribute="reused"),
        Column(name="listener", attribute="caller.listener"),
        Column(name="peer_uid"),
        Column(name="peer_pid"),
        Column(name="identity"),
    ),
    render=_render,
)
