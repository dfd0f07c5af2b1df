"""ASGI middleware: the application is called for verified requests alone, with the body that was verified."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any, TypeVar

from robin.model.passport import ReceivedRequest
from robin.model.passport_reasons import Refused
from robin.passport.requests import check_target, find_ambiguity, is_stripped, refusal, verified
from robin.passport.verifier import ANSWER_S, Verifier
from robin.planes.broker.verifier import Verification

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")


class PassportASGI:
    """Wrap an application: `app = PassportASGI(app, Verifier.from_config("robin.yaml"))`.

    The application finds a `VerifiedPassport` in `scope["state"]["robin.passport"]`. WebSockets are closed with 1008. The verifier is
    closed when the server ends the application's lifespan.
    """

    def __init__(self, app: App, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope, by the ASGI specification 3."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
            return
        one = self._verifier.begin(_received(scope), "asgi")
        try:
            body = await self._judge(scope, receive, one)
        except Refused as refused:
            await _refuse(scope, send, one, refused)
            return
        if body is not None:
            value, fields = verified(one.found)
            inner = dict(scope)
            kept = [pair for pair in scope["headers"] if not is_stripped(pair[0].decode("latin-1"), one.found.profile)]
            inner["headers"] = kept + [(name.lower().encode("ascii"), text.encode("ascii")) for name, text in fields.items()]
            inner["state"] = {**scope.get("state", {}), "robin.passport": value}
            await self._app(inner, _replay(body, receive), send)

    async def _judge(self, scope: Scope, receive: Receive, one: Verification) -> bytes | None:
        """The body of an accepted request, None where the client left before it was whole. Raises Refused."""
        if (obstacle := _find_obstacle(scope, one.request)) is not None:
            raise await _within_time(self._verifier.refuse(one, obstacle))
        await _within_time(self._verifier.check_head(one))
        try:
            async with asyncio.timeout(self._verifier.body_within_s):
                body = await _read(receive, self._verifier.max_body_bytes, one.request.body_bytes)
        except TimeoutError:
            raise await _within_time(self._verifier.refuse(one, Refused("nonce_stale", "slow_body"))) from None
        except Refused as refused:
            raise await _within_time(self._verifier.refuse(one, refused)) from None
        if body is not None:
            await _within_time(self._verifier.admit(one, body))
        return body

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: MutableMapping[str, Any]) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await asyncio.to_thread(self._verifier.close)
            await send(message)

        return send_and_close


def _received(scope: Scope) -> ReceivedRequest:
    fields = tuple((name.decode("latin-1").lower(), value.decode("latin-1").strip(" \t")) for name, value in scope["headers"])
    path, query = scope.get("raw_path") or b"", scope.get("query_string") or b""
    hosts = [value for name, value in fields if name == "host"]
    lengths = [value for name, value in fields if name == "content-length"]
    chunked = any(name == "transfer-encoding" for name, _ in fields)
    known = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit() and not chunked
    none = not chunked and not lengths and scope.get("http_version", "").startswith("1")
    return ReceivedRequest(
        method=scope.get("method", ""),
        target=(path + (b"?" + query if query else b"")).decode("latin-1"),
        authority=hosts[0] if len(hosts) == 1 else "",
        fields=fields,
        body_bytes=int(lengths[0][:18]) if known else 0 if none else None,
    )


def _find_obstacle(scope: Scope, request: ReceivedRequest) -> Refused | None:
    """Why the request cannot be judged here."""
    if scope["type"] != "http":
        return Refused("transcript_ambiguous", "upgrade")
    raw = scope.get("raw_path")
    if not isinstance(raw, bytes) or not raw or b"?" in raw:
        return Refused("raw_target_unavailable", "raw_path")
    if (detail := find_ambiguity(request)) is not None:
        return Refused("transcript_ambiguous", detail)
    try:
        check_target(request, scope["path"].encode())
    except Refused as refused:
        return refused
    return None


async def _read(receive: Receive, most: int, announced: int | None) -> bytes | None:
    """The whole body; None where the client left. Raises Refused `body_too_large`."""
    pieces, size = [], announced or 0
    if size > most:
        raise Refused("body_too_large")
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > most:
            raise Refused("body_too_large")
        if not message.get("more_body", False):
            return b"".join(pieces)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the verified body once, and then what comes behind it."""
    waiting = [body]

    async def again() -> MutableMapping[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


async def _refuse(scope: Scope, send: Send, one: Verification, refused: Refused) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008, "reason": refused.reason.code})
        return
    status, fields, body = refusal(one, refused)
    headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _within_time(future: Future[T]) -> T:
    """The outcome of the verifier's thread. Raises Refused; a thread that does not answer is a store that does not."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        raise Refused("replay_store_unavailable", "timeout") from None
