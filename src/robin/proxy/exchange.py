"""The request path: the one place that knows the order of the steps of an exchange (docs/explanation/request-path.md)."""

import asyncio
from typing import Final

from robin.model.credential import Credential
from robin.model.faults import Fault
from robin.model.message import HeldBody
from robin.model.route import Held, Route
from robin.model.secret import Secret
from robin.model.verdict import BodyNeeded, Denial, LocalResponse, Permit
from robin.proxy.attempt import Attempt, CallerLeft, StaleConnection
from robin.proxy.downstream import Downstream
from robin.proxy.engine import Engine, Policy
from robin.proxy.request import send_request
from robin.proxy.request_body import StreamedBody, hold_body
from robin.proxy.rescue import rescue, respond_locally
from robin.proxy.response import discard_response, relay_response
from robin.telemetry.logs import stack_of
from robin.telemetry.record import ExchangeRecord
from robin.transport.pool import Pool, Upstream
from robin.transport.stream import StreamClosed
from robin.wire.forwarding import forward_request, render
from robin.wire.framing import FramingError
from robin.wire.oauth import parse_bearer_error
from robin.wire.shape import ParsedRequest, ParsedResponse

_UNAUTHORIZED: Final = 401


async def serve_exchange(downstream: Downstream, engine: Engine) -> bool:
    """Serve one request whose first byte has arrived. Returns True if the connection can be reused."""
    record = ExchangeRecord(downstream.caller, engine.clock())
    engine.metrics.in_flight += 1
    head, held, refusals, policy = None, None, engine.refusals, engine.policy
    try:
        head = downstream.take_head() or await downstream.receive_head()  # parsed and framed, refused if ambiguous
        record.note_head(head)
        if downstream.draining:
            raise Fault("draining", "draining: this Robin is shutting down")
        if engine.authenticate is not None:
            record.caller = await engine.authenticate(head, record.caller)
        if engine.callers is not None:
            engine.callers.enter(downstream, head, record)
        verdict = record.verdict = engine.policy.decide(head, record.caller)  # pure
        if isinstance(verdict, BodyNeeded):
            held = await hold_body(downstream, head, Held(limit_bytes=verdict.limit_bytes), verdict.idle_s, record, engine)
            assert held is not None
            verdict = record.verdict = verdict.decide(held)  # pure
        if isinstance(verdict, Permit):
            refusals = verdict.route.refusals or refusals
            if head.method == "CONNECT" and engine.connect is not None:
                return await engine.connect(downstream, head, verdict, record)
            if held is not None or (verdict.route.body is not None and verdict.route.body.holds(head)):
                held, verdict = await _hold(downstream, engine, head, verdict, held, record, policy)
            return await _forward(downstream, engine, head, verdict, held, record)
        if isinstance(verdict, LocalResponse):
            return await respond_locally(downstream, head, record, verdict)
        raise Fault(verdict.code, verdict.detail, rule=verdict.rule)
    except Fault as fault:
        return await rescue(downstream, engine, refusals, head, record, fault)
    except (CallerLeft, StreamClosed):
        record.outcome = "client_closed"
        return False
    except asyncio.CancelledError:
        record.outcome = "drain_cut"
        downstream.reset()  # cut: what the caller got must not look like the whole
        raise
    except Exception as error:  # noqa: BLE001 - a bug of ours must not end the process; it is logged with its stack
        engine.events.error("exchange_failed", code="internal_error", stack=stack_of(error))
        return await rescue(
            downstream, engine, refusals, head, record, Fault("internal_error", "internal_error: see the log of this Robin")
        )
    finally:
        engine.metrics.in_flight -= 1
        record.duration_s, engine.held_bytes = engine.clock() - record.started_at, engine.held_bytes - record.held_bytes
        engine.recorder.finish(record)


