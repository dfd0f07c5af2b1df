"""`robin kube` as a real process before a development API server, and raw HTTP/1.1 over TLS as its agents."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from robin.planes.kube.state import StateFolder
from robin.testing.api_server import Allow, ApiServer
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

ACCOUNT = "system:serviceaccount:robin-system:robin-agent"
MINTS = Allow(user="minter", verbs=("create",), resources=("serviceaccounts/token",), namespace="robin-system", names=("robin-agent",))
READS = Allow(
    user=ACCOUNT,
    verbs=("get", "list", "watch", "create", "update", "patch", "delete"),
    resources=("pods", "pods/log", "pods/exec", "secrets", "configmaps", "services/proxy"),
)
RULE = {
    "name": "all",
    "namespaces": ["shop"],
    "nonresource": ["*"],
    "tiers": {"0": "allow", "2": "allow", "4": "allow"},
}
POLICY: dict[str, Any] = {
    "version": 1,
    "agents": {"a": {"identities": ["token"], "rules": [RULE]}, "b": {"identities": ["token"], "rules": []}},
}
PODS = "/api/v1/namespaces/shop/pods"
TOKEN = "/api/v1/namespaces/robin-system/serviceaccounts/robin-agent/token"
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


class Gate(asyncio.Event):
    """One of `ApiServer.gates`, which shows that a request has come to it."""

    reached = False

    async def wait(self) -> Literal[True]:
        self.reached = True
        return await super().wait()


class Answer:
    """One whole response."""

    def __init__(self, octets: bytes) -> None:
        head, _, body = octets.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(line.split(" ")[1])
        self.fields = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        self.body = body

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def code(self) -> str:
        """The code of a refusal."""
        causes = self.json["details"]["causes"]
        found: str = next(cause["message"] for cause in causes if cause["reason"] == "RobinCode")
        return found


class Bed:
    """The parts, and what an agent does with them."""

    def __init__(self, folder: Path, api: ApiServer, robin: RobinProcess, config: Path) -> None:
        self.folder = folder
        self.api = api
        self.robin = robin
        self.config = config
        self.state = StateFolder(folder / "state", SystemClock().wall())
        self.bootstrap = folder / "bootstrap"
        self.policy = folder / "policy.yaml"
        self._pairs: dict[str, Path] = {}

    @property
    def port(self) -> int:
        listening = next(event for event in self.robin.events if event.get("event") == "listening")
        return int(listening["listen"][0].rpartition(":")[2])

    @property
    def admin(self) -> str:
        listening = next(event for event in self.robin.events if event.get("event") == "listening")
        return str(listening["admin"][0])

    def context(self, agent: str | None = "a") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.state.ca_file))
        if agent is not None:
            if agent not in self._pairs:
                issued = self.state.issue_certificate(agent, 3600)
                self._pairs[agent] = self.folder / f"{agent}.pem"
                self._pairs[agent].write_bytes(issued.key_pem + issued.certificate_pem)
            context.load_cert_chain(self._pairs[agent])
        return context

    async def connect(self, agent: str | None = "a") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context(agent))

    async def ask(self, line: str, *fields: str, body: bytes = b"", agent: str | None = "a") -> Answer:
        reader, writer = await self.connect(agent)
        length = [f"Content-Length: {len(body)}"] if body else []
        head = "\r\n".join([f"{line} HTTP/1.1", "Host: robin", "Connection: close", *fields, *length])
        writer.write(head.encode("latin-1") + b"\r\n\r\n" + body)
        octets = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
        return Answer(octets)

    async def page(self, path: str) -> Answer:
        """A page of the admin listener."""
        reader, writer = await asyncio.open_connection(*self.admin.split(":"))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        octets = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
        return Answer(octets)

    async def scrape(self) -> str:
        """The metrics."""
        return (await self.page("/metrics")).body.decode()

    async def wait_records(self, event: str, count: int) -> list[dict[str, Any]]:
        """The records of an event once there are so many: those of refusals and ends are written in a moment."""
        await eventually(lambda: len(self.records(event)) >= count)
        return self.records(event)

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = (self.folder / "state" / "audit.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [one for one in found if event is None or one["event"] == event]


@pytest.fixture
def bed(tmp_path: Path) -> Callable[..., Any]:
    """`async with bed(...) as parts:` where keyword arguments change the section `kube`; `rules` are those of the API server."""

    @asynccontextmanager
    async def build(
        *,
        rules: tuple[Allow, ...] = (MINTS, READS),
        policy: dict[str, Any] = POLICY,
        flags: tuple[str, ...] = (),
        wait: str = "started",
        cluster_down: bool = False,
        gates: dict[str, asyncio.Event] | None = None,
        **changed: Any,
    ) -> AsyncIterator[Bed]:
        authority = CertificateAuthority(tmp_path / "cluster")
        (tmp_path / "bootstrap").write_text("bootstrap-1")
        (tmp_path / "policy.yaml").write_text(json.dumps(policy))
        context = authority.issue("localhost").server_context()
        async with ApiServer(tls=context, bootstrap="bootstrap-1", rules=rules) as api:
            api.gates.update(gates or {})
            if cluster_down:
                api.replies["/version"] = b"HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            section: dict[str, Any] = {
                "listen": "127.0.0.1:0",
                "state_dir": str(tmp_path / "state"),
                "cluster": {"url": api.url, "ca_file": str(authority.ca_file), "bootstrap": {"token_file": str(tmp_path / "bootstrap")}},
                "policy_file": str(tmp_path / "policy.yaml"),
                "admin": {"listen": "127.0.0.1:0"},
                **changed,
            }
            config = tmp_path / "robin.yaml"
            config.write_text(json.dumps({"version": 1, "kube": section}))
            async with RobinProcess("kube", "--config", str(config), *flags) as robin:
                if wait:
                    await robin.event(wait)
                yield Bed(tmp_path, api, robin, config)

    return build
