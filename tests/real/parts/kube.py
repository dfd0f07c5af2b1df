"""A real Kubernetes control plane without nodes: etcd and kube-apiserver, RBAC on, its own service-account issuer, and kubectl.

There are no controllers, so nothing makes `default` service accounts or cleans up after a namespace: say what you need. Tokens come
from the real TokenRequest API, are judged by the real TokenReview, and land in a volume through the kubelet's own writer.
"""

import base64
import contextlib
import json
import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.real.parts import gobuild
from tests.real.parts.ports import held_port
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder

from robin.testing.certificates import CertificateAuthority

API_AUDIENCE = "https://kubernetes.default.svc"
SHORTEST_TOKEN_S = 600  # what TokenRequest accepts at least
CALL_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 240.0
_AUDIT_POLICY = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}


class KubeRefused(Exception):
    """The API server answered with an error: `code` is the HTTP status, the message that of its Status object."""

    def __init__(self, *, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedToken:
    """A service-account token from TokenRequest; `expires_at` as RFC 3339 text from the server."""

    token: str
    expires_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What TokenReview said; `audiences` are those of the question that the token has."""

    authenticated: bool
    username: str
    audiences: tuple[str, ...]
    error: str


class KubeApi:
    """An API server as its administrator sees it: `folder` holds what kubectl writes, `ca_file` the certificate that is trusted."""

    def __init__(self, folder: Path, programs: Path, port: int, *, ca_file: Path) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = ca_file
        self.kubeconfig = folder / "kubeconfig"
        self.admin_token = secrets.token_urlsafe(24)
        self.programs = programs
        self._key_file = folder / "service-accounts.key"

    def write_keys(self, *rows: str) -> None:
        """The key of the tokens, the administrator's own token and kubeconfig; `rows` are further lines of the API server's token file."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        self._key_file.write_bytes(key.private_bytes(*pem))
        (self.folder / "tokens.csv").write_text("".join(f"{row}\n" for row in (f'{self.admin_token},admin,admin,"system:masters"', *rows)))
        self.kubeconfig.write_text(json.dumps(kubeconfig(self.url, str(self.ca_file), self.admin_token)))
        self.kubeconfig.chmod(0o600)

    def request(self, method: str, path: str, body: object = None, *, token: str | None = None) -> dict[str, Any]:
        """One call of the API, as the administrator unless `token` says otherwise ("" = anonymous). KubeRefused on any HTTP error."""
        bearer = self.admin_token if token is None else token
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
        encoded = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data=encoded, method=method, headers=headers)
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
        try:
            with opener.open(asked, timeout=CALL_TIMEOUT_S) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                raise KubeRefused(code=refused.code, message=_status_message(refused.read().decode())) from None
        found: dict[str, Any] = json.loads(text) if text.startswith("{") else {"text": text}
        return found

    def audit_events(self, offset: int = 0) -> list[dict[str, Any]]:
        """The events of the server's own audit log from this offset of its file on; each is written before the answer."""
        with self.audit_file.open("rb") as file:
            file.seek(offset)
            octets = file.read()
        return [json.loads(line) for line in octets[: octets.rfind(b"\n") + 1].splitlines()]

    def kubectl(self, *arguments: str, stdin: str = "", timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """The real kubectl as the administrator; look at its returncode, stdout and stderr."""
        command, home = self.kubectl_command(*arguments), {"HOME": str(self.folder)}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s, env=home)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line of `kubectl`, for one that runs for longer."""
        cache = str(self.folder / "kubectl-cache")
        return [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig), "--cache-dir", cache, *arguments]

    def dry_run(self, manifests: Path | str) -> list[str]:
        """Server-side dry run of a file or folder (Path) or of YAML text (str), one line an object; KubeRefused in kubectl's words."""
        source = str(manifests) if isinstance(manifests, Path) else "-"
        arguments = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", source)
        asked = self.kubectl(*arguments, stdin="" if isinstance(manifests, Path) else manifests)
        if asked.returncode != 0:
            raise KubeRefused(code=asked.returncode, message=asked.stderr.strip())
        return asked.stdout.splitlines()

    def create_namespace(self, name: str) -> None:
        """The namespace, with the `default` service account that pods in it need."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self.create_service_account("default", namespace=name)

    def create_service_account(self, name: str, *, namespace: str = "default") -> str:
        """The account's uid."""
        made = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        return str(made["metadata"]["uid"])

    def delete_service_account(self, name: str, *, namespace: str = "default") -> None:
        """Its tokens are refused by TokenReview within seconds (the server caches verdicts for 10 s; see `review`)."""
        self.request("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")

    def mint(
        self, account: str, *, audiences: Sequence[str], namespace: str = "default", lifetime_s: int = SHORTEST_TOKEN_S
    ) -> MintedToken:
        """A token from the real TokenRequest API, which refuses lifetimes under ten minutes."""
        wanted = {"spec": {"audiences": list(audiences), "expirationSeconds": lifetime_s}}
        made = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", wanted)
        return MintedToken(token=made["status"]["token"], expires_at=made["status"]["expirationTimestamp"])

    def resign(self, token: str, **claims: object) -> str:
        """The token with some claims replaced, signed with the server's own key: `resign(minted, exp=now + 5)` is a token that dies
        sooner than TokenRequest would make one, judged by TokenReview and the JWKS like any other."""
        header, payload, _ = token.split(".")
        merged = {**json.loads(from_base64url(payload)), **claims}
        signed = f"{header}.{to_base64url(json.dumps(merged).encode())}"
        key = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(key, rsa.RSAPrivateKey)
        return f"{signed}.{to_base64url(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def review(self, token: str, *, audiences: Sequence[str] = ()) -> Review:
        """The verdict of the real TokenReview API; without `audiences` it is about the API server's own audience.

        It takes a token until a minute after its `exp` (its library's allowance for clocks), and remembers a yes for ten seconds.
        """
        wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": list(audiences)}}
        status = self.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", wanted)["status"]
        return Review(
            authenticated=status.get("authenticated", False),
            username=status.get("user", {}).get("username", ""),
            audiences=tuple(status.get("audiences", ())),
            error=status.get("error", ""),
        )

    def discovery(self) -> dict[str, Any]:
        """The OIDC discovery document, as anyone may read it."""
        return self.request("GET", "/.well-known/openid-configuration", token="")

    def jwks(self) -> dict[str, Any]:
        """The keys that the discovery document points to, as anyone may read them."""
        return self.request("GET", self.discovery()["jwks_uri"].removeprefix(self.url), token="")

    def project(self, volume: Path, token: str, *, name: str = "token") -> None:
        """Write the token into the folder as the kubelet does: ..data swung over by one rename, `name` a link through it."""
        asked = subprocess.run(
            [self.programs / "kube-project", volume, name],
            input=token,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_TIMEOUT_S,
        )
        assert asked.returncode == 0, f"kube-project: {asked.stderr}"

    def ready(self) -> bool:
        """Whether the API server calls itself ready."""
        if not self.ca_file.exists():
            return False
        with contextlib.suppress(OSError, KubeRefused):
            return self.request("GET", "/readyz") == {"text": "ok"}
        return False

    def let_everyone_discover(self) -> None:
        """Bind Kubernetes' own role for it to everyone: a verifier outside the cluster has no token."""
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"}
        everyone = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}
        binding = {"metadata": {"name": "everyone-may-discover-the-issuer"}, "roleRef": role, "subjects": [everyone]}
        self.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)


