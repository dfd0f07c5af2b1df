"""What stands behind a page's commands: an authority, a broker that verifies, an identity, and the folder in which the commands run.

A page speaks of `https://broker.example:8443`, `/var/run/secrets/tokens` and `127.0.0.1:4000`; a stage puts its own places in for them, and
the page's words back into what the commands say. The commands run in the page's one shell (tests/docs/shell.py). Stages play with a token
for the audience `broker.example`, valid for an hour, unless told otherwise.
"""

import contextlib
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs.shell import Shell

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.demo_broker import DemoBroker
from robin.testing.projected import ProjectedDirectory
from robin.testing.workload_api import Outcome, Refusal, WorkloadApi
from robin.transport.clock import SystemClock
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

AUDIENCE = "broker.example"
HOUR_S = 3600.0
QUARTER_S = 90 * 24 * HOUR_S


class Stage:
    """`async with Stage(shell, "file", "expired") as stage:`; then `settings(text)` and `run(command)` in the order of the page."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._shell = shell
        self._words = words
        self._clock = SystemClock()
        self.folder: Path
        self._places: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        stack = self._stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs")))
        self.authority = IdentityAuthority(issuer="https://authority.robin.test", trust_domain="example.org", clock=self._clock)
        self.broker = DemoBroker(jwks=self.authority.jwks, issuer=self.authority.issuer, audience=AUDIENCE, clock=self._clock)
        if "tls" in self._words:
            self.certificates = CertificateAuthority(self.folder / "ca", ends_in_s=QUARTER_S)
            self.broker.tls = self.certificates.issue("localhost", ends_in_s=QUARTER_S).server_context()
        await stack.enter_async_context(self.broker)
        self._places = {
            "127.0.0.1:4000": self._shell.proxy,
            "127.0.0.1:4001": self._shell.admin,
            "https://broker.example:8443": self.broker.url_as("localhost" if "tls" in self._words else "127.0.0.1"),
            "/var/run/secrets/tokens": str(self.folder / "tokens"),
            "/run/spire/sockets/agent.sock": str(self.folder / "agent.sock"),
            "/run/robin/robin.sock": str(self.folder / "robin.sock"),
            "/etc/robin/private-ca.pem": str(self.folder / "private-ca.pem"),
            "/etc/robin/robin.env": str(self.folder / "robin.env"),
        }
        await self._shell.run(f"cd {self.folder}; export HOME={self.folder} ROBIN_ADMIN_ADDR={self._shell.admin}")
        for word in self._words:
            await WORDS[word](self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    def settings(self, text: str) -> None:
        """More lines for `robin.env`, in the folder of the commands."""
        with (self.folder / "robin.env").open("a") as file:
            file.write(self._real(text))

    async def run(self, command: str) -> str:
        """What the command says, standard error included, in the page's words; `code` is its exit code."""
        await self._shell.run(self._ports)
        return self._shown(await self._shell.run(self._real(command)))

    @property
    def code(self) -> int:
        """The exit code of the last command."""
        return self._shell.code

    @property
    def _ports(self) -> str:
        """The port for what the page leaves to the default: 4000 belongs to whoever runs the tests."""
        on_socket = "ROBIN_LISTEN_UDS" in (self.folder / "robin.env").read_text()
        return "unset ROBIN_LISTEN_ADDR" if on_socket else f"export ROBIN_LISTEN_ADDR={self._shell.proxy}"

    # the page's words and ours

    def _real(self, text: str) -> str:
        return _replaced(text, self._places)

    def _shown(self, text: str) -> str:
        return _replaced(text, {real: word for word, real in self._places.items()} | {str(self.folder): "."})

    # identities

    def tokens(self) -> ProjectedDirectory:
        """The projected volume."""
        return ProjectedDirectory(self.folder / "tokens", clock=self._clock)

    def put(self, token: bytes) -> None:
        """This is the token from now on."""
        self.tokens().write({"token": token})

    def token(self, *, audience: str | Sequence[str] = AUDIENCE, lifetime_s: float = HOUR_S, **claims: object) -> bytes:
        """One that the broker accepts, unless told otherwise."""
        return self.authority.service_account_token(audience=audience, lifetime_s=lifetime_s, **claims)

    async def serve_svids(self, answer: Callable[[JwtSvidRequest], Awaitable[Outcome]]) -> None:
        """A Workload API at the page's socket."""
        api = WorkloadApi(answer)
        self._stack.push_async_callback(api.close)
        await api.start_unix(str(self.folder / "agent.sock"))

    def later(self, seconds: float) -> float:
        """An instant from now, as a claim says it."""
        return int(self._clock.wall() + seconds)


