"""Clients of others through `robin gateway`, by the documented environment alone, to hosts that are bridged and to others (E62).

The clients know what `config/agent_environment.py` has: a proxy URL, a CA and a bundle. For each program there are two hosts with one
origin: `NAME.test`, whose rule has methods or paths, so that its TLS is opened, and `NAME.pass.test`, whose rule has none. The origins are
nginx with git's http-backend, and a small internet of ours; both have certificates of one CA, which stands for the public roots. So
NODE_EXTRA_CA_CERTS has that CA too: Node adds it to roots of its own, among which a CA of a test cannot be.

Java reads none of it: it gets the same by properties. aiohttp reads the proxy where its session has `trust_env=True`.
"""

import datetime
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.real.clients.internet import Internet, npm_package, running
from tests.real.clients.models import answer_to
from tests.real.clients.test_package_tools import NOISE, wheel
from tests.real.parts import debian, gobuild, javac, nodeclients, pyclients
from tests.real.parts.githost import GitHost, git_host
from tests.real.parts.program import Ended, ProgramFailed, run

from robin.config.agent_environment import agent_environment
from robin.planes.gateway.new_authority import make_authority
from robin.testing.certificates import CertificateAuthority
from robin.testing.process import RobinProcess
from robin.testing.waiting import eventually
from robin.transport.clock import SystemClock

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HERE = Path(__file__).parent
HOSTS = ("git.test", "git.pass.test", "web.test", "web.pass.test")
WAYS = {"bridge": "test", "passthrough": "pass.test"}
PUSH_BYTES = 6 << 20  # git sends it chunked
PLACEHOLDER = "robin-placeholder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """What a program behind the gateway has: an empty home and the documented environment. The rest is for the test."""

    home: Path
    environment: dict[str, str]
    robin: RobinProcess
    host: GitHost
    internet: Internet

    async def run(self, *command: str | Path, codes: tuple[int, ...] = (0,), **more: str) -> Ended:
        return await run(command, home=self.home, environment={**self.environment, **more}, codes=codes)

    async def git(self, *arguments: str, folder: str = ".") -> Ended:
        who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
        return await self.run(debian.find("git"), "-C", folder, *arguments, GIT_TERMINAL_PROMPT="0", GIT_CONFIG_NOSYSTEM="1", **who)

    def url(self, program: str, way: str) -> str:
        port = self.host.url.rpartition(":")[2] if program == "git" else self.internet.port
        return f"https://{program}.{WAYS[way]}:{port}"

    async def records(self, event: str, **wanted: object) -> list[dict[str, Any]]:
        def found() -> list[dict[str, Any]]:
            return [one for one in self.robin.events if one.get("event") == event and all(one.get(k) == v for k, v in wanted.items())]

        return await eventually(found, what=f"{event} with {wanted}", timeout_s=20)

    async def check(self, program: str, way: str) -> None:
        """The records say that TLS to this host was opened, or was not."""
        host = f"{program}.{WAYS[way]}"
        (kind,) = {one["tls"] for one in await self.records("gateway.decision", host=host, op="connect")}
        assert kind == way
        inner = [
            one for one in self.robin.events if one.get("event") == "gateway.decision" and one["host"] == host and one["op"] == "request"
        ]
        assert bool(inner) == (way == "bridge")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Agent]:
    debian.find("curl")
    folder = tmp_path_factory.mktemp("agent")
    home = folder / "home"
    home.mkdir()
    roots = CertificateAuthority(folder / "roots")
    leaf = roots.issue(*HOSTS)
    slot = folder / "ca"
    slot.mkdir()
    now = datetime.datetime.fromtimestamp(SystemClock().wall(), datetime.UTC)
    certificate, key = make_authority("robin-bridge-ca-real", days=1, permit_dns=[], now=now)
    (slot / "tls.crt").write_bytes(certificate)
    (slot / "tls.key").touch(mode=0o600)
    (slot / "tls.key").write_bytes(key)
    bundle = folder / "bundle.crt"
    bundle.write_bytes(certificate + roots.ca_pem)
    package = wheel(folder, "robinleaf")
    everything = Internet(wheels={package.name: package.read_bytes()}, tarballs={"robin-leaf": npm_package("robin-leaf", NOISE)})
    with git_host(leaf=leaf) as host, running(leaf, everything) as internet:
        git_port, web_port = int(host.url.rpartition(":")[2]), internet.port
        settings = {
            "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
            "admin": {"listen": "127.0.0.1:0"},
            "policy": {
                "rules": [
                    {"name": "git", "hosts": ["git.test"], "ports": [git_port], "methods": ["GET", "POST"], "paths": ["/one.git/**"]},
                    {"name": "web", "hosts": ["web.test"], "ports": [web_port], "methods": ["GET", "POST", "HEAD"]},
                    {"name": "mcp", "hosts": ["web.test"], "ports": [web_port], "methods": ["DELETE"], "paths": ["/mcp"]},
                    {"name": "blind", "hosts": ["*.pass.test"], "ports": [git_port, web_port]},
                ]
            },
            "bridge": {"slots": {"a": str(slot)}},
            "upstream_tls": {"ca_files": [str(roots.ca_file)], "system_roots": False},
            "addresses": {
                "hosts": {name: ["127.0.0.1"] for name in HOSTS},
                "unsafe_loopback": [f"127.0.0.1:{git_port}", f"127.0.0.1:{web_port}"],
            },
            "drain": {"min": "0s", "max": "1s"},
        }
        config = folder / "robin.yaml"
        config.write_text(json.dumps({"version": 1, "gateway": settings}))
        async with RobinProcess("gateway", "--config", str(config)) as robin:
            proxy = f"http://{(await robin.event('listening'))['listen'][0]}"
            await robin.event("started")
            environment = agent_environment(proxy_url=proxy, ca_file=str(bundle), bundle_file=str(bundle))
            yield Agent(home=home, environment=environment, robin=robin, host=host, internet=internet)


async def by_curl(agent: Agent, url: str, way: str) -> None:
    curl = [debian.find("curl"), "-q", "-sS"]
    for version in ("--http1.1", "--http2"):
        assert (await agent.run(*curl, version, f"{url}/x")).stdout.startswith(b"hello from web.")
    assert (await agent.run(*curl, "--data-binary", "@-", f"{url}/x", "-d", "a=b")).stdout == b"4"
    told = await agent.run(*curl, "-o", "/dev/null", "-w", "%{num_connects} ", f"{url}/1", "-o", "/dev/null", f"{url}/2")
    assert told.stdout.split() == [b"1", b"0"]  # one connection for both
    refused = await agent.run(*curl, f"https://evil.test:{agent.internet.port}/", codes=(56,))
    assert "403" in refused.stderr
    if way == "bridge":
        assert (await agent.run(*curl, "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", f"{url}/x")).stdout == b"403"
        assert not any(one.method == "DELETE" for one in agent.internet.seen)


async def by_git(agent: Agent, url: str, way: str) -> None:
    """Clone, push six megabytes, clone again."""
    repository = agent.host.repositories / "one.git"
    if not repository.exists():
        await agent.git("init", "-q", "--bare", "-b", "main", str(repository))
    url, name = f"{url}/one.git", f"clone-{way}"
    await agent.git("clone", "-q", url, name)
    await agent.git("checkout", "-q", "-B", "main", folder=name)
    (agent.home / name / way).write_bytes(NOISE[: PUSH_BYTES // 2] + NOISE[::-1][: PUSH_BYTES // 2])
    await agent.git("add", way, folder=name)
    await agent.git("commit", "-q", "-m", way, folder=name)
    await agent.git("push", "-q", "origin", "main", folder=name)
    await agent.git("clone", "-q", "--depth", "1", url, f"again-{way}")
    assert (agent.home / f"again-{way}" / way).read_bytes() == (agent.home / name / way).read_bytes()
    await agent.git("fsck", "--strict", folder=f"again-{way}")
    if way == "bridge":
        command = (debian.find("git"), "clone", "-q", f"{url.removesuffix('one.git')}two.git")
        assert "403" in (await agent.run(*command, codes=(128,), GIT_TERMINAL_PROMPT="0")).stderr


async def by_pip(agent: Agent, url: str, way: str) -> None:
    options = ["--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--index-url", f"{url}/simple/"]
    await agent.run(pyclients.find(), "-m", "pip", "install", "-q", *options, "--target", f"by-pip-{way}", "robinleaf")
    assert (agent.home / f"by-pip-{way}" / "robinleaf" / "noise.bin").read_bytes() == NOISE


async def by_uv(agent: Agent, url: str, way: str) -> None:
    options = ["--no-cache", "--index-url", f"{url}/simple/", "--target", f"by-uv-{way}", "--python", str(pyclients.find())]
    await agent.run(pyclients.find(), "-m", "uv", "-q", "pip", "install", *options, "robinleaf")
    assert (agent.home / f"by-uv-{way}" / "robinleaf" / "noise.bin").read_bytes() == NOISE


async def by_npm(agent: Agent, url: str, way: str) -> None:
    folder = agent.home / f"by-npm-{way}"
    folder.mkdir()
    (folder / "package.json").write_text('{"name": "project", "private": true}')
    await agent.run(nodeclients.npm(), "install", "--prefix", folder, "--registry", f"{url}/", "--no-audit", "--no-fund", "robin-leaf")
    assert (folder / "node_modules" / "robin-leaf" / "noise.bin").read_bytes() == NOISE


async def by_sdks(agent: Agent, url: str, way: str) -> None:
    """openai and anthropic: a completion, a stream, a message."""
    places = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url, "OPENAI_API_KEY": PLACEHOLDER, "ANTHROPIC_API_KEY": PLACEHOLDER}
    told = (await agent.run(pyclients.find(), HERE / "gateway" / "ask_models.py", **places)).told
    assert told == dict.fromkeys(("openai", "openai stream", "anthropic"), answer_to("hello"))
    keys = [{"authorization", "x-api-key"} & set(one.fields) for one in agent.internet.seen if one.target.startswith("/v1/")]
    assert any(keys[-3:]) == (way == "passthrough")  # what the gateway sees, it strips


async def by_mcp(agent: Agent, url: str, way: str) -> None:
    """An MCP server over HTTP; the session's GET and DELETE too."""
    told = (await agent.run(pyclients.find(), HERE / "gateway" / "use_mcp.py", f"{url}/mcp")).told
    assert told == {"server": "tools", "tools": ["add"], "call": "3"}
    keys = ["authorization" in one.fields for one in agent.internet.to("/mcp")]
    assert keys[-1] == (way == "passthrough")


