"""An upstream that has each request's token judged by somebody else's code, over TLS, and remembers every verdict.

Who judges is an argument: go-spiffe offline with the bundle, the API server's TokenReview, or the keys of OIDC discovery. On top of any
of them: one Authorization line only, scheme Bearer, and `exp` in the future without leeway (the libraries allow a minute, Robin must not).
"""

import asyncio
import hashlib
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from robin.testing.connection import ScriptedConnection
from robin.testing.message import RequestHead, parse_head, read_body
from robin.testing.server import ScriptedServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`reason` is empty for a good token; else the judge's own words. `claims` may be empty for a bad one."""

    reason: str = ""
    subject: str = ""
    expires_at: float = 0.0
    claims: dict[str, Any]


class Judge(Protocol):
    """Somebody else's opinion of a token."""

    async def judge(self, token: str) -> Verdict:
        """Called for each request; an exception fails the test."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One request as it was judged; `at` in Unix seconds, when its head had come. `token` is a fingerprint."""

    at: float
    method: str
    target: str
    token: str
    verdict: Verdict

    @property
    def left_s(self) -> float:
        """The life that the token had left when it came."""
        return self.verdict.expires_at - self.at


class JudgingUpstream(ScriptedServer):
    """`async with JudgingUpstream(judge, tls=...) as upstream:`; answers 200 with what it saw as JSON, or 401 with the reason."""

    def __init__(self, judge: Judge, *, tls: ssl.SSLContext) -> None:
        super().__init__(self._serve, tls=tls, keep_bytes=0, patience_s=75.0)
        self.judgements: list[Judgement] = []
        self.connections_accepted = 0
        self._judge = judge
        self._judged = asyncio.Event()

    @property
    def refused(self) -> list[Judgement]:
        """Those whose token was no good."""
        return [one for one in self.judgements if one.verdict.reason]

    @property
    def tokens(self) -> list[str]:
        """Fingerprints of the tokens seen, in the order of their first coming."""
        return list(dict.fromkeys(one.token for one in self.judgements))

    async def until(self, seen: Callable[[Judgement], bool], *, timeout_s: float = 60.0, what: str) -> Judgement:
        """The first judgement from now on of which `seen` is true; TimeoutError naming `what`."""
        position = len(self.judgements)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    while position < len(self.judgements):
                        position += 1
                        if seen(self.judgements[position - 1]):
                            return self.judgements[position - 1]
                    self._judged.clear()
                    await self._judged.wait()
        except TimeoutError:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}; the last of {position}: {self.judgements[-1:]}") from None

    async def first(self, token: str) -> Judgement:
        """The next judgement of the token with this fingerprint."""
        return await self.until(lambda one: one.token == token, what=f"the token {token}")

    def accepted(self, connection: ScriptedConnection) -> None:
        """Count it, whatever it says."""
        self.connections_accepted += 1

    async def _serve(self, connection: ScriptedConnection) -> None:
        while True:
            try:
                request = parse_head(await connection.read_until(b"\r\n\r\n"))
            except TimeoutError:
                return
            judgement = await self._look(request)
            body: list[bytes] = []
            await read_body(connection, request.fields, body=body.append)
            self.judgements.append(judgement)
            self._judged.set()
            await connection.send(_answer(judgement, b"".join(body)))

    async def _look(self, request: RequestHead) -> Judgement:
        at = time.time()
        lines = request.values(b"authorization")
        scheme, _, token = (lines[0] if len(lines) == 1 else b"").decode("ascii").partition(" ")
        if scheme != "Bearer" or not token:
            verdict = Verdict(reason=f"{len(lines)} Authorization lines, scheme {scheme!r}", claims={})
        else:
            verdict = await self._judge.judge(token)
            if not verdict.reason and verdict.expires_at <= at:
                verdict = Verdict(reason="expired", subject=verdict.subject, expires_at=verdict.expires_at, claims=verdict.claims)
        return Judgement(at=at, method=request.method.decode(), target=request.target.decode(), token=fingerprint(token), verdict=verdict)


def fingerprint(token: str) -> str:
    """Enough of a token's sha256 to tell it from others."""
    return hashlib.sha256(token.encode()).hexdigest()[:12]


def _answer(judgement: Judgement, body: bytes) -> bytes:
    reason = judgement.verdict.reason
    document = {
        "target": judgement.target,
        "token": judgement.token,
        "sub": judgement.verdict.subject,
        "reason": reason,
        "body": hashlib.sha256(body).hexdigest(),
    }
    text = json.dumps(document).encode()
    line = 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"' if reason else "HTTP/1.1 200 OK"
    return f"{line}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
