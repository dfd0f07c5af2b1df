"""A small development API server of Kubernetes: it mints and checks tokens, judges by rules like RBAC, and serves a few pods.

It is for demonstrations and tests on one machine. It knows pods (get, list, watch, delete, log, exec over WebSocket), TokenRequest,
SelfSubjectAccessReview, discovery and /version; each request stands in `events`, as an audit log of a cluster would have it.
"""

import asyncio
import base64
import datetime
import json
import ssl
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self

from robin.policy.kube.request_info import RequestInfo, read_request_info
from robin.policy.kube.target import Malformed, Target, parse_target
from robin.transport.clock import Clock, SystemClock
from robin.transport.entropy import SystemEntropy
from robin.transport.tasks import TaskOwner
from robin.wire.websocket import accept_value

LEAST_S: Final = 600
_HEAD_BYTES: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Allow:
    """One rule: `user` may `verbs` on `resources`; `namespace` None: everywhere. `names` empty: any."""

    user: str
    verbs: tuple[str, ...]
    resources: tuple[str, ...]
    namespace: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiEvent:
    """One request as the server saw it. `user` is empty where authentication failed; `jti` that of its token."""

    user: str
    jti: str
    method: str
    target: str
    audit_id: str
    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True, kw_only=True)
class _Request:
    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    certified: bool = False
    user: str = ""
    jti: str = ""


