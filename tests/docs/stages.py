"""What stands behind a page's commands: an authority, a broker that verifies, an identity, and the folder in which the commands run.

A page speaks of `https://broker.example:8443`, `/var/run/secrets/tokens` and `127.0.0.1:4000`; a stage puts its own places in for them, and
the page's words back into what the commands say. Stages play with a token for the audience `broker.example`, valid for an hour, unless
told otherwise.
"""

import asyncio
import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.certificates import CertificateAuthority
from robin.testing.demo_broker import DemoBroker
from robin.testing.process import RobinProcess
from robin.testing.projected import ProjectedDirectory
from robin.testing.workload_api import Outcome, Refusal, WorkloadApi
from robin.transport.clock import SystemClock
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

AUDIENCE = "broker.example"
HOUR_S = 3600.0
PATIENCE_S = 10.0
COMMAND_LIMIT_S = 40.0


class Stage:
    """`async with Stage("file", "expired") as stage:`; then `settings(text)` and `run(command)` in the order of the page."""

    def __init__(self, *words: str) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._words = words
        self._clock = SystemClock()
        self.folder: Path
        self.robin: RobinProcess | None = None
        self._places: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        stack = self._stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs")))
        self.authority = IdentityAuthority(issuer="https://authority.robin.test", trust_domain="example.org", clock=self._clock)
        self.broker = DemoBroker(jwks=self.authority.jwks, issuer=self.authority.issuer, audience=AUDIENCE, clock=self._clock)
        if "tls" in self._words:
            self.certificates = CertificateAuthority(self.folder / "ca")
            self.broker.tls = self.certificates.issue("localhost").server_context()
        await stack.enter_async_context(self.broker)
        self._places = {
            "https://broker.example:8443": self.broker.url_as("localhost" if "tls" in self._words else "127.0.0.1"),
            "/var/run/secrets/tokens": str(self.folder / "tokens"),
            "/run/spire/sockets/agent.sock": str(self.folder / "agent.sock"),
            "/run/robin/robin.sock": str(self.folder / "robin.sock"),
            "/etc/robin/private-ca.pem": str(self.folder / "private-ca.pem"),
            "/etc/robin/robin.env": str(self.folder / "robin.env"),
        }
        for word in self._words:
            await WORDS[word](self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stop()
        await self._stack.aclose()

    def settings(self, text: str) -> None:
        """More lines for `robin.env`, in the folder of the commands."""
        with (self.folder / "robin.env").open("a") as file:
            file.write(self._real(text))

    async def run(self, command: str) -> str:
        """What the command says, standard error included, in the page's words. `robin ... &` stays until the next one, or the end."""
        if command.endswith("&"):
            await self._start(command.removesuffix("&").strip())
            return ""
        environ = {**self._environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(self.folder)}
        process = await asyncio.create_subprocess_exec(
            "/bin/bash",
            "-c",
            self._real(command),
            cwd=self.folder,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{command}: did not end in {COMMAND_LIMIT_S:g} s") from None
        self.code = process.returncode
        return self._shown(output.decode())

    # robin in the background

    async def _start(self, command: str) -> None:
        """`robin --config robin.env > robin.log`: on ports that the kernel picks, its log mirrored into the file."""
        await self._stop()
        words = shlex.split(self._real(command.replace("robin.env", str(self.folder / "robin.env"))))
        assert words[0] == "robin", command
        log = None
        if ">" in words:
            log = self.folder / words[words.index(">") + 1]
            words = words[: words.index(">")]
            log.write_text("")

        def mirror(_stream: str, text: str) -> None:
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{text}\n")

        self.robin = RobinProcess(*words[1:], settings=self._environ, on_line=mirror)
        await self.robin.start()
        bound = await self.robin.event("listening")
        listen = [place for place in bound["listen"] if not place.startswith("unix:")]
        self._places.update({"127.0.0.1:4001": bound["admin"][0]} | ({"127.0.0.1:4000": listen[0]} if listen else {}))

    async def _stop(self) -> None:
        if self.robin is not None:
            await self.robin.stop()
            self.robin = None

    @property
    def _environ(self) -> dict[str, str]:
        """Ports for what the page leaves to the defaults: 4000 and 4001 belong to whoever runs the tests."""
        written = (self.folder / "robin.env").read_text() if (self.folder / "robin.env").exists() else ""
        chosen = {} if "ROBIN_LISTEN_UDS" in written or "ROBIN_LISTEN_ADDR" in written else {"ROBIN_LISTEN_ADDR": "127.0.0.1:0"}
        return chosen if "ROBIN_ADMIN_ADDR" in written else {**chosen, "ROBIN_ADMIN_ADDR": "127.0.0.1:0"}

    # the page's words and ours

    def _real(self, text: str) -> str:
        ports = {"127.0.0.1:4000": "127.0.0.1:0", "127.0.0.1:4001": "127.0.0.1:0"}
        return _replaced(text, {**ports, **self._places})

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
