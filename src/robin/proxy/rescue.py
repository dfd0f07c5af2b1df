"""The one translator of failures: a Fault becomes status, Proxy-Status and problem body, or a reset where a head went out already."""

from typing import TYPE_CHECKING

from robin.model.faults import Fault
from robin.model.message import Framing, RequestHead
from robin.proxy.house import House
from robin.telemetry.record import ExchangeRecord
from robin.wire.proxy_status import render_options, render_problem

if TYPE_CHECKING:
    from robin.proxy.connection import Downstream


async def rescue(downstream: "Downstream", house: House, head: RequestHead | None, record: ExchangeRecord, fault: Fault) -> bool:
    """Answer for a failed exchange. Whether the connection goes on."""
    record.outcome = fault.code
    if record.status is not None:  # the caller saw a head: only a reset can tell it that the rest will not come
        record.outcome = "upstream_aborted"
        downstream.reset()
        return False
    kind = fault.kind
    goes_on = not kind.closes and head is not None and head.keep_alive and not house.closing and _body_is_here(downstream, head, record)
    record.request_id = house.recorder.request_id()
    record.status = kind.status
    record.ttfb_s = house.now() - record.started_at
    answer = render_problem(
        kind,
        detail=fault.detail,
        request_id=record.request_id,
        retry_after_s=fault.retry_after_s,
        close=not goes_on,
        head_only=head is not None and head.method == "HEAD",
    )
    downstream.write(answer)
    if not goes_on:
        await downstream.linger()
    return goes_on


def _body_is_here(downstream: "Downstream", head: RequestHead, record: ExchangeRecord) -> bool:
    """Drop the unread body if all of it has come, so that the connection can go on; anything else closes it."""
    if head.framing == Framing.NONE:
        return True
    if head.framing != Framing.LENGTH or head.expects_continue or len(downstream.received) < head.length - record.bytes_in:
        return False
    downstream.take(head.length - record.bytes_in)
    return True


async def answer_options(downstream: "Downstream", head: RequestHead, record: ExchangeRecord) -> bool:
    """Our own 204 to `OPTIONS *` and to OPTIONS that may travel no further."""
    goes_on = head.keep_alive and _body_is_here(downstream, head, record)
    record.status = 204
    record.outcome = "injected"
    record.ttfb_s = 0.0
    downstream.write(render_options(close=not goes_on))
    if not goes_on:
        await downstream.linger()
    return goes_on