class Cluster(KubeApi):
    """Made by `kube_cluster()`."""

    def __init__(self, folder: Path, programs: Path, port: int) -> None:
        super().__init__(folder, programs, port, ca_file=folder / "certificates" / "apiserver.crt")
        self.issuer = self.url
        self.audit_policy_file = folder / "audit-policy.json"
        self.audit_file = folder / "audit.jsonl"
        self.etcd = Server("etcd", etcd_command(folder), folder=folder)
        self.apiserver = Server("kube-apiserver", _apiserver_command(folder, programs, self.url, port), folder=folder)

    def start(self) -> None:
        """Write keys and configuration, start both, wait until the API server calls itself ready."""
        self.write_keys()
        self.audit_policy_file.write_text(json.dumps(_AUDIT_POLICY))
        self.authority = CertificateAuthority(self.folder / "authority")
        (self.folder / "authority.pem").write_bytes(self.authority.ca_pem)
        self.etcd.start((self.folder / "client:0").exists)
        self.apiserver.start(self.ready, timeout_s=READY_TIMEOUT_S)
        self.let_everyone_discover()


@contextlib.contextmanager
def kube_cluster() -> Iterator[Cluster]:
    """A control plane of its own on loopback, about 300 MB and three seconds; ended and removed after."""
    programs = gobuild.find(gobuild.KUBERNETES)
    with scratch_folder("kube") as folder, held_port() as port, contextlib.ExitStack() as ends:
        cluster = Cluster(folder, programs, port)
        ends.callback(cluster.etcd.kill)
        ends.callback(cluster.apiserver.kill)
        cluster.start()
        yield cluster


def etcd_command(folder: Path, *, data: str | Path | None = None) -> list[str | Path]:
    """etcd, whose only client reaches it by a socket in `folder`, its working folder."""
    # etcd wants host:port in its URLs and takes that text as the socket's file name in its working folder.
    return [
        *(gobuild.find(gobuild.ETCD) / "etcd", "--data-dir", data or folder / "etcd", "--unsafe-no-fsync", "--log-level=warn"),
        *("--listen-client-urls", "unix://client:0", "--advertise-client-urls", "unix://client:0"),
        *("--listen-peer-urls", "unix://peer:0", "--initial-advertise-peer-urls", "unix://peer:0"),
        *("--initial-cluster", "default=unix://peer:0"),
    ]


def _apiserver_command(folder: Path, programs: Path, issuer: str, port: int) -> list[str | Path]:
    return [
        programs / "kube-apiserver",
        f"--etcd-servers=unix://{folder}/client:0",
        *("--bind-address=127.0.0.1", f"--secure-port={port}", "--advertise-address=127.0.0.1"),
        "--endpoint-reconciler-type=none",
        f"--cert-dir={folder}/certificates",
        *(f"--service-account-issuer={issuer}", f"--service-account-jwks-uri={issuer}/openid/v1/jwks", f"--api-audiences={API_AUDIENCE}"),
        *(f"--service-account-key-file={folder}/service-accounts.key", f"--service-account-signing-key-file={folder}/service-accounts.key"),
        "--service-account-extend-token-expiration=false",
        *("--authorization-mode=RBAC", f"--token-auth-file={folder}/tokens.csv"),
        "--service-cluster-ip-range=10.96.0.0/16",
        *(f"--audit-policy-file={folder}/audit-policy.json", f"--audit-log-path={folder}/audit.jsonl", "--audit-log-mode=blocking-strict"),
        *("--kubelet-preferred-address-types=InternalIP", f"--kubelet-certificate-authority={folder}/authority.pem"),
        f"--client-ca-file={folder}/authority.pem",
    ]


def kubeconfig(url: str, ca_file: str, token: str) -> dict[str, Any]:
    """A kubeconfig with one cluster and one user, who has a token."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "real", "cluster": {"server": url, "certificate-authority": ca_file}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "user"}}],
        "current-context": "real",
    }


def _status_message(text: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(text).get("message", text))
    return text


def to_base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Unpadded base64url, as in a JWT."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
