"""The Kubernetes plane on one machine: a development API server, `robin kube`, and an agent that holds no cluster credential."""

import asyncio
import json
import shlex
import ssl
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

from robin.config.program import program_name
from robin.planes.kube.state import StateFolder
from robin.testing.api_server import Allow, ApiServer
from robin.testing.certificates import CertificateAuthority
from robin.testing.demos.demo import Demo
from robin.testing.process import ROBIN, RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock
from robin.transport.entropy import SystemEntropy

AGENT: Final = "demo-agent"
ACCOUNT: Final = "system:serviceaccount:robin-system:robin-agent"
RULES: Final = (
    Allow(user="minter", verbs=("create",), resources=("serviceaccounts/token",), namespace="robin-system", names=("robin-agent",)),
    Allow(user=ACCOUNT, verbs=("get", "list", "watch", "delete"), resources=("pods", "pods/log", "pods/exec", "secrets"), namespace="shop"),
)
POLICY: Final = {
    "version": 1,
    "agents": {AGENT: {"rules": [{"name": "look", "namespaces": ["shop"], "nonresource": ["*"], "tiers": {"0": "allow"}}]}},
}
_LISTS: Final = 3


async def run(demo: Demo) -> None:
    """Start the parts, then: a list is served, a delete is refused, one token per request, the audit verifies."""
    api, robin = await start(demo)
    caller = Caller(demo.folder / "state", robin)
    demo.say(f"robin kube listens on {caller.url}; the agent has a client certificate and no cluster credential")

    before = len(api.minted)
    lists = [await caller.ask("GET", "/api/v1/namespaces/shop/pods") for _ in range(_LISTS)]
    names = [item["metadata"]["name"] for item in lists[0][1].get("items", [])]
    demo.check("an agent without a cluster credential lists pods", lists[0][0] == 200 and names == ["web-0", "web-1"], str(lists[0]))
    used = [event for event in api.events if event.target == "/api/v1/namespaces/shop/pods"]
    demo.check("the cluster saw the minted account, not Robin's own", {event.user for event in used} == {ACCOUNT}, str(used))
    tokens = len({event.jti for event in used})
    demo.check("one token per request", len(api.minted) - before == _LISTS == tokens, f"{len(api.minted) - before} mints, {tokens} tokens")

    count = len(api.events)
    status, refusal = await caller.ask("DELETE", "/api/v1/namespaces/shop/pods/web-0")
    right = status == 403 == refusal.get("code") and refusal.get("kind") == "Status" and "robin:demo-agent" in refusal.get("message", "")
    demo.check("a verb that policy does not allow is refused with a Status", right, str(refusal))
    demo.say(f"  {refusal.get('message')}")
    status, refusal = await caller.ask("GET", "/api/v1/namespaces//secrets")
    demo.check("an ambiguous path is refused, not repaired", status == 400 and refusal.get("reason") == "BadRequest", str(refusal))
    status, _ = await caller.ask("GET", "/api/v1/namespaces/shop/pods", certificate=False)
    demo.check("without a credential of the agent there is a 401", status == 401, str(status))
    demo.check("a refused request reached nothing: no token, no call", len(api.events) == count, str(api.events[count:]))

    audit = demo.folder / "state" / "audit.jsonl"
    events = Counter({"request.done": _LISTS, "auth.failed": 1})  # Robin goes on for `--keep`: these are written in a moment
    await eventually(lambda: events <= Counter(json.loads(line)["event"] for line in audit.read_text().splitlines()))
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    minted = [record for record in records if record["event"] == "token.minted"]
    joined = {event.audit_id: event.jti for event in used} == {record["id"]: record["jti"] for record in minted}
    demo.check("each record joins the cluster's own audit by its id and its token", joined, str(minted))
    demo.check("the audit verifies", await _verify(audit), "robin audit verify failed")
    demo.to_try += _lines_to_try(caller, demo.folder / "state")


def _lines_to_try(caller: "Caller", state: Path) -> list[str]:
    program = program_name()
    curl = ["curl", "--cacert", str(state / "ca.pem"), "--cert", str(state / "agent.pem")]
    pods = f"{caller.url}/api/v1/namespaces/shop/pods"
    words = [program, "kubeconfig", "--agent", AGENT, "--server", caller.url, "--state-dir", str(state), "--out", "agent.kubeconfig"]
    return [
        "in another terminal, what the policy allows and what it denies:",
        shlex.join([*curl, pods]),
        shlex.join([*curl, "-X", "DELETE", f"{pods}/web-0"]),
        "the same with kubectl:",
        shlex.join(words),
        "kubectl --kubeconfig agent.kubeconfig -n shop get pods",
        "what was recorded:",
        shlex.join([program, "audit", "tail", str(state / "audit.jsonl")]),
    ]


async def start(demo: Demo) -> tuple[ApiServer, RobinProcess]:
    """The API server and `robin kube`, both closed with the demonstration."""
    authority = await asyncio.to_thread(CertificateAuthority, demo.folder / "cluster")
    bootstrap = SystemEntropy().token_hex(16)
    (demo.folder / "bootstrap").write_text(bootstrap)
    (demo.folder / "policy.yaml").write_text(json.dumps(POLICY))
    context = authority.issue("localhost", "127.0.0.1").server_context()
    api = await demo.stack.enter_async_context(ApiServer(tls=context, bootstrap=bootstrap, rules=RULES))
    config = {
        "version": 1,
        "kube": {
            "listen": f"127.0.0.1:{demo.port_base or 0}",
            "state_dir": str(demo.folder / "state"),
            "cluster": {
                "url": api.url,
                "ca_file": str(authority.ca_file),
                "bootstrap": {"token_file": str(demo.folder / "bootstrap")},
            },
            "policy_file": str(demo.folder / "policy.yaml"),
            "admin": {"listen": "127.0.0.1:0"},
        },
    }
    (demo.folder / "robin.yaml").write_text(json.dumps(config, indent=2))
    robin = RobinProcess("kube", "--config", str(demo.folder / "robin.yaml"))
    await demo.stack.enter_async_context(robin)
    await robin.event("started")
    return api, robin


class Caller:
    """An agent with a certificate of the state folder, which speaks plain HTTP/1.1 over TLS."""

    def __init__(self, folder: Path, robin: RobinProcess) -> None:
        state = StateFolder(folder, SystemClock().wall())
        issued = state.issue_certificate(AGENT, 3600)
        self._pair = folder / "agent.pem"
        self._pair.touch(mode=0o600)
        self._pair.write_bytes(issued.key_pem + issued.certificate_pem)
        self._ca_file = state.ca_file
        listening = next(event for event in robin.events if event.get("event") == "listening")
        self.host, _, port = listening["listen"][0].rpartition(":")
        self.port = int(port)

    @property
    def url(self) -> str:
        """Where Robin listens."""
        return f"https://{self.host}:{self.port}"

    async def ask(self, method: str, target: str, *, certificate: bool = True) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of one request."""
        context = ssl.create_default_context(cafile=str(self._ca_file))
        if certificate:
            context.load_cert_chain(self._pair)
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=context)
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(-1)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body or b"{}")


async def _verify(audit: Path) -> bool:
    process = await asyncio.create_subprocess_exec(
        *ROBIN, "audit", "verify", str(audit), stdout=asyncio.subprocess.DEVNULL, stderr=sys.stderr, stdin=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0
