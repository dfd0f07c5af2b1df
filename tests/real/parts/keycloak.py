"""Keycloak out of Maven Central, built and with a database of its own kept in the cache, so that a start takes seconds.

It runs on the JDK of `javac.java()`. `SPIFFE` is its preview of client authentication by JWT-SVID. One server serves the whole run: a test
makes a realm of its own.
"""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.real.parts import cache, javac, versions
from tests.real.parts.missing import MissingPart
from tests.real.parts.ports import held_port
from tests.real.parts.process import Server
from tests.real.parts.progress import Progress
from tests.real.parts.scratch import scratch_folder

TITLE = f"Keycloak {versions.KEYCLOAK}"
FEATURES = "client-auth-federated,spiffe"
ADMIN = "admin"
START_TIMEOUT_S = 300.0
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{versions.KEYCLOAK}:zip"
_BUILD = ("build", "--db=dev-file", f"--features={FEATURES}", "--health-enabled=true")
_HEAP = "-Xms128m -Xmx512m"


def key() -> str:
    """Changes with the pin and with how it is built."""
    javac.java()
    return cache.digest([versions.KEYCLOAK, versions.KEYCLOAK_SHA256, *_BUILD])


def find() -> Path:
    """The folder, when it is in the cache; else MissingPart."""
    folder = cache.place("keycloak", key()) / "keycloak"
    if not folder.is_dir():
        raise MissingPart(name=TITLE, remedy="is not fetched yet; run `make real` once")
    return folder


def obtain() -> Path:
    """The folder, fetching and building first when need be."""
    return cache.obtain("keycloak", key(), _install) / "keycloak"


