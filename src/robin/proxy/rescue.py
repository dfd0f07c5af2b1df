"""The one translator of failures: a Fault becomes status, Proxy-Status and problem body, or a reset where a head went out already."""

from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead
from robin.model.verdict import LocalResponse
from robin.proxy.downstream import Downstream
from robin.proxy.drain import CLOSING
from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.wire.proxy_status import render_local_response, render_problem

_FORGET_BYTES: Final = 256 * 1024


async def rescue(downstream: Downstream, engine: Engine, head: RequestHead | None, record: ExchangeRecord, fault: Fault) -> bool:
    """Answer for a failed exchange. Whether the connection goes on."""
    record.outcome = fault.code
    if record.status is not None:  # the caller saw a head: only a reset can tell it that the rest will not come
        record.outcome = "upstream_aborted"
        downstream.reset()
        return False
    kind = fault.kind
    unread = None if head is None or kind.closes else _unread_body(head, record)
    goes_on = unread is not None and head is not None and head.keep_alive and engine.drain.state != CLOSING
    record.request_id = engine.recorder.request_id()
    record.status = kind.status
    record.ttfb_s = engine.clock() - record.started_at
    answer = render_problem(
        kind,
        detail=fault.detail,
        request_id=record.request_id,
        retry_after_s=fault.retry_after_s,
        close=not goes_on,
        head_only=head is not None and head.method == "HEAD",
    )
    downstream.write(answer)
    return await _part(downstream, unread if goes_on else None)


def _unread_body(head: RequestHead, record: ExchangeRecord) -> int | None:
    """How many bytes of the body to forget so that the connection can go on; None: it is not worth that, or can not be told."""
    if head.framing == Framing.CHUNKED or head.expects_continue or head.upgrade is not None:  # tunnel bytes may follow: no request
        return None
    left = head.length - record.bytes_in
    return left if left <= _FORGET_BYTES else None


async def _part(downstream: Downstream, unread: int | None) -> bool:
    """After an answer of our own: forget the body and go on, or close. Whether the connection goes on.

    The next request is looked at once this answer is taken: who pipelines and never reads must not make us hold answers without end.
    """
    if unread is None or (unread and not await downstream.discard_body(unread)):
        return False
    return not downstream.write_blocked or await downstream.flush_response()


async def respond_locally(downstream: Downstream, head: RequestHead, record: ExchangeRecord, response: LocalResponse) -> bool:
    """Write the proxy's own response. Returns True if the connection can be reused."""
    unread = _unread_body(head, record) if head.keep_alive else None
    record.status = response.status
    record.outcome = "injected"
    record.ttfb_s = downstream.engine.clock() - record.started_at
    downstream.write(render_local_response(response, close=unread is None, head_only=head.method == "HEAD"))
    return await _part(downstream, unread)
