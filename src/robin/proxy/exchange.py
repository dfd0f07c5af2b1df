"""The hall: the one place that knows the order of the walk of a request (docs/explanation/walk-of-a-request.md)."""

import asyncio

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.model.verdict import Denial, Permit
from robin.proxy.downstream import Downstream
from robin.proxy.house import House
from robin.proxy.relay import CallerLeft, Relay, StaleConnection
from robin.proxy.rescue import answer_options, rescue
from robin.telemetry.logs import stack_of
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import Ended
from robin.wire.forwarding import forward_request


async def serve_exchange(downstream: Downstream, house: House) -> bool:
    """Carry one request, its first byte is here, from its caller to its origin, and the answer back. Whether the connection goes on."""
    clock = house.clock
    record = ExchangeRecord(downstream.caller, clock())
    house.metrics.in_flight += 1
    head = None
    try:
        head = downstream.read_head(downstream.take_head() or await downstream.receive_head())
        record.note_head(head)
        if house.closing:
            raise Fault("draining", "draining: this Robin is shutting down")
        verdict = house.policy.decide(head, downstream.caller)
        if isinstance(verdict, Denial):
            raise Fault(verdict.code, verdict.detail)
        if head.method == "OPTIONS" and (head.target == b"*" or (head.outline.max_forwards or b"1").strip(b"0") == b""):
            return await answer_options(downstream, head, record)
        return await _carry(downstream, house, head, verdict, record)
    except Fault as fault:
        return await rescue(downstream, house, head, record, fault)
    except (CallerLeft, Ended):
        record.outcome = "client_closed"
        return False
    except asyncio.CancelledError:
        record.outcome = "drain_cut"
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours must not end the process; it is told with its stack
        house.events.error("exchange_failed", code="internal_error", stack=stack_of(error))
        return await rescue(downstream, house, head, record, Fault("internal_error", "internal_error: see the log of this Robin"))
    finally:
        house.metrics.in_flight -= 1
        record.duration_s = clock() - record.started_at
        house.recorder.finish(record)


async def _carry(downstream: Downstream, house: House, head: RequestHead, permit: Permit, record: ExchangeRecord) -> bool:
    """Identity, rewrite, connect, relay; once more on a new connection if a reused one turned out dead before it said a byte (J3)."""
    retrying = False
    while True:
        credential = house.credentials.ready(permit)  # a look, no await
        if credential is None:
            credential = await _obtain(house, permit, record)
        outbound = forward_request(head, permit, credential, house.rewriting)  # pure: strip first, inject after
        upstream = None if retrying else house.pool.take(permit)
        waited = upstream is None
        if upstream is None:
            upstream = await house.pool.acquire(permit, fresh=retrying)  # the one door out
        announced_idle_s = None
        try:
            if waited:  # the wait may have outlived the credential
                credential = house.credentials.ready(permit) or await _obtain(house, permit, record)
                outbound = forward_request(head, permit, credential, house.rewriting)
            record.identity = credential.identity
            record.reused = upstream.reused
            if downstream.ended:
                upstream.reusable = True  # nothing was said on it
                raise CallerLeft
            record.credential = credential.grant
            response, goes_on = await Relay(downstream, upstream, head, record, house).carry(outbound)
            announced_idle_s = response.idle_s
            if response.status == 401:
                house.credentials.rejected(permit, credential)
            return goes_on
        except StaleConnection as stale:
            if retrying or not record.reused or not stale.repeatable:
                raise Fault("upstream_closed", "upstream_closed: the upstream closed before it answered") from None
            retrying = True
            record.retries += 1
            house.metrics.retries[stale.reason] += 1
        finally:
            house.pool.release(upstream, announced_idle_s)


async def _obtain(house: House, permit: Permit, record: ExchangeRecord) -> Credential:
    """Wait for a credential: identity -> grant, single flight. Raises Fault."""
    began = house.clock()
    try:
        return await house.credentials.obtain(permit)
    finally:
        record.identity_wait_s += house.clock() - began