class Realm:
    """One realm. `issuer` is its URL, which assertions are for; `token_endpoint` issues, `jwks` has its keys."""

    def __init__(self, server: "Keycloak", name: str) -> None:
        self._server = server
        self.name = name
        self.issuer = f"{server.url}/realms/{name}"
        self.token_endpoint = f"{self.issuer}/protocol/openid-connect/token"

    def trust_spiffe(self, trust_domain: str, bundle_url: str) -> None:
        """Take JWT-SVIDs of a trust domain for client authentication; the bundle is fetched for each."""
        config = {"trustDomain": f"spiffe://{trust_domain}", "bundleEndpoint": bundle_url}
        self._server.post(
            f"/{self.name}/identity-provider/instances", {"alias": "spiffe", "providerId": "spiffe", "enabled": True, "config": config}
        )

    def add_client(self, name: str, spiffe_id: str, audience: str) -> None:
        """A client that a workload may use; its tokens are for `audience`."""
        mapper = {
            "name": "audience",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": {"included.custom.audience": audience, "access.token.claim": "true"},
        }
        client = {
            "clientId": name,
            "enabled": True,
            "protocol": "openid-connect",
            "publicClient": False,
            "serviceAccountsEnabled": True,
            "standardFlowEnabled": False,
            "clientAuthenticatorType": "federated-jwt",
            "attributes": {"jwt.credential.issuer": "spiffe", "jwt.credential.sub": spiffe_id},
            "protocolMappers": [mapper],
        }
        self._server.post(f"/{self.name}/clients", client)

    def add_key_client(self, name: str, jwk: Mapping[str, Any], *, audiences: Sequence[str] = ()) -> None:
        """A client that signs its assertions with this key, and may exchange tokens; `audiences` are clients that its tokens are for."""
        mappers = [
            {
                "name": f"audience of {audience}",
                "protocol": "openid-connect",
                "protocolMapper": "oidc-audience-mapper",
                "config": {"included.client.audience": audience, "access.token.claim": "true"},
            }
            for audience in audiences
        ]
        attributes = {
            "use.jwks.string": "true",
            "jwks.string": json.dumps({"keys": [dict(jwk)]}),
            "standard.token.exchange.enabled": "true",
        }
        client = {
            "clientId": name,
            "enabled": True,
            "protocol": "openid-connect",
            "publicClient": False,
            "serviceAccountsEnabled": True,
            "standardFlowEnabled": False,
            "clientAuthenticatorType": "client-jwt",
            "attributes": {**attributes, "token.endpoint.auth.signing.alg": jwk["alg"]},
            "protocolMappers": mappers,
        }
        self._server.post(f"/{self.name}/clients", client)

    def jwks(self) -> dict[str, Any]:
        """Its keys."""
        with urllib.request.urlopen(f"{self.issuer}/protocol/openid-connect/certs", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


class Keycloak:
    """A running server."""

    def __init__(self, port: int, server: Server) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.server = server
        self._realms = itertools.count()

    def new_realm(self) -> Realm:
        """A realm that no other test has."""
        name = f"r{next(self._realms)}"
        self.post("", {"realm": name, "enabled": True, "sslRequired": "none"})
        return Realm(self, name)

    def post(self, path: str, document: Mapping[str, Any]) -> None:
        """Create something by the admin API."""
        request = urllib.request.Request(f"{self.url}/admin/realms{path}", data=json.dumps(document).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {self._admin_token()}")
        try:
            with urllib.request.urlopen(request, timeout=60):
                return
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise

    def _admin_token(self) -> str:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": ADMIN, "password": ADMIN}
        url = f"{self.url}/realms/master/protocol/openid-connect/token"
        with urllib.request.urlopen(url, data=urllib.parse.urlencode(form).encode(), timeout=60) as answer:
            return str(json.load(answer)["access_token"])


@contextlib.contextmanager
def keycloak_server() -> Iterator[Keycloak]:
    """Running until the end of the block; what it writes goes with it."""
    with scratch_folder("keycloak") as folder:
        home = folder / "keycloak"
        home.mkdir()
        for part in find().iterdir():
            if part.name in {"bin", "data"}:  # the script finds its folder by its own place, and the database is written to
                shutil.copytree(part, home / part.name)
            else:
                (home / part.name).symlink_to(part)
        with _started(home, folder) as server:
            yield server


@contextlib.contextmanager
def _started(home: Path, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Keycloak]:
    with held_port() as port, held_port() as management:
        options = [f"--http-port={port}", f"--http-management-port={management}", "--http-host=127.0.0.1", "--http-enabled=true"]
        command = [home / "bin" / "kc.sh", "start", "--optimized", "--hostname-strict=false", "--cache=local", *options]
        server = Server("keycloak", command, folder=folder, environment={**_environment(), **(environment or {})})
        try:
            server.start(lambda: _is_up(management), timeout_s=START_TIMEOUT_S)
            yield Keycloak(port, server)
        finally:
            server.stop()


def _environment() -> dict[str, str]:
    return {"JAVA_HOME": str(javac.java().resolve().parents[1]), "JAVA_OPTS_KC_HEAP": _HEAP}


def _is_up(management: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", management, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    return False


def _install(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPart(name=TITLE, remedy="needs Maven to fetch it; install it and put `mvn` on PATH")
    with Progress(f"{TITLE} from Maven Central"), tempfile.TemporaryDirectory() as scratch:
        command = ["nice", "-n", "10", maven, "-q", "-B", "-ntp", "dependency:copy", f"-Dartifact={_ARTIFACT}"]
        command += [f"-DoutputDirectory={scratch}/out", f"-Dmaven.repo.local={scratch}/repository"]
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=540, cwd=scratch)
        if asked.returncode != 0:
            raise MissingPart(name=TITLE, remedy=f"could not be fetched:\n{asked.stdout[-2000:]}{asked.stderr[-2000:]}")
        (archive,) = Path(scratch, "out").glob("*.zip")
        with archive.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != versions.KEYCLOAK_SHA256:
            raise MissingPart(name=TITLE, remedy=f"came with the SHA-256 {found}, which is not that of versions.py")
        with zipfile.ZipFile(archive) as opened_zip:
            opened_zip.extractall(scratch)
        home = folder / "keycloak"
        shutil.move(next(Path(scratch).glob("keycloak-*")), home)
    with Progress(f"{TITLE}, built and started once"):
        (home / "bin" / "kc.sh").chmod(0o755)
        built = subprocess.run(
            ["nice", "-n", "10", str(home / "bin" / "kc.sh"), *_BUILD],
            capture_output=True, text=True, check=False, timeout=540, env={**os.environ, **_environment()},
        )  # fmt: skip
        if built.returncode != 0:
            raise MissingPart(name=TITLE, remedy=f"could not be built:\n{built.stdout[-2000:]}{built.stderr[-2000:]}")
        bootstrap = {"KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN, "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN}
        with _started(home, folder, bootstrap):  # it makes its database and the admin
            pass
