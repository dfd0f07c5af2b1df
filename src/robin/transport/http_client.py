"""A small HTTP/1.1 client for calls of our own (issuers, key sets, the Kubernetes API, webhooks), on the pool of upstream connections.

Rules a reader must keep: one bounded request, one bounded response, one deadline for all of it. A redirect is a response like any other;
there are no cookies, no proxy settings of the environment, no content codings. A connection is kept only after a whole, clean response.
"""

import asyncio
from typing import Final

from robin.model.faults import Fault
from robin.model.secret import Secret
from robin.model.verdict import Permit
from robin.transport.pool import Pool, Upstream
from robin.wire.http_call import CallReader, Fields, HttpResponse, render_call

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class _StaleConnection(Exception):
    """A reused connection ended before a byte of the response: the upstream had closed it already."""


class HttpClient:
    """Calls what a Permit of `policy.control` allows."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def request(
        self,
        permit: Permit,
        method: str,
        target: str,
        fields: Fields = (),
        body: bytes | Secret = b"",
        *,
        limit_bytes: int,
        deadline_at: float,
        repeatable: bool = False,
    ) -> HttpResponse:
        """The response to one request. `limit_bytes` is of its body; `deadline_at` is the loop's time when response and all must be there.

        Raises Fault: what `acquire` raises, `response_timeout`, `upstream_closed`, `upstream_protocol` (reason `response_too_large` where
        the body has more than `limit_bytes`). Raises ValueError for what cannot be one request. An idempotent request is sent once more if
        a reused connection turns out to be closed; so is any other that the caller calls `repeatable`.
        """
        call = render_call(method, permit.endpoint.origin.authority, target, fields, body)
        try:
            async with asyncio.timeout_at(deadline_at):
                try:
                    return await self._exchange(permit, method, call, limit_bytes, fresh=False)
                except _StaleConnection:
                    if method not in _IDEMPOTENT and not repeatable:
                        raise Fault("upstream_closed", "upstream_closed: the upstream closed before it answered") from None
                return await self._exchange(permit, method, call, limit_bytes, fresh=True)
        except TimeoutError:
            raise Fault("response_timeout", "response_timeout: no whole response before the deadline of the call") from None

    async def _exchange(self, permit: Permit, method: str, call: bytes, limit_bytes: int, *, fresh: bool) -> HttpResponse:
        """Send the request on one connection and read the response. Raises Fault, _StaleConnection."""
        upstream = await self._pool.acquire(permit, fresh=fresh)
        reader = CallReader(method, limit_bytes=limit_bytes)
        try:
            upstream.write(call)
            await _receive(upstream, reader)
            assert reader.response is not None
            upstream.reusable = reader.keep_alive
            return reader.response
        finally:
            self._pool.release(upstream, reader.idle_s)  # it closes what did not end clean, or has received more


async def _receive(upstream: Upstream, reader: CallReader) -> None:
    """Read until the response is whole. Raises Fault, _StaleConnection."""
    while True:
        upstream.take(reader.read(upstream.received))
        if reader.response is not None:
            return
        if reader.eager:
            await asyncio.sleep(0)  # a flood of small chunks must not hold the loop
        elif not await upstream.fill():
            if upstream.reused and not reader.began:
                raise _StaleConnection
            reader.end(clean=not upstream.was_reset)
