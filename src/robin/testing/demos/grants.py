"""Demonstration `grants`: a program that knows only a proxy URL calls two services, each with a token of its own that it never sees.

In this process: an embedded identity, a token issuer, the services alpha and beta, and the gateway. Outside: the program. All is on
127.0.0.1, at four ports in a row: issuer, alpha, beta, gateway.
"""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from robin.app.shutdown import StartFailure
from robin.testing.authority import IdentityAuthority
from robin.testing.connection import PeerLeft, ScriptedConnection
from robin.testing.demos.demo import Demo, DemoRefused
from robin.testing.embedded_gateway import EmbeddedGateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.testing.inspection import TokenRefused, inspect_token
from robin.testing.message import MalformedRequest, ReceivedRequest
from robin.testing.server import ScriptedServer
from robin.testing.token_issuer import TokenIssuer
from robin.transport.clock import SystemClock

PORT_BASE: Final = 18080
CONCURRENT: Final = 50
SUBJECT: Final = "spiffe://robin.local/demo/agent"
_CLAIMS: Final = ("sub", "aud", "iss", "scope", "azp", "client_id")

PROFILE: Final = """\
id: spiffe-token-demo
display_name: Token grant demo
credentials:
  - {name: access_token, auth_style: bearer, header_name: Authorization, token_grant:
      {grant_type: client_credentials, token_endpoint: "http://127.0.0.1:%(issuer)d/token", issuer: "http://127.0.0.1:%(issuer)d",
       audience: demo-default, client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe", scopes: [demo],
       cache_ttl_seconds: 60,
       audience_overrides: [{host: alpha.localhost, port: %(alpha)d, audience: alpha, scopes: [alpha]},
                            {host: beta.localhost, port: %(beta)d, audience: beta, scopes: [beta]}]}}
endpoints:
  - {host: alpha.localhost, port: %(alpha)d, protocol: rest, tls: none, access: read-only}
  - {host: beta.localhost, port: %(beta)d, protocol: rest, tls: none, methods: [GET, HEAD]}
"""
PROVIDER: Final = {
    "profile": "spiffe-token-demo",
    "name": "demo",
    "callers": ["*"],
    "unsafe_plaintext": ["alpha.localhost", "beta.localhost"],
}

# The program: the standard library alone. It calls what it is told to through the proxy of its environment, and reports what it can see.
PROGRAM: Final = """
import ctypes, json, os, sys, urllib.request
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
calls = []
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            calls.append([response.status, response.read().decode()])
    except urllib.error.HTTPError as error:
        calls.append([error.code, error.read().decode()])
open_files = {}
for number in os.listdir("/proc/self/fd"):
    try:
        open_files[number] = os.readlink("/proc/self/fd/" + number)
    except OSError:
        pass
secrets = []
for name in ("environ", "mem", "fd/0"):
    try:
        os.close(os.open(f"/proc/{os.getppid()}/{name}", os.O_RDONLY))
        secrets.append(name)
    except OSError:
        pass
print(json.dumps({"calls": calls, "environment": sorted(os.environ), "files": open_files, "root": os.getuid() == 0, "of_robin": secrets}))
"""
_ITS_ENVIRONMENT: Final = frozenset({"http_proxy", "no_proxy", "LC_CTYPE"})  # Python itself sets the last one


class Service(ScriptedServer):
    """A service that takes tokens of one issuer, for its own name as audience and scope. `last_token` is the last one that it was sent."""

    def __init__(self, name: str, *, issuer: str, jwks: Callable[[], Mapping[str, Any]], port: int) -> None:
        super().__init__(self._serve, port=port, keep_bytes=0, patience_s=75.0)
        self.name = name
        self.last_token = b""
        self._issuer = issuer
        self._jwks = jwks
        self._clock = SystemClock()

    async def _serve(self, connection: ScriptedConnection) -> None:
        try:
            while True:
                status, text = self._respond(await connection.read_request())
                body = text.encode()
                await connection.send(
                    b"HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
                )
        except (MalformedRequest, PeerLeft, TimeoutError):
            return

    def _respond(self, request: ReceivedRequest) -> tuple[int, str]:
        values = request.values(b"authorization")
        if len(values) != 1 or not values[0].startswith(b"Bearer "):
            return 401, f"{self.name} missing bearer token\n"
        self.last_token = values[0][len(b"Bearer ") :]
        try:
            claims = inspect_token(self.last_token, jwks=self._jwks(), issuer=self._issuer, audience=self.name, now=self._clock.wall())
        except TokenRefused as refused:
            return 403, f"{self.name} rejected token: {refused.reason}\n"
        if self.name not in str(claims.get("scope")).split():
            return 403, f"{self.name} rejected token: scope\n"
        path = request.target.decode("ascii", "replace")
        lines = [f"{self.name} called with path {path}:", *(f"  {claim}: {claims.get(claim)}" for claim in _CLAIMS)]
        accepted = f'aud="{claims["aud"]}" scope="{claims["scope"]}" client_id={claims["client_id"]}'
        return 200, "\n".join([*lines, f"{self.name} accepted request path={path} {accepted}"]) + "\n"


