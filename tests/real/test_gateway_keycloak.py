"""The gateway's main job with software of others: SPIRE issues the assertion, Keycloak the token, and curl, git, pip and requests use it.

They know a proxy URL and a CA file. The origin is nginx with TLS, git's own http-backend behind it, and a judge that verifies each token
with PyJWT and Keycloak's keys.
"""

import contextlib
import datetime
import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.real.clients.test_package_tools import wheel
from tests.real.parts import debian, pyclients
from tests.real.parts.keycloak import JWT_SPIFFE, Keycloak, Realm
from tests.real.parts.process import Server
from tests.real.parts.program import Ended, run
from tests.real.parts.scratch import scratch_folder
from tests.real.parts.spire import SpireDomain, spire_domain
from tests.real.parts.webservers import nginx
from tests.real.test_spiffe_journeys import register

from robin.planes.gateway.new_authority import make_authority
from robin.testing.certificates import CertificateAuthority, Leaf
from robin.testing.process import RobinProcess

pytestmark = pytest.mark.real

AUDIENCE = "origin.test"
SITE = """\
server {{
  listen 127.0.0.1:{port} ssl;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  client_max_body_size 0;
  root {root};
  auth_request /judge;
  location = /judge {{
    internal;
    auth_request off;
    proxy_pass {judge};
    proxy_pass_request_body off;
    proxy_set_header Content-Length "";
  }}
  location /git/ {{
    include /etc/nginx/fastcgi_params;
    fastcgi_pass unix:{socket};
    fastcgi_param SCRIPT_FILENAME {backend};
    fastcgi_param GIT_PROJECT_ROOT {root};
    fastcgi_param GIT_HTTP_EXPORT_ALL "";
    fastcgi_param PATH_INFO $uri;
    fastcgi_param GIT_CONFIG_COUNT 2;
    fastcgi_param GIT_CONFIG_KEY_0 safe.directory;
    fastcgi_param GIT_CONFIG_VALUE_0 *;
    fastcgi_param GIT_CONFIG_KEY_1 http.receivepack;
    fastcgi_param GIT_CONFIG_VALUE_1 true;
  }}
}}
"""
PROFILE = """\
id: keycloak
display_name: Keycloak
credentials:
  - {{name: token, token_grant: {{token_endpoint: "{realm.token_endpoint}", issuer: "{realm.issuer}", client_assertion_type: "{kind}"}}}}
endpoints:
  - {{host: origin.test, port: {port}}}
"""
REQUESTS = """
import requests, sys
session = requests.Session()
session.headers["Authorization"] = "Bearer placeholder-of-the-client"
for url in sys.argv[1:]:
    response = session.get(url)
    print(response.status_code, response.text.strip(), sorted(response.headers))
"""


@contextlib.contextmanager
def answering(respond: Callable[[str, Mapping[str, str]], tuple[int, bytes]]) -> Iterator[str]:
    """The URL of a server whose responses are those of `respond(path, fields)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is the library's
            status, body = respond(self.path, self.headers)  # type: ignore[arg-type]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Judge:
    """Lets a request through if its token is Keycloak's, for this origin, and not expired. `tokens` are those that were good."""

    realm: Realm
    tokens: list[str] = field(default_factory=list)
    refusals: int = 0

    def respond(self, _: str, fields: Mapping[str, str]) -> tuple[int, bytes]:
        scheme, _, token = (fields.get("Authorization") or "").partition(" ")
        try:
            kid = jwt.get_unverified_header(token)["kid"]
            (key,) = [jwt.PyJWK(one) for one in self.realm.jwks()["keys"] if one["kid"] == kid]
            jwt.decode(token, key=key, algorithms=["RS256"], audience=AUDIENCE, issuer=self.realm.issuer)
        except (jwt.InvalidTokenError, KeyError, ValueError):
            self.refusals += 1
            return 401, b"{}"
        assert scheme == "Bearer"
        self.tokens.append(token)
        return 204, b""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """What the clients know: `proxy` and `ca_file`. `url` is the protected origin."""

    robin: RobinProcess
    proxy: str
    ca_file: Path
    origin_ca: Path
    url: str
    port: int
    judge: Judge
    home: Path

    async def run(self, *command: str | Path, codes: tuple[int, ...] = (0,), ca_file: Path | None = None) -> Ended:
        """With the documented environment and nothing else."""
        bundle = str(ca_file or self.ca_file)
        names = "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT".split()
        proxies = dict.fromkeys("HTTP_PROXY HTTPS_PROXY http_proxy https_proxy".split(), self.proxy)
        quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_PROXY": ""}
        return await run(command, home=self.home, environment={**proxies, **dict.fromkeys(names, bundle), **quiet}, codes=codes)

    async def curl(self, *words: str, codes: tuple[int, ...] = (0,), ca_file: Path | None = None) -> bytes:
        ended = await self.run(debian.find("curl"), "-q", "-sS", *words, codes=codes, ca_file=ca_file)
        return ended.stdout

    async def git(self, *words: str, folder: str = ".") -> Ended:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return await self.run(debian.find("git"), "-C", folder, *who, *words)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [entry for entry in self.robin.events if entry.get("event") in {"gateway.decision", "grant_call"}]


