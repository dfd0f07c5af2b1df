"""Two small package registries: a Python index (upload, PEP 503 pages, files) and an npm registry (publish, packument, tarball).

They keep what is published in memory; each page is made from that. Links on the Python index are relative. npm writes the URL that it was
told into what it publishes, so its tarballs are fetched through Robin as well.
"""

import base64
import email.parser
import email.policy
import hashlib
import json
import re
from typing import Any

from tests.real.parts.guarded import Exchange


class Registries:
    """`Registries().route` for a GuardedServer. `pages` are asked for by clients; `files` are what was published."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.packuments: dict[str, dict[str, Any]] = {}
        self.tarballs: dict[str, bytes] = {}

    async def route(self, exchange: Exchange) -> None:
        """Answer one request."""
        body = await exchange.body()
        match exchange.method, exchange.path.strip("/").split("/"):
            case "POST", ["legacy"]:
                self._upload(exchange.seen.value("Content-Type") or "", body)
                await exchange.reply(200, b"kept")
            case "GET", ["simple", project]:
                await exchange.reply(200, self._page(project), ("Content-Type", "text/html"))
            case "GET" | "HEAD", ["files", name] if name in self.files:
                await exchange.reply(200, self.files[name], ("Content-Type", "application/octet-stream"), ("ETag", f'"{name}"'))
            case "PUT", ["npm", name]:
                self._publish(name, json.loads(body))
                await exchange.tell({"ok": True}, status=201)
            case "GET", ["npm", name] if name in self.packuments:
                await exchange.tell(self.packuments[name])
            case "GET", ["npm", name, "-", tarball] if f"{name}/{tarball}" in self.tarballs:
                await exchange.reply(200, self.tarballs[f"{name}/{tarball}"], ("Content-Type", "application/octet-stream"))
            case _:
                await exchange.tell({"error": "not found"}, status=404)

    def _upload(self, content_type: str, body: bytes) -> None:
        raw = b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(raw)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}  # type: ignore[attr-defined]
        content = parts["content"].get_payload(decode=True)
        assert parts["sha256_digest"].get_content().strip() == hashlib.sha256(content).hexdigest()
        self.files[parts["content"].get_filename()] = content

    def _page(self, project: str) -> bytes:
        names = [name for name in self.files if re.sub(r"[-_.]+", "-", name.partition("-")[0]) == project]
        links = (f'<a href="../../files/{name}#sha256={hashlib.sha256(self.files[name]).hexdigest()}">{name}</a>' for name in names)
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()

    def _publish(self, name: str, document: dict[str, Any]) -> None:
        for attachment, content in document.pop("_attachments").items():
            self.tarballs[f"{name}/{attachment}"] = base64.b64decode(content["data"])
        known = self.packuments.setdefault(name, {**document, "versions": {}, "dist-tags": {}})
        known["versions"].update(document["versions"])
        known["dist-tags"].update(document["dist-tags"])
