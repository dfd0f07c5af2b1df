"""The one translator of failures: a Fault becomes status, Proxy-Status and problem body, or a reset where a head went out already."""

from typing import Final

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead
from robin.proxy.downstream import Downstream
from robin.proxy.house import House
from robin.telemetry.record import ExchangeRecord
from robin.wire.proxy_status import render_options, render_problem

_FORGET_BYTES: Final = 256 * 1024


async def rescue(downstream: Downstream, house: House, head: RequestHead | None, record: ExchangeRecord, fault: Fault) -> bool:
    """Answer for a failed exchange. Whether the connection goes on."""
    record.outcome = fault.code
    if record.status is not None:  # the caller saw a head: only a reset can tell it that the rest will not come
        record.outcome = "upstream_aborted"
        downstream.reset()
        return False
    kind = fault.kind
    unread = None if head is None or kind.closes else _unread_body(head, record)
    goes_on = unread is not None and head is not None and head.keep_alive and not house.closing
    record.request_id = house.recorder.request_id()
    record.status = kind.status
    record.ttfb_s = house.clock() - record.started_at
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
    if unread is None or (unread and not await downstream.forget(unread)):
        return False
    return not downstream.choked or await downstream.unburden()


async def answer_options(downstream: Downstream, head: RequestHead, record: ExchangeRecord) -> bool:
    """Our own 204 to `OPTIONS *` and to OPTIONS that may travel no further."""
    unread = _unread_body(head, record) if head.keep_alive else None
    record.status = 204
    record.outcome = "local_response"
    record.ttfb_s = downstream.house.clock() - record.started_at
    downstream.write(render_options(close=unread is None))
    return await _part(downstream, unread)