def write_origin(root: Path) -> None:
    """A page, a Python index with one wheel, and a bare repository."""
    (root / "hello").write_text("hello\n")
    index = root / "simple" / "parcel"
    index.mkdir(parents=True)
    name = wheel(index, "parcel").name
    (index / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>')
    (root / "git").mkdir()
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(root / "git" / "one.git")], check=True, timeout=60)


@contextlib.contextmanager
def protected_origin(leaf: Leaf, judge_url: str) -> Iterator[int]:
    """Its port."""
    backend = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()) / "git-http-backend"
    with scratch_folder("origin") as folder:
        root, socket = folder / "root", folder / "fcgi"
        root.mkdir()
        write_origin(root)
        command = [debian.find("fcgiwrap"), "-c", "4", "-s", f"unix:{socket}"]
        wrap = Server("fcgiwrap", command, folder=folder, environment={"HOME": str(folder)})
        try:
            wrap.start(socket.exists)
            os.chmod(socket, 0o666)
            values = {"certificate": leaf.certificate_file, "key": leaf.key_file, "root": root, "judge": judge_url}
            with nginx(lambda port, _: SITE.format(port=port, socket=socket, backend=backend, **values)) as front:
                yield front.port
        finally:
            wrap.kill()


def write_gateway(folder: Path, *, realm: Realm, domain: SpireDomain, port: int, origin_ca: Path) -> Path:
    """robin.yaml with a CA of its own; the rule `closed` needs to see nothing, so its TLS stays closed."""
    slot = folder / "ca"
    slot.mkdir()
    certificate, key = make_authority("robin-bridge-ca-test", days=1, permit_dns=[], now=datetime.datetime.now(datetime.UTC))
    (slot / "tls.crt").write_bytes(certificate)
    (slot / "tls.key").touch(mode=0o600)
    (slot / "tls.key").write_bytes(key)
    (folder / "keycloak.yaml").write_text(PROFILE.format(realm=realm, kind=JWT_SPIFFE, port=port))
    section = {
        "listeners": [{"name": "proxy", "listen": "127.0.0.1:0"}],
        "admin": {"listen": "127.0.0.1:0"},
        "drain": {"min": "0s", "max": "5s"},
        "identities": {"default": {"source": "jwtsvid", "spiffe_socket": domain.endpoint}},
        "profiles": ["keycloak.yaml"],
        "providers": [{"profile": "keycloak", "callers": ["local"]}],
        "policy": {"rules": [{"name": "closed", "hosts": ["closed.test"], "ports": [port]}]},
        "bridge": {"slots": {"a": str(slot)}},
        "upstream_tls": {"ca_files": [str(origin_ca)]},
        "addresses": {
            "hosts": {"origin.test": ["127.0.0.1"], "closed.test": ["127.0.0.1"]},
            "unsafe_loopback": [f"127.0.0.1:{port}"],
        },
    }
    file = folder / "robin.yaml"
    file.write_text(json.dumps({"version": 1, "gateway": section}))  # JSON is YAML
    return file