def _replaced(text: str, words: dict[str, str]) -> str:
    """Each word of `words` by its other, in one pass, the longest first."""
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(rf"(?:{pattern})(?![\w-])", lambda found: words[found[0]], text)


SETTINGS = """
ROBIN_UPSTREAM_URL=https://broker.example:8443
ROBIN_AUDIENCE=broker.example
ROBIN_TOKEN_FILE=/var/run/secrets/tokens/token
ROBIN_SPIFFE_SOCKET=unix:///run/spire/sockets/agent.sock
"""


async def _settings(stage: Stage) -> None:
    """For a page that does not begin with settings."""
    stage.settings(SETTINGS)


async def _file(stage: Stage) -> None:
    stage.put(stage.token())


async def _missing(stage: Stage) -> None:
    (stage.folder / "tokens" / "token").unlink()


async def _expired(stage: Stage) -> None:
    stage.put(stage.token(lifetime_s=-300))


async def _early(stage: Stage) -> None:
    stage.put(stage.token(nbf=stage.later(600)))


async def _other_audience(stage: Stage) -> None:
    stage.put(stage.token(audience="https://kubernetes.default.svc"))


async def _cut_short(stage: Stage) -> None:
    stage.put(stage.token()[:-20])


async def _tls(stage: Stage) -> None:
    (stage.folder / "private-ca.pem").write_text(stage.certificates.ca_pem.decode())


def _svid(stage: Stage, path: str, audiences: Sequence[str], hint: str = "") -> JwtSvid:
    token = stage.authority.jwt_svid(audience=list(audiences), path=path, lifetime_s=300)
    return JwtSvid(spiffe_id=f"spiffe://example.org{path}", svid=Secret(token), hint=hint)


async def _svids(stage: Stage) -> None:
    """With `settings`."""
    stage.settings("ROBIN_TOKEN_SOURCE=jwtsvid\n")


async def _spiffe(stage: Stage) -> None:
    async def answer(request: JwtSvidRequest) -> Outcome:
        offered = (_svid(stage, "/agent", request.audiences, "internal"), _svid(stage, "/reporter", request.audiences, "external"))
        return tuple(one for one in offered if request.spiffe_id in ("", one.spiffe_id))

    await stage.serve_svids(answer)


async def _denied(stage: Stage) -> None:
    async def answer(_: JwtSvidRequest) -> Outcome:
        return Refusal(code="PermissionDenied", text="no identity issued")

    await stage.serve_svids(answer)


async def _refused(stage: Stage) -> None:
    async def answer(_: JwtSvidRequest) -> Outcome:
        return Refusal(code="InvalidArgument", text="invalid audience")

    await stage.serve_svids(answer)


WORDS: dict[str, Callable[[Stage], Awaitable[None]]] = {
    "settings": _settings,
    "file": _file,
    "missing": _missing,
    "expired": _expired,
    "early": _early,
    "other-audience": _other_audience,
    "cut-short": _cut_short,
    "tls": _tls,
    "svids": _svids,
    "spiffe": _spiffe,
    "denied": _denied,
    "refused": _refused,
}
"""Every word that a stage comment may have; they are played in the order in which the comment names them."""