class ApiServer:
    """Listens between `start` and `close`. `bootstrap` is the token of the user `minter`; it may be replaced while the server runs."""

    def __init__(self, *, tls: ssl.SSLContext, bootstrap: str, rules: tuple[Allow, ...], clock: Clock | None = None) -> None:
        self.rules = rules
        self.events: list[ApiEvent] = []
        self.accounts = {("robin-system", "robin-agent")}
        self.pods: dict[str, list[str]] = {"shop": ["web-0", "web-1"]}
        self.tokens: dict[str, tuple[str, str, float]] = {bootstrap: ("minter", "", float("inf"))}
        self.grants_s: float | None = None  # what is granted at most
        self.certificate_user = ""  # of a client certificate, which goes before any bearer, as in a real API server
        self.gates: dict[str, asyncio.Event] = {}  # by path: what a response waits for
        self.replies: dict[str, bytes] = {}  # a whole response by path, in place of the server's own
        self._tls = tls
        self._clock = clock or SystemClock()
        self._entropy = SystemEntropy()
        self._server: asyncio.Server | None = None
        self._tasks = TaskOwner(lambda _name, _error: None)
        self.port = 0

    @property
    def url(self) -> str:
        """By the name of its certificate."""
        return f"https://localhost:{self.port}"

    @property
    def minted(self) -> list[ApiEvent]:
        """The TokenRequests that were granted."""
        return [event for event in self.events if event.target.endswith("/token") and event.status == 201]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls, limit=_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop, and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._tasks.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.start(self._serve_connection(reader, writer), "connection")

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            certified = bool(writer.get_extra_info("peercert"))
            while (request := await _read(reader, certified=certified)) is not None and await self._answer(request, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Judge and answer one request. Returns False where the connection is used up."""
        path = request.target.partition("?")[0]
        if path in self.gates:
            await self.gates[path].wait()
        if path in self.replies:
            self._note(request, 0)
            writer.write(self.replies[path])
            await writer.drain()
            return False
        try:
            target = parse_target(request.target.encode())
        except Malformed:
            return await self._status(request, writer, 400, "the development server takes clean paths only")
        info = read_request_info(request.method, target)
        if not self._authenticate(request):
            return await self._status(request, writer, 401, "Unauthorized")
        refusal = self._authorize(request, info)
        if refusal:
            return await self._status(request, writer, 403, refusal)
        if not info.is_resource:
            return await self._discover(request, writer, path)
        if info.full_resource == "serviceaccounts/token" and info.verb == "create":
            return await self._mint(request, writer, info)
        if info.resource == "selfsubjectaccessreviews":
            return await self._review(request, writer)
        return await self._pods(request, reader, writer, info, target)

    def _authenticate(self, request: _Request) -> bool:
        if request.certified:
            request.user = self.certificate_user
            return True
        token = request.fields.get("authorization", "").removeprefix("Bearer ")
        user, jti, ends_at = self.tokens.get(token, ("", "", 0.0))
        if self._clock.wall() >= ends_at:
            return False
        request.user, request.jti = user, jti
        return True

    def allows(self, user: str, verb: str, resource: str, namespace: str, name: str = "") -> bool:
        """Whether a rule allows it."""
        return any(
            rule.user == user
            and verb in rule.verbs
            and resource in rule.resources
            and rule.namespace in (None, namespace)
            and (not rule.names or name in rule.names)
            for rule in self.rules
        )

    def _authorize(self, request: _Request, info: RequestInfo) -> str:
        if not info.is_resource or info.resource == "selfsubjectaccessreviews":
            return ""
        if self.allows(request.user, info.verb, info.full_resource, info.namespace, info.name):
            return ""
        return f'{info.resource} is forbidden: User "{request.user}" cannot {info.verb} resource "{info.full_resource}"'

    async def _mint(self, request: _Request, writer: asyncio.StreamWriter, info: RequestInfo) -> bool:
        spec = json.loads(request.body)["spec"]
        asked = spec.get("expirationSeconds", 3600)
        if (info.namespace, info.name) not in self.accounts:
            return await self._status(request, writer, 404, f'serviceaccounts "{info.name}" not found', kind="serviceaccounts")
        if asked < LEAST_S:
            return await self._status(request, writer, 422, "spec.expirationSeconds: may not specify a duration less than 10 minutes")
        now = int(self._clock.wall())
        lifetime = asked if self.grants_s is None else min(asked, self.grants_s)
        user = f"system:serviceaccount:{info.namespace}:{info.name}"
        jti = self._entropy.token_hex(16)
        audiences = spec.get("audiences") or ["https://kubernetes.default.svc"]
        claims = {"sub": user, "jti": jti, "iat": now, "exp": now + lifetime, "aud": audiences}
        token = _unsigned(claims)
        if audiences == ["https://kubernetes.default.svc"]:
            self.tokens[token] = (user, jti, now + lifetime)
        answer = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": info.name, "namespace": info.namespace, "creationTimestamp": _rfc3339(now)},
            "spec": spec,
            "status": {"token": token, "expirationTimestamp": _rfc3339(now + lifetime)},
        }
        return await self._json(request, writer, 201, answer)

    async def _review(self, request: _Request, writer: asyncio.StreamWriter) -> bool:
        wanted = json.loads(request.body)["spec"]["resourceAttributes"]
        resource = wanted["resource"] + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
        namespace = wanted.get("namespace", "")
        allowed = any(
            rule.user == request.user
            and wanted["verb"] in rule.verbs
            and resource in rule.resources
            and rule.namespace in (None, namespace)
            and (not rule.names or wanted.get("name") in rule.names)
            for rule in self.rules
        )
        answer = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": allowed}}
        return await self._json(request, writer, 201, answer)

    async def _discover(self, request: _Request, writer: asyncio.StreamWriter, path: str) -> bool:
        if path == "/version":
            return await self._json(request, writer, 200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0-robin-development"})
        if path == "/api":
            return await self._json(request, writer, 200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return await self._json(request, writer, 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        if path == "/api/v1":
            verbs = ["get", "list", "watch", "delete"]
            pods = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": verbs, "shortNames": ["po"]}
            answer = {"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods]}
            return await self._json(request, writer, 200, answer)
        return await self._status(request, writer, 404, "not found")

    async def _pods(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: RequestInfo, target: Target
    ) -> bool:
        names = self.pods.get(info.namespace, []) if info.namespace else [name for group in self.pods.values() for name in group]
        if info.resource != "pods" or (info.name and info.name not in names):
            return await self._status(request, writer, 404, f'{info.resource} "{info.name}" not found', kind=info.resource)
        if info.subresource == "exec":
            return await self._exec(request, reader, writer)
        if info.subresource == "log":
            return await self._log(request, reader, writer, follow=target.values("follow") == ["true"])
        if info.verb == "watch":
            return await self._watch(request, reader, writer, info.namespace, names)
        if info.verb == "list":
            items = [_pod(info.namespace, name) for name in names]
            return await self._json(
                request, writer, 200, {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}
            )
        if info.verb == "delete":
            self.pods[info.namespace].remove(info.name)
        return await self._json(request, writer, 200, _pod(info.namespace, info.name))

    async def _watch(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, namespace: str, names: list[str]
    ) -> bool:
        self._note(request, 200)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for name in names:
            line = json.dumps({"type": "ADDED", "object": _pod(namespace, name)}).encode() + b"\n"
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await writer.drain()
        await reader.read()  # until the client leaves
        return False

    async def _log(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, follow: bool) -> bool:
        self._note(request, 200)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\nc\r\nhello world\n\r\n")
        await writer.drain()
        if follow:
            await reader.read()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not follow

    async def _exec(self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Switch to a WebSocket and send back each byte behind the head."""
        key = request.fields.get("sec-websocket-key", "")
        if request.fields.get("upgrade", "").lower() != "websocket" or not key:
            return await self._status(request, writer, 400, "Upgrade request required")
        self._note(request, 101)
        protocol = request.fields.get("sec-websocket-protocol", "").partition(",")[0].strip()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
        writer.write(b"Sec-WebSocket-Accept: %b\r\n" % accept_value(key.encode()))
        writer.write((b"Sec-WebSocket-Protocol: %b\r\n" % protocol.encode() if protocol else b"") + b"\r\n")
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
        return False

    async def _status(self, request: _Request, writer: asyncio.StreamWriter, code: int, message: str, *, kind: str = "") -> bool:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code, "details": {"kind": kind}}
        return await self._json(request, writer, code, status)

    async def _json(self, request: _Request, writer: asyncio.StreamWriter, code: int, answer: Any) -> bool:
        self._note(request, code)
        body = b"" if request.method == "HEAD" else json.dumps(answer).encode()
        head = f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    def _note(self, request: _Request, status: int) -> None:
        self.events.append(
            ApiEvent(
                user=request.user,
                jti=request.jti,
                method=request.method,
                target=request.target,
                audit_id=request.fields.get("audit-id", ""),
                status=status,
                fields=request.fields,
                body=request.body,
            )
        )


async def _read(reader: asyncio.StreamReader, *, certified: bool) -> _Request | None:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    body = await reader.readexactly(int(fields.get("content-length", "0")))
    return _Request(method=method, target=target, fields=fields, body=body, certified=certified)


def _pod(namespace: str, name: str) -> dict[str, object]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": {"containers": [{"name": "app"}]},
        "status": {"phase": "Running"},
    }


def _rfc3339(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unsigned(claims: dict[str, object]) -> str:
    """A token of three parts; the server remembers it, so that its signature says nothing."""
    return f"{_part({'alg': 'RS256'})}.{_part(claims)}.{_part('signature')}"
