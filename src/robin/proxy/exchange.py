"""The hall: the one place that knows the order of the walk of a request (docs/explanation/request-path.md)."""

import asyncio

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import RequestHead
from robin.model.verdict import Denial, LocalResponse, Permit
from robin.proxy.downstream import Downstream
from robin.proxy.drain import CLOSING
from robin.proxy.engine import Engine
from robin.proxy.relay import CallerLeft, Relay, StaleConnection
from robin.proxy.rescue import rescue, respond_locally
from robin.telemetry.logs import stack_of
from robin.telemetry.record import ExchangeRecord
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import forward_request


async def serve_exchange(downstream: Downstream, engine: Engine) -> bool:
    """Carry one request, its first byte is here, from its caller to its origin, and the answer back. Whether the connection goes on."""
    clock = engine.clock
    record = ExchangeRecord(downstream.caller, clock())
    engine.metrics.in_flight += 1
    head = None
    try:
        head = downstream.read_head(downstream.take_head() or await downstream.receive_head())
        record.note_head(head)
        if engine.drain.state == CLOSING:
            raise Fault("draining", "draining: this Robin is shutting down")
        verdict = engine.policy.decide(head, downstream.caller)
        if isinstance(verdict, Denial):
            raise Fault(verdict.code, verdict.detail)
        if isinstance(verdict, LocalResponse):
            return await respond_locally(downstream, head, record, verdict)
        return await _carry(downstream, engine, head, verdict, record)
    except Fault as fault:
        return await rescue(downstream, engine, head, record, fault)
    except (CallerLeft, StreamClosed):
        record.outcome = "client_closed"
        return False
    except asyncio.CancelledError:
        record.outcome = "drain_cut"
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours must not end the process; it is told with its stack
        engine.events.error("exchange_failed", code="internal_error", stack=stack_of(error))
        return await rescue(downstream, engine, head, record, Fault("internal_error", "internal_error: see the log of this Robin"))
    finally:
        engine.metrics.in_flight -= 1
        record.duration_s = clock() - record.started_at
        engine.recorder.finish(record)


async def _carry(downstream: Downstream, engine: Engine, head: RequestHead, permit: Permit, record: ExchangeRecord) -> bool:
    """Identity, rewrite, connect, relay; once more on a new connection if a reused one turned out dead before it said a byte (J3)."""
    retrying = False
    while True:
        credential = engine.credentials.ready(permit)  # a look, no await
        if credential is None:
            credential = await _obtain(engine, permit, record)
        outbound = forward_request(head, permit, credential)  # pure: strip first, inject after
        upstream = None if retrying else engine.pool.take(permit)
        waited = upstream is None
        if upstream is None:
            upstream = await engine.pool.acquire(permit, fresh=retrying)  # the one door out
        announced_idle_s = None
        try:
            if waited:  # the wait may have outlived the credential
                credential = engine.credentials.ready(permit) or await _obtain(engine, permit, record)
                outbound = forward_request(head, permit, credential)
            record.identity = credential.identity
            record.reused = upstream.reused
            if downstream.eof:
                upstream.reusable = True  # nothing was said on it
                raise CallerLeft
            response, goes_on = await Relay(downstream, upstream, head, permit.route, record, engine).carry(outbound)
            announced_idle_s = response.idle_s
            if response.status == 401:
                engine.credentials.rejected(permit, credential)
            return goes_on
        except StaleConnection as stale:
            if retrying or not record.reused or not stale.repeatable:
                raise Fault("upstream_closed", "upstream_closed: the upstream closed before it answered") from None
            retrying = True
            record.retries += 1
            engine.metrics.retries[stale.reason] += 1
        finally:
            engine.pool.release(upstream, announced_idle_s)


async def _obtain(engine: Engine, permit: Permit, record: ExchangeRecord) -> Credential:
    """Wait for a credential: identity -> grant, single flight. Raises Fault."""
    began = engine.clock()
    try:
        return await engine.credentials.obtain(permit)
    finally:
        record.identity_wait_s += engine.clock() - began