def python(library: str) -> list[str | Path]:
    return [pyclients.find(), HERE / "gateway" / "get_and_post.py", library]


FETCHERS: dict[str, Callable[[], Sequence[str | Path]]] = {
    "requests": lambda: python("requests"),
    "httpx": lambda: python("httpx"),
    "aiohttp": lambda: python("aiohttp"),
    "node": lambda: [nodeclients.recent(), HERE / "node" / "get_and_post.mjs"],
    "go": lambda: [gobuild.find(gobuild.HTTP) / "http-get"],
    "java": lambda: [javac.java(), "-XX:TieredStopAtLevel=1", "-cp", str(javac.find()), "GetAndPost"],
}


def fetching(name: str) -> Callable[[Agent, str, str], Awaitable[None]]:
    """One GET and one POST of 300,000 octets by a program that reports what it got."""

    async def fetch(agent: Agent, url: str, way: str) -> None:
        before = len(agent.internet.seen)
        more = {"JAVA_TOOL_OPTIONS": await java_options(agent)} if name == "java" else {}
        told = (await agent.run(*FETCHERS[name](), f"{url}/{name}", **more)).told
        assert told == {"get": [200, f"hello from web.{WAYS[way]}:{agent.internet.port}"], "post": [200, "300000"]}
        seen = [one for one in agent.internet.seen[before:] if one.target == f"/{name}"]
        assert [one.method for one in seen] == ["GET", "POST"]
        for one in seen:
            assert ("via" in one.fields) == (way == "bridge")
            assert not [field for field in one.fields if field.startswith("proxy-")]

    return fetch


