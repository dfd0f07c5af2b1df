"""One request's bytes as servers give it to Python applications: the scope of uvicorn, the environ of gunicorn; and what comes back."""

import json
from collections.abc import Iterable
from http.client import parse_headers
from io import BytesIO
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

Answer = tuple[int, dict[str, Any], list[tuple[str, str]]]
"""Status, JSON body, header fields."""


def raw_request(
    fields: Iterable[tuple[str, str]], method: str = "GET", target: str = "/orders", *, host: str, body: bytes = b"", chunked: bool = False
) -> bytes:
    """The bytes of a request, as `Life.send` sends them."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close", *(f"{name}: {value}" for name, value in fields)]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _parse(raw: bytes) -> tuple[str, str, list[tuple[str, str]], bytes]:
    stream = BytesIO(raw)
    method, target, _ = stream.readline().decode("latin-1").split(" ")
    fields = parse_headers(stream).items()
    body = stream.read()
    if ("Transfer-Encoding", "chunked") in fields:
        size, _, rest = body.partition(b"\r\n")
        body = rest[: int(size, 16)]
    return method, target, fields, body


def scope_of(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The scope, and the body."""
    method, target, fields, body = _parse(raw)
    path, _, query = target.partition("?")
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
    scope |= {"method": method, "path": unquote(path), "raw_path": path.encode("ascii"), "query_string": query.encode("ascii")}
    scope["headers"] = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    return {**scope, "state": {"of": "lifespan"}}, body


def environ_of(raw: bytes) -> dict[str, Any]:
    """The environ. Lines of one name are joined by a comma."""
    method, target, fields, body = _parse(raw)
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "RAW_URI": target, "SCRIPT_NAME": "", "QUERY_STRING": query}
    environ |= {"PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "wsgi.input": BytesIO(body), "wsgi.input_terminated": True}
    for name, value in fields:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


async def call_asgi(app: Any, scope: dict[str, Any], body: bytes = b"", *, pieces: int = 2) -> Answer:
    """The response of an ASGI application; the body comes in so many pieces. Status 0: there was none."""
    size = len(body) // pieces + 1
    parts = [body[start : start + size] for start in range(0, max(1, len(body)), size)]
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages[-1]["more_body"] = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0] if sent else {"status": 0, "headers": []}
    fields = [(name.decode(), value.decode()) for name, value in start["headers"]]
    return start["status"], _read_json(b"".join(one.get("body", b"") for one in sent[1:])), fields


def call_wsgi(app: Any, environ: dict[str, Any]) -> Answer:
    """The response of a WSGI application."""
    began: list[Any] = []
    body = b"".join(app(environ, lambda status, fields: began.extend((int(status[:3]), fields))))
    return began[0], _read_json(body), began[1]


def _read_json(body: bytes) -> dict[str, Any]:
    return json.loads(body) if body.startswith(b"{") else {}
