"""A SPIFFE trust domain on this machine: an authority, an agent with the Workload API, entries, and the official Go client.

Kept by the small programs of tests/real/go/spiffe: go-spiffe's own Workload API service on grpc-go, behaving towards workloads as
SPIRE's source says it does; `spire.SpireDomain` is the same with SPIRE itself, and the tests hold both to the same.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.real.parts import gobuild, relay
from tests.real.parts.process import Server
from tests.real.parts.scratch import scratch_folder

TRUST_DOMAIN = "robin.test"
CALL_TIMEOUT_S = 30.0


class AuthorityRefused(Exception):
    """The authority answered with an error; the message is its own."""


class WorkloadApiRefused(Exception):
    """The Workload API or the official library said no: `code` is the gRPC code's name ("Unknown" for an error of the library)."""

    def __init__(self, *, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Svid:
    """One JWT-SVID as go-spiffe reads it; `expires_at` in Unix seconds."""

    spiffe_id: str
    token: str
    hint: str
    audience: tuple[str, ...]
    expires_at: int
    claims: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the Workload API as the agent logged it when it ended."""

    method: str
    code: str
    took_s: float


class SpiffeDomain:
    """Made by `stand_in_domain()`. `authority` and `agent` are Servers: kill, pause, resume them; start them with the methods here."""

    def __init__(self, folder: Path, programs: Path, *, sync_s: float) -> None:
        self.folder = folder
        self.trust_domain = TRUST_DOMAIN
        self.socket_path = folder / "agent.sock"
        self._authority_socket = folder / "authority.sock"
        self.ask_program = programs / "spiffe-ask"
        authority: list[str | Path] = [
            programs / "spiffe-authority",
            "-dir",
            folder,
            "-trust-domain",
            TRUST_DOMAIN,
            "-socket",
            self._authority_socket,
        ]
        agent: list[str | Path] = [
            programs / "spiffe-agent",
            "-authority",
            self._authority_socket,
            "-socket",
            self.socket_path,
            "-sync",
            f"{sync_s}s",
        ]
        self.authority = Server("authority", authority, folder=folder)
        self.agent = Server("agent", agent, folder=folder)
        self.sync_s = sync_s

    @property
    def endpoint(self) -> str:
        """What goes into ROBIN_SPIFFE_SOCKET."""
        return f"unix://{self.socket_path}"

    def start_authority(self) -> None:
        """Start it, or start it again: it keeps its keys and entries."""
        self.authority.start(lambda: _accepts(self._authority_socket))

    def start_agent(self) -> None:
        """Start it, or start it again (with an empty token cache); ready once the Workload API accepts, so the authority must be up."""
        self.agent.start(lambda: _accepts(self.socket_path))

    def create_entry(
        self, path: str, *, selectors: Sequence[str] | None = None, jwt_ttl_s: int = 30, hint: str = "", entry_id: str = ""
    ) -> str:
        """Register spiffe://robin.test<path>; the entry's id. `selectors`: unix:uid:N, unix:gid:N, unix:path:P, all of which must
        match; None: this user. The agent knows it after its next sync. Identities of one caller come in the order of their ids."""
        wanted = {
            "id": entry_id,
            "spiffe_id": self.spiffe_id(path),
            "selectors": list(selectors) if selectors is not None else [f"unix:uid:{os.getuid()}"],
            "jwt_ttl_s": jwt_ttl_s,
            "hint": hint,
        }
        return str(self._tell_authority("POST", "/entries", wanted)["id"])

    def delete_entry(self, entry_id: str) -> None:
        """Gone at the authority at once, at the agent after its next sync."""
        self._tell_authority("DELETE", f"/entries/{entry_id}")

    def rotate_key(self) -> str:
        """Sign with a new key from now on; its key id. The old one stays in the bundle until `forget_key`."""
        return str(self._tell_authority("POST", "/keys")["kid"])

    def forget_key(self, kid: str) -> None:
        """Take a key that no longer signs out of the bundle."""
        self._tell_authority("DELETE", f"/keys/{kid}")

    def bundle(self) -> dict[str, Any]:
        """The trust domain's JWKS, from the authority itself."""
        found: dict[str, Any] = self._tell_authority("GET", "/state")["bundle"]
        return found

    def calls(self, pid: int) -> list[Call]:
        """The unary calls that this process has made, of this agent and of those before its restarts; not those under way."""
        lines = (line.partition("CALL ")[2].split() for line in self.agent.log_text().splitlines())
        mine = (words for words in lines if words and int(words[0]) == pid)
        return [Call(method=method, code=code, took_s=float(took_s)) for _, method, code, took_s in mine]

    def spiffe_id(self, path: str) -> str:
        return f"spiffe://{self.trust_domain}{path}"

    def fetch_svids(
        self, audience: str, *, spiffe_id: str = "", endpoint: str | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> list[Svid]:
        """What the official Go client gets from the Workload API for this user; WorkloadApiRefused with the agent's code, or with
        DeadlineExceeded after `timeout_s`."""
        more = ["-spiffe-id", spiffe_id] if spiffe_id else []
        found = self._ask_client("fetch", "-socket", endpoint or self.endpoint, "-audience", audience, "-timeout", f"{timeout_s}s", *more)
        return [_svid(one) for one in found]

    def fetch_bundle(self) -> dict[str, Any]:
        """The JWKS of this trust domain as the official Go client gets it from the Workload API."""
        found: dict[str, Any] = self._ask_client("bundle", "-socket", self.endpoint)[self.trust_domain]
        return found

    def verify(self, token: str, *, audience: str) -> Svid:
        """What go-spiffe makes of the token with the authority's bundle, offline; WorkloadApiRefused when it is not valid."""
        jwks = self.folder / "bundle.json"
        jwks.write_text(json.dumps(self.bundle()))
        arguments = ("-bundle", str(jwks), "-trust-domain", self.trust_domain, "-audience", audience)
        return _svid(self._ask_client("verify", *arguments, stdin=token))

    @contextlib.contextmanager
    def tcp_endpoint(self) -> Iterator[tuple[str, Server]]:
        """The Workload API on TCP, through a relay that runs as this user: what goes into ROBIN_SPIFFE_SOCKET, and the relay."""
        server = Server("relay", [sys.executable, relay.__file__, self.socket_path], folder=self.folder)
        server.start(lambda: "\n" in server.log_text())
        try:
            yield f"tcp://127.0.0.1:{int(server.log_text().splitlines()[0])}", server
        finally:
            server.kill()

    def _tell_authority(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = _UnixConnection(self._authority_socket)
        with contextlib.closing(connection):
            connection.request(method, path, body=None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer = response.read()
        if response.status != 200:
            raise AuthorityRefused(answer.decode().strip())
        found: dict[str, Any] = json.loads(answer)
        return found

    def _ask_client(self, *arguments: str, stdin: str = "") -> Any:
        asked = subprocess.run(
            [self.ask_program, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=CALL_TIMEOUT_S + 5.0
        )
        if asked.returncode != 0:
            code, _, detail = asked.stderr.strip().partition(": ")
            raise WorkloadApiRefused(code=code, detail=detail)
        return json.loads(asked.stdout)


Domain = TypeVar("Domain", bound=SpiffeDomain)


@contextlib.contextmanager
def stand_in_domain(*, sync_s: float = 0.2, start: bool = True) -> Iterator[SpiffeDomain]:
    """A trust domain with authority and agent running (`start=False`: neither, for tests of the order); all ended and removed after."""
    programs = gobuild.find(gobuild.SPIFFE)
    with scratch_folder("spiffe") as folder, running(SpiffeDomain(folder, programs, sync_s=sync_s), start=start) as domain:
        yield domain


@contextlib.contextmanager
def running(domain: Domain, *, start: bool) -> Iterator[Domain]:
    """Authority and agent are started if asked for, and ended after, whoever started them."""
    with contextlib.ExitStack() as ends:
        ends.callback(domain.authority.kill)
        ends.callback(domain.agent.kill)
        if start:
            domain.start_authority()
            domain.start_agent()
        yield domain


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("authority", timeout=CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CALL_TIMEOUT_S)
        self.sock.connect(str(self._path))


def _accepts(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.connect(str(path))
        return True
    return False


def _svid(one: dict[str, Any]) -> Svid:
    return Svid(
        spiffe_id=one["spiffe_id"],
        token=one["token"],
        hint=one["hint"],
        audience=tuple(one["audience"]),
        expires_at=one["expiry"],
        claims=one["claims"],
    )