async def _forward(
    downstream: Downstream, engine: Engine, head: ParsedRequest, permit: Permit, held: HeldBody | None, record: ExchangeRecord
) -> bool:
    """From the Permit to the end of the response: credential, outbound head, connection, send, repeat once, relay."""
    tokens: tuple[Secret, ...] = ()  # those that were sent
    while True:
        route, credentials, pool, policy = permit.route, engine.credentials, engine.pool, engine.policy
        credential = credentials.ready(permit) or await _obtain(engine, permit, record)
        outbound = forward_request(head, permit, credential, held)  # pure: strip first, inject after
        upstream = None if record.retries else pool.take(permit)
        waited = upstream is None
        upstream = upstream or await pool.acquire(permit, fresh=record.retries > 0)  # the one way out
        attempt = Attempt(downstream, upstream, head, route, held, record, engine)
        announced_idle_s = None
        try:
            if waited:  # the wait may have outlived the credential
                credential = credentials.ready(permit) or await _obtain(engine, permit, record)
                outbound = forward_request(head, permit, credential, held)
            record.identity, record.offered, record.reused, record.address, record.dialled = (
                credential.identity,
                credential.note or None,
                upstream.reused,
                upstream.address,
                upstream.dialled,
            )
            if engine.audit is not None:
                await engine.audit(record, permit, held)  # written before the first byte goes upstream
            outbound = outbound if route.sign is None else route.sign(outbound, held, credential, engine.wall())  # last
            attempt.tokens = tokens = (*tokens, *credential.tokens) if tokens else credential.tokens
            response = await send_request(attempt, render(outbound))  # the final response head; the caller has seen nothing of it
            announced_idle_s = response.idle_s
            if response.status != route.rejects_with or not await _renew(engine, permit, credential, attempt, response):
                return await relay_response(attempt, response)
            discard_response(attempt, response)
        except StaleConnection as stale:
            if record.retries or not stale.may_repeat:
                raise Fault("upstream_closed", "upstream_closed: the upstream closed before it answered") from None
            engine.metrics.retries[stale.reason] += 1
        except (StreamClosed, FramingError, TimeoutError) as error:
            raise attempt.classify_failure(error) from None
        finally:
            downstream.peer = None
            if attempt.body is None:
                pool.release(upstream, announced_idle_s)
            else:
                await _release_after_body(attempt.body, upstream, pool, announced_idle_s)
        record.retries += 1  # and once more; the upstream decided how long it took until now
        permit = permit if engine.policy is policy else await _permit_again(downstream, engine, head, held, record)


async def _release_after_body(body: StreamedBody, upstream: Upstream, pool: Pool, announced_idle_s: int | None) -> None:
    """Stop the body and release the connection, also where the exchange is cancelled while it waits for that."""
    try:
        await body.stop()
    finally:
        pool.release(upstream, announced_idle_s)


async def _hold(
    downstream: Downstream,
    engine: Engine,
    head: ParsedRequest,
    permit: Permit,
    held: HeldBody | None,
    record: ExchangeRecord,
    policy: Policy,
) -> tuple[HeldBody | None, Permit]:
    """The whole body, where route or policy ask for it; the plane judges it before anything is contacted. Raises Fault.

    The caller decides how long its body takes: if `policy`, that of its head, is not in force any more, it is judged again.
    """
    if held is None and permit.route.body is not None:
        held = await hold_body(downstream, head, permit.route.body, permit.route.deadlines.stream_idle_s, record, engine)
    if engine.policy is not policy:
        permit = await _permit_again(downstream, engine, head, held, record)
    if held is not None and engine.judge is not None:
        await engine.judge(permit, held)
    return held, permit


async def _permit_again(
    downstream: Downstream, engine: Engine, head: ParsedRequest, held: HeldBody | None, record: ExchangeRecord
) -> Permit:
    """Who the caller is, and the permit, by what is in force now. Raises Fault."""
    if engine.authenticate is not None:
        record.caller = await engine.authenticate(head, downstream.caller)
    verdict = engine.policy.decide(head, record.caller)
    if isinstance(verdict, BodyNeeded) and held is not None:
        verdict = verdict.decide(held)
    record.verdict = verdict
    if isinstance(verdict, Permit):
        return verdict
    assert isinstance(verdict, Denial)  # what went to an upstream is never ours to answer
    raise Fault(verdict.code, verdict.detail, rule=verdict.rule)


async def _renew(engine: Engine, permit: Permit, credential: Credential, attempt: Attempt, response: ParsedResponse) -> bool:
    """Record a 401. Returns True if another credential has replaced this one and the request is to be sent once more with it."""
    route, credentials = permit.route, engine.credentials
    if not route.repeat_on_401:
        credentials.rejected(permit, credential)
        return False
    if not credential.fields or (route.rejects_with == _UNAUTHORIZED and not _blames_token(route, response)):
        return False
    if attempt.record.retries or not attempt.body_is_repeatable:
        attempt.record.notes.setdefault("replayed", False)
        credentials.rejected(permit, credential)
        return False
    if await credentials.renew(permit, credential) is None:
        return False
    attempt.record.notes["replayed"] = True
    return True


def _blames_token(route: Route, response: ParsedResponse) -> bool:
    """Whether a 401 is about the token. WWW-Authenticate belongs to a 401 alone (RFC 9110 section 11.6.1)."""
    error = parse_bearer_error(response.values(b"www-authenticate"))
    return error == "invalid_token" if route.invalid_token_only else error in (None, "", "invalid_token")


async def _obtain(engine: Engine, permit: Permit, record: ExchangeRecord) -> Credential:
    """Wait for a credential: identity, then grant, single flight. Raises Fault."""
    began = engine.clock()
    try:
        return await engine.credentials.obtain(permit, record.notes)
    finally:
        record.identity_wait_s += engine.clock() - began