@contextlib.asynccontextmanager
async def stand(folder: Path, keycloak: Keycloak) -> AsyncIterator[Stand]:
    realm = keycloak.new_realm()
    judge = Judge(realm)
    pki = CertificateAuthority(folder / "pki")
    home = folder / "home"
    home.mkdir()
    with spire_domain() as domain, contextlib.ExitStack() as parts:
        register(domain, "/gateway", jwt_ttl_s=60)

        def bundle(_path: str, _fields: Mapping[str, str]) -> tuple[int, bytes]:
            keys = [{**one, "use": "jwt-svid"} for one in domain.bundle()["keys"]]
            return 200, json.dumps({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 10}).encode()

        realm.trust_spiffe(domain.trust_domain, parts.enter_context(answering(bundle)))
        realm.add_client("agent-gateway", domain.spiffe_id("/gateway"), AUDIENCE)
        judge_url = parts.enter_context(answering(judge.respond))
        port = parts.enter_context(protected_origin(pki.issue("origin.test", "closed.test"), judge_url))
        file = write_gateway(folder, realm=realm, domain=domain, port=port, origin_ca=pki.ca_file)
        async with RobinProcess("gateway", "--config", str(file)) as robin:
            listening = await robin.event("listening")
            await robin.event("started")
            yield Stand(
                robin=robin,
                proxy=f"http://{listening['listen'][0]}",
                ca_file=folder / "ca" / "tls.crt",
                origin_ca=pki.ca_file,
                url=f"https://origin.test:{port}",
                port=port,
                judge=judge,
                home=home,
            )


async def test_curl_git_pip_and_requests_use_a_token_of_keycloak_that_they_never_see(tmp_path: Path, keycloak: Keycloak) -> None:
    async with stand(tmp_path, keycloak) as at:
        began = time.monotonic()
        said = [await at.curl("-i", "-H", "Authorization: Bearer placeholder-of-the-client", f"{at.url}/hello")]
        assert b"HTTP/1.1 200" in said[0]
        assert said[0].endswith(b"\r\n\r\nhello\n")

        ended = await at.run(pyclients.find(), "-c", REQUESTS, f"{at.url}/hello", f"{at.url}/hello")
        assert ended.stdout.decode().split("\n")[0].startswith("200 hello")
        said.append(ended.stdout)

        wanted = ["--no-deps", "--no-cache-dir", "-q", "--index-url", f"{at.url}/simple/", "-d", str(at.home / "wheels"), "parcel"]
        ended = await at.run(pyclients.find(), "-m", "pip", "download", *wanted)
        assert [file.name for file in (at.home / "wheels").iterdir()] == ["parcel-1.0-py3-none-any.whl"]
        said.append(ended.stdout + ended.stderr.encode())

        await at.git("clone", "-q", f"{at.url}/git/one.git", "first")
        (at.home / "first" / "file").write_bytes(os.urandom(2 << 20))  # larger than http.postBuffer: sent chunked
        await at.git("add", "file", folder="first")
        await at.git("commit", "-q", "-m", "one", folder="first")
        await at.git("push", "-q", "origin", "HEAD:main", folder="first")
        ended = await at.git("clone", f"{at.url}/git/one.git", "second")
        assert (at.home / "second" / "file").read_bytes() == (at.home / "first" / "file").read_bytes()
        said.append(ended.stdout + ended.stderr.encode())

        # what no rule allows, and what a rule leaves closed
        refused = await at.curl("-i", "https://elsewhere.test/", codes=(56,))
        assert refused.startswith(b"HTTP/1.1 403")
        before, refusals = len(at.judge.tokens), at.judge.refusals
        closed = await at.curl("-o", "/dev/null", "-w", "%{http_code}", f"https://closed.test:{at.port}/hello", ca_file=at.origin_ca)
        assert (closed, len(at.judge.tokens), at.judge.refusals) == (b"401", before, refusals + 1)

        calls = [entry for entry in at.records if entry["event"] == "grant_call"]
        used = [entry["grant"] for entry in at.records if entry["event"] == "gateway.decision" and entry["grant"]]
        assert [call["status"] for call in calls] == [200] * len(calls)
        assert {one["token_hash"] for one in used} <= {call["grant"]["token_hash"] for call in calls}
        assert len(calls) <= 1 + (time.monotonic() - began) / 30, "one token serves all clients"
        assert len(set(at.judge.tokens)) == len(calls)
        log = "\n".join(line for _, line in at.robin.lines).encode()
        for token in set(at.judge.tokens):
            for part in (token, token.split(".")[2]):
                assert part.encode() not in b"".join([*said, log]), "the credential was shown"
        assert b"placeholder-of-the-client" not in log
