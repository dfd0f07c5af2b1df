"""The demonstration of passports: a broker, the inbound verifier and a demo service; one printed curl line is accepted once.

DEV ONLY: keys, bundle and socket are in the demonstration's own folder, over plain HTTP on loopback.
"""

import asyncio
import json
import os
import shlex
from pathlib import Path
from typing import Final

from robin.config.program import program_name
from robin.testing.connection import ScriptedConnection
from robin.testing.demos.demo import Demo, DemoRefused
from robin.testing.message import read_request
from robin.testing.process import ROBIN, RobinProcess, free_port
from robin.testing.server import ScriptedServer

ROUTE: Final = "acme.demo.orders.read"
AUDIENCE: Final = "acme.demo.orders"
DOMAIN: Final = "dev.robin.internal"
_WAIT_S: Final = 10.0


async def run(demo: Demo) -> None:
    """Start the parts, send the printed line twice, and check what broker, verifier and audit log say."""
    seen: list[str] = []
    service = await demo.stack.enter_async_context(ScriptedServer(lambda connection: _serve(connection, seen)))
    config = _write_config(demo, service.port)
    await _make_bundle(demo.folder, config)
    broker = RobinProcess("broker", "--config", str(config))
    await demo.stack.enter_async_context(broker)
    listen = (await broker.event("listening", timeout_s=_WAIT_S))["listen"]
    await broker.event("started", timeout_s=_WAIT_S)
    verifier = next(address for address in listen if not address.startswith("unix:"))
    demo.say("DEV ONLY: keys, bundle and socket of this demonstration are in a temporary folder")
    demo.say(f"broker    unix:{demo.folder}/broker.sock   signs one request for this user, route {ROUTE}")
    demo.say(f"verifier  http://{verifier}   checks it, and forwards to the service at {service.url}")

    words = ["passport", "issue", "--method", "GET", "--path", "/orders", "--scheme", "http", "--authority", verifier]
    words += ["--audience", AUDIENCE, "--route-id", ROUTE, "--socket", f"{demo.folder}/broker.sock"]
    code, line, error = await _robin(*words, "--format", "curl")
    demo.check("the broker issues a passport to this user", code == 0, error)
    demo.say(line)
    status, _ = await _send(line)
    demo.check("the printed line -> 200", status == 200 and len(seen) == 1, f"{status}")
    status, reason = await _send(line)
    demo.check(
        "the same line again -> 400 nonce_replay", (status, reason) == (400, "nonce_replay") and len(seen) == 1, f"{status} {reason}"
    )
    status, reason = await _send(line.replace("/orders", "/orders?all=1"))
    demo.check("the same passport for another request -> 400", status == 400 and len(seen) == 1, f"{status} {reason}")
    status, reason = await _send(f"curl http://{verifier}/orders")
    demo.check("without a passport -> 401 passport_missing", (status, reason) == (401, "passport_missing"), f"{status} {reason}")
    other = [*words[:3], "POST", *words[4:]]
    code, _, error = await _robin(*other)
    demo.check("the broker refuses another method: route_mismatch", (code, error) == (1, "deny route_mismatch"), error)
    code, said, error = await _robin("audit", "verify", str(demo.folder / "state" / "audit.jsonl"))
    demo.check("every decision is in the audit log, and its chain verifies", code == 0, said + error)
    demo.to_try += ["a new line each time:", shlex.join([program_name(), *words, "--format", "curl"])]


async def _serve(connection: ScriptedConnection, seen: list[str]) -> None:
    """The service: it accepts what the verifier forwards, and holds no key."""
    request = await read_request(connection)
    subject = b"".join(request.values(b"robin-passport-subject")).decode("latin-1")
    seen.append(subject)
    body = json.dumps({"orders": ["ord_123"], "for": subject}).encode() + b"\n"
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def _write_config(demo: Demo, service_port: int) -> Path:
    folder = demo.folder
    port = free_port() if demo.port_base is None else demo.port_base
    authority = f"127.0.0.1:{port}"
    route = {"route_id": ROUTE, "audiences": [AUDIENCE], "method": "GET", "path_template": "/orders", "scheme": "http"}
    peer = {"name": "this-user", "match": {"uid": os.getuid()}, "subject": f"spiffe://{DOMAIN}/demo/agent", "routes": [ROUTE]}
    broker = {
        "trust_domain": DOMAIN,
        "issuer": f"https://issuer.{DOMAIN}",
        "state_dir": str(folder / "state"),
        "admin": {"listen": "127.0.0.1:0"},
        "issue": {"socket": str(folder / "broker.sock"), "peers": [peer], "routes": [{**route, "authorities": [authority]}]},
        "verify": {
            "bundle": str(folder / "bundle.json"),
            "bundle_keys": [str(folder / "sign.jwk.pub")],
            "authorities": [authority],
            "scheme": "http",
            "clock_skew": "1s",  # one clock here, and a start in two seconds
            "inbound": {"listen": authority, "upstream": f"127.0.0.1:{service_port}"},
        },
    }
    config = folder / "robin.yaml"
    config.write_text(json.dumps({"version": 1, "broker": broker}, indent=1))  # JSON is YAML
    return config


async def _make_bundle(folder: Path, config: Path) -> None:
    draft, key, bundle = folder / "draft.json", folder / "sign.jwk", folder / "bundle.json"
    for words in (
        ("keygen", "--out", str(key)),
        ("build", "--config", str(config), "--out", str(draft)),
        ("sign", "--bundle", str(draft), "--key", str(key), "--out", str(bundle)),
    ):
        code, _, error = await _robin("passport", "bundle", *words)
        if code != 0:
            raise DemoRefused(f"passport bundle {words[0]}: {error}")


async def _robin(*words: str) -> tuple[int, str, str]:
    """One command to its end: exit code, output, errors."""
    return await _command(*ROBIN, *words)


async def _send(line: str) -> tuple[int, str]:
    """Run a curl line. Returns the status, and the reason of a refusal."""
    _, out, _ = await _command(*shlex.split(line), "-sS", "-w", "\n%{http_code}")
    body, _, status = out.rpartition("\n")
    try:
        reason = str(json.loads(body).get("reason", ""))
    except (ValueError, AttributeError):
        reason = ""
    return int(status or "0"), reason


async def _command(*words: str) -> tuple[int, str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        raise DemoRefused(f"{words[0]} is not installed; this demonstration sends its line with it") from None
    try:
        out, error = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode().rstrip("\n"), error.decode().rstrip("\n")
