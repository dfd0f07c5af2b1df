"""Responses of the proxy itself: a Fault becomes a refusal, or a reset where the caller has seen a head already."""

from typing import Final

from robin.model.faults import Fault, Refusals
from robin.model.message import Framing, RequestHead
from robin.model.verdict import LocalResponse
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord
from robin.wire.proxy_status import render_local_response

_DISCARD_BYTES: Final = 256 * 1024  # of an unread body, so that the connection can be reused


async def rescue(
    downstream: Downstream, engine: Engine, refusals: Refusals, head: RequestHead | None, record: ExchangeRecord, fault: Fault
) -> bool:
    """Respond to a failed exchange, in the form of `refusals`. Returns True if the connection can be reused."""
    if engine.translate is not None:
        fault = engine.translate(fault, record)
    record.outcome = fault.code
    if record.status is not None:  # the caller has seen a head: only a reset shows that the rest will not come
        record.outcome = "upstream_aborted"
        downstream.reset()
        return False
    kind = fault.kind
    unread = None if head is None or kind.closes else _unread_body(downstream, head, record)
    if record.request_id is None:
        record.request_id = engine.recorder.request_id()
    record.status = fault.status
    record.ttfb_s = engine.clock() - record.started_at
    head_only = head is not None and head.method == "HEAD"
    downstream.write(refusals.render(fault, request_id=record.request_id, close=unread is None, head_only=head_only))
    return await _finish(downstream, unread)


def _unread_body(downstream: Downstream, head: RequestHead, record: ExchangeRecord) -> int | None:
    """How many bytes of the body to discard before the next request; None: there is no next one, or the body has no near and known end."""
    if not downstream.can_serve_another(head):
        return None
    if head.framing == Framing.CHUNKED or head.expects_continue or head.upgrade is not None or head.method == "CONNECT":
        return None  # the bytes of a tunnel may follow, sent before its refusal was seen: they must not be taken for a request
    left = head.length - record.bytes_in
    return left if left <= _DISCARD_BYTES else None


async def _finish(downstream: Downstream, unread: int | None) -> bool:
    """After a response of our own: discard the body, or let the connection close. Returns True if the connection can be reused.

    The next request is read once this response is taken, so a caller that pipelines and never reads cannot make us buffer responses.
    """
    if unread is None or (unread and not await downstream.discard_body(unread)):
        return False
    return not downstream.write_blocked or await downstream.flush_response()


async def respond_locally(downstream: Downstream, head: RequestHead, record: ExchangeRecord, response: LocalResponse) -> bool:
    """Write the proxy's own response. Returns True if the connection can be reused."""
    unread = _unread_body(downstream, head, record)
    record.status = response.status
    record.outcome = "local_response"
    record.ttfb_s = downstream.engine.clock() - record.started_at
    downstream.write(render_local_response(response, close=unread is None, head_only=head.method == "HEAD"))
    return await _finish(downstream, unread)
