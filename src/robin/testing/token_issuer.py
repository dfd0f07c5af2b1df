"""A small token issuer for demonstrations: `client_credentials` with a JWT-SVID as the assertion (grants.md section 12 has its rules).

`GET /.well-known/oauth-authorization-server`, `GET /jwks`, `GET /stats`, `POST /token`. It trusts the key set that it is given,
and signs what passes: for one machine, never for anything else.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from robin.testing.authority import IdentityAuthority
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.inspection import TokenRefused, inspect_token
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.server import ScriptedServer
from robin.transport.clock import Clock, SystemClock
from robin.transport.entropy import SystemEntropy

JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
LIFETIME_S: Final = 300


class Refused(Exception):
    """An error response of RFC 6749 section 5.2."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


class TokenIssuer(ScriptedServer):
    """`audiences` are those that it issues tokens for; `subjects` is what the subject of an assertion starts with."""

    def __init__(
        self,
        *,
        jwks: Callable[[], Mapping[str, Any]],
        assertion_issuer: str,
        audiences: tuple[str, ...] = ("alpha", "beta"),
        subjects: str = "spiffe://robin.local/demo/",
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(self._serve, port=port, keep_bytes=0, patience_s=75.0)
        self.token_requests = 0
        self.issued = 0
        self._jwks = jwks
        self._assertion_issuer = assertion_issuer
        self._audiences = audiences
        self._subjects = subjects
        self._clock = clock or SystemClock()
        self._entropy = SystemEntropy()
        self._signer = IdentityAuthority(clock=self._clock)

    @property
    def jwks(self) -> Mapping[str, Any]:
        """The keys of its access tokens."""
        return self._signer.jwks()

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while (request := await connection.read_request()) is not None:
                status, body = self._respond(request)
                octets = json.dumps(body).encode()
                head = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n"
                await connection.send(head % (status, len(octets)) + octets)
        except (MalformedRequest, PeerLeft, TimeoutError):
            return

    def _respond(self, request: ReceivedRequest) -> tuple[int, Mapping[str, Any]]:
        match request.method, request.target:
            case b"GET", b"/.well-known/oauth-authorization-server":
                return 200, {"issuer": self.url, "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/jwks"}
            case b"GET", b"/jwks":
                return 200, self.jwks
            case b"GET", b"/stats":
                return 200, {"token_requests": self.token_requests, "issued": self.issued}
            case b"POST", b"/token":
                self.token_requests += 1
                try:
                    return 200, self._issue(dict(parse_qsl(request.body.decode("ascii", "replace"))))
                except Refused as refused:
                    return refused.status, {"error": refused.error}
        return 404, {"error": "not_found"}

    def _issue(self, form: Mapping[str, str]) -> Mapping[str, Any]:
        if form.get("grant_type") != "client_credentials":
            raise Refused(400, "unsupported_grant_type")
        if form.get("client_assertion_type") != JWT_SPIFFE or "client_assertion" not in form:
            raise Refused(400, "invalid_request")
        subject = self._subject_of(form["client_assertion"].encode())
        audience, scopes = form.get("audience", ""), form.get("scope", "").split()
        if audience not in self._audiences:
            raise Refused(400, "invalid_target")
        if audience not in scopes:
            raise Refused(400, "invalid_scope")
        scope = " ".join([*scopes, "profile", "email"])
        now = int(self._clock.wall())
        claims = {
            "iss": self.url,
            "sub": hashlib.sha256(subject.encode()).hexdigest()[:32],
            "aud": audience,
            "scope": scope,
            "azp": subject,
            "client_id": subject,
            "iat": now,
            "exp": now + LIFETIME_S,
            "jti": self._entropy.token_hex(16),
        }
        self.issued += 1
        return {"access_token": self._signer.sign(claims).decode(), "token_type": "Bearer", "expires_in": LIFETIME_S, "scope": scope}

    def _subject_of(self, assertion: bytes) -> str:
        """The subject of an assertion whose one audience is this issuer."""
        try:
            claims = inspect_token(assertion, jwks=self._jwks(), issuer=self._assertion_issuer, audience=self.url, now=self._clock.wall())
        except TokenRefused:
            raise Refused(401, "invalid_client") from None
        subject = claims.get("sub")
        if claims.get("aud") not in (self.url, [self.url]) or not isinstance(subject, str) or not subject.startswith(self._subjects):
            raise Refused(401, "invalid_client")
        return subject