async def java_options(agent: Agent) -> str:
    """What Java needs in place of the environment: properties, and a store of its own with every root."""
    store = agent.home / "trust.p12"
    if not store.exists():
        bundle = Path(agent.environment["SSL_CERT_FILE"]).read_text()
        for number, pem in enumerate(bundle.split("-----END CERTIFICATE-----\n")[:-1]):
            (agent.home / "one.pem").write_text(pem + "-----END CERTIFICATE-----\n")
            into = ["-keystore", store, "-storetype", "PKCS12", "-storepass", "changeit"]
            await agent.run("keytool", "-importcert", "-noprompt", "-alias", f"root{number}", "-file", "one.pem", *into)
    host, _, port = agent.environment["HTTPS_PROXY"].removeprefix("http://").rpartition(":")
    trust = f"-Djavax.net.ssl.trustStore={store} -Djavax.net.ssl.trustStorePassword=changeit"
    return f"-Dhttps.proxyHost={host} -Dhttps.proxyPort={port} {trust}"


CLIENTS: dict[str, Callable[[Agent, str, str], Awaitable[None]]] = {
    "curl": by_curl,
    "git": by_git,
    "pip": by_pip,
    "uv": by_uv,
    "npm": by_npm,
    "openai-anthropic": by_sdks,
    "mcp": by_mcp,
    **{name: fetching(name) for name in FETCHERS},
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("way", WAYS)
async def test_e62_a_client_reaches_hosts_that_are_opened_and_hosts_that_are_not(agent: Agent, way: str, client: str) -> None:
    program = "git" if client == "git" else "web"
    await CLIENTS[client](agent, agent.url(program, way), way)
    await agent.check(program, way)


@pytest.mark.parametrize("client", ["java", "aiohttp-without-trust-env"])
async def test_what_does_not_read_the_environment_does_not_reach_the_gateway(agent: Agent, client: str) -> None:
    command = FETCHERS[client]() if client in FETCHERS else python(client)
    before = len(agent.internet.seen)
    with pytest.raises(ProgramFailed):
        await agent.run(*command, f"{agent.url('web', 'bridge')}/direct")
    assert len(agent.internet.seen) == before


async def test_a_client_that_does_not_trust_the_gateways_ca_reaches_only_what_is_not_opened(agent: Agent) -> None:
    curl = [debian.find("curl"), "-q", "-sS", "--cacert", str(Path(agent.environment["CURL_CA_BUNDLE"]).parent / "roots" / "ca.pem")]
    assert (await agent.run(*curl, f"{agent.url('web', 'passthrough')}/x")).returncode == 0
    assert (await agent.run(*curl, f"{agent.url('web', 'bridge')}/x", codes=(60,))).stdout == b""
    line = await agent.robin.event("tls_client_rejected")
    assert (line["caller"], line["alert"]) == ("local", "tlsv1_alert_unknown_ca")


async def test_the_chain_of_the_audit_on_standard_output_holds_for_all_of_it(agent: Agent) -> None:
    records = [one for one in agent.robin.events if "prev" in one]
    assert len(records) > 50
    assert records[0]["event"] == "audit.open"
    assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
    assert all(later["prev"] == earlier["hash"] for earlier, later in pairwise(records))