async def run(demo: Demo) -> None:
    """Start the parts, call both services, and check what must hold."""
    base = PORT_BASE if demo.port_base is None else demo.port_base
    clock = SystemClock()
    authority = IdentityAuthority(issuer="https://authority.robin.local", trust_domain="robin.local", clock=clock)
    issuer = TokenIssuer(jwks=authority.jwks, assertion_issuer=authority.issuer, port=base, clock=clock)
    url = f"http://127.0.0.1:{base}"
    alpha, beta = (
        Service(name, issuer=url, jwks=lambda: issuer.jwks, port=base + at) for at, name in enumerate(("alpha", "beta"), start=1)
    )
    for part in (issuer, alpha, beta):
        await _enter(demo, part, part.port)
    ports = {"issuer": base, "alpha": base + 1, "beta": base + 2}
    (demo.folder / "profile.yaml").write_text(PROFILE % ports)
    config = demo.folder / "robin.yaml"
    _write_config(config, base, providers=[PROVIDER])
    gateway = EmbeddedGateway(config, EmbeddedIdentities(authority, clock))
    await _enter(demo, gateway, base + 3)
    urls = {name: f"http://{name}.localhost:{ports[name]}/" for name in ("alpha", "beta")}
    demo.to_try.append(f"curl -x http://127.0.0.1:{gateway.port} {urls['alpha']}")

    report = await _run_program(gateway.port, *urls.values())
    for name, (status, text) in zip(urls, report["calls"], strict=True):
        for line in text.splitlines():
            demo.say(line)
        demo.check(f"{name} accepts the call of the program", status == 200, f"{status} {text.strip()[:200]}", quiet=True)
    status = await _get(ports["alpha"], "/", f"alpha.localhost:{ports['alpha']}")
    demo.check("direct call without Robin -> 401", status == 401, f"got {status}")
    stolen = b"Authorization: Bearer " + alpha.last_token + b"\r\n"
    status = await _get(ports["beta"], "/", f"beta.localhost:{ports['beta']}", stolen)
    demo.check("alpha's token at beta -> 403", status == 403, f"got {status}")
    for attached in ([], [PROVIDER]):  # a provider that is detached leaves no token behind
        _write_config(config, base, providers=attached)
        gateway.reload()
    await _check_concurrent(demo, gateway.port, issuer, ports, urls)
    strange = sorted(set(report["environment"]) - _ITS_ENVIRONMENT)
    strange += [f"{name} of Robin" for name in report["of_robin"] if not report["root"]]  # from root nothing can be kept
    strange += [target for number, target in report["files"].items() if int(number) > 2 and target != "/proc/" and "/fd" not in target]
    demo.check("app has no identity, no socket, no token", not strange, ", ".join(strange)[:200])


def _write_config(file: Path, base: int, *, providers: Sequence[Mapping[str, object]]) -> None:
    """The gateway's robin.yaml; JSON is YAML."""
    settings = {
        "listeners": [{"name": "proxy", "listen": f"127.0.0.1:{base + 3}"}],
        "admin": {"listen": "off"},
        "drain": {"min": "0s", "max": "1s"},
        "profiles": ["profile.yaml"],
        "providers": providers,
        "addresses": {
            "hosts": {"alpha.localhost": ["127.0.0.1"], "beta.localhost": ["127.0.0.1"]},
            "unsafe_loopback": [f"127.0.0.1:{base + 1}", f"127.0.0.1:{base + 2}"],
        },
    }
    file.write_text(json.dumps({"version": 1, "gateway": settings}, indent=2))


async def _enter(demo: Demo, part: Any, port: int) -> None:
    """Start a part; it is closed with the demonstration. Raises DemoRefused where its port is taken."""
    try:
        await demo.stack.enter_async_context(part)
    except (OSError, StartFailure) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DemoRefused(f"port {port} on 127.0.0.1 is not free ({why}); choose others with --port-base") from None


async def _check_concurrent(demo: Demo, gateway_port: int, issuer: TokenIssuer, ports: Mapping[str, int], urls: Mapping[str, str]) -> None:
    """All at once, half to each service, without a token to begin with."""
    before = issuer.token_requests
    names = [name for _ in range(CONCURRENT // 2) for name in urls]
    calls = (_get(gateway_port, urls[name], f"{name}.localhost:{ports[name]}") for name in names)
    statuses = set(await asyncio.gather(*calls))
    requests = issuer.token_requests - before
    ok = requests == len(urls) and statuses == {200}
    what = f"{CONCURRENT} concurrent cold calls -> 1 token request per audience"
    demo.check(what, ok, f"{requests} token requests, statuses {sorted(statuses)}")


async def _run_program(proxy_port: int, *urls: str) -> dict[str, Any]:
    """Run the program; it inherits no descriptor and no variable of ours."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", PROGRAM, *urls),
        env={"http_proxy": f"http://127.0.0.1:{proxy_port}", "no_proxy": ""},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    report: dict[str, Any] = json.loads(out)
    return report


async def _get(port: int, target: str, host: str, more: bytes = b"") -> int:
    """The status of one GET on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n".encode()
        writer.write(head + more + b"\r\n")
        async with asyncio.timeout(10):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()
