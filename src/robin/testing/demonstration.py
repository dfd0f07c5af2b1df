"""The whole of Robin's main job on one machine: an identity authority, a rotating identity, a demonstration broker and a real sidecar.

What happens is reported as values to one callback: TokenIssued, JudgedRequest (of the broker), SidecarResponse (a response that the sidecar
made itself) and LogLine (of the sidecar's log). Closing ends the child, the servers and the temporary folder, in that order.
"""

import asyncio
import contextlib
import json
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robin.model.secret import Secret
from robin.testing.authority import IdentityAuthority
from robin.testing.demo_broker import DemoBroker, JudgedRequest, fingerprint_of
from robin.testing.documents import DocumentServer
from robin.testing.process import SidecarProcess
from robin.testing.projected import ProjectedDirectory
from robin.testing.workload_api import Outcome, WorkloadApi
from robin.transport.clock import Clock, SystemClock
from robin.transport.tasks import TaskOwner
from robin.wire.workload_api import JwtSvid, JwtSvidRequest

AUDIENCE = "broker.robin.test"
SPIFFE_PATH = "/ns/demo/sa/agent"
FOLDER_PREFIX = "robin-up-"
LIFETIME_LEAST_S = 30.0
DRAIN_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssued:
    """A new token was issued. `fingerprint` as in JudgedRequest; `expires_at` in epoch seconds."""

    number: int
    fingerprint: str
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarResponse:
    """The sidecar responded to a request itself, or ended it; `outcome` is the reason."""

    method: str | None
    path: str | None
    status: int | None
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of the sidecar's log, at level warning or above, or not JSON."""

    level: str
    text: str


DemoEvent = TokenIssued | JudgedRequest | SidecarResponse | LogLine


class PortTaken(Exception):
    """`port` cannot be listened on."""

    def __init__(self, port: int, why: str) -> None:
        super().__init__(f"port {port} on 127.0.0.1 is not free ({why})")
        self.port = port


class Demonstration:
    """`async with Demonstration(on_event=...) as demonstration:` is ready when entered; `port` 0 lets the kernel choose both ports."""

    def __init__(
        self,
        *,
        on_event: Callable[[DemoEvent], None],
        source: str = "file",
        port: int = 4000,
        rotate_s: float = 20.0,
        clock: Clock | None = None,
    ) -> None:
        self.source = source
        self.rotate_s = rotate_s
        self.failed = asyncio.Event()
        self._on_event = on_event
        self._port = port
        self._clock = clock or SystemClock()
        self._rotations = 0
        self._tasks = TaskOwner(self._task_failed)
        self._stack = contextlib.AsyncExitStack()
        self._child: SidecarProcess | None = None
        self.folder: Path
        self.issuer: str
        self.identity: str  # the setting that leads another sidecar to the same identity
        self.broker: DemoBroker

    async def start(self) -> Self:
        """Start everything, in the order of dependence. PortTaken, ChildFailed or OSError: nothing is left running."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """End everything; repeatable."""
        await self._stack.aclose()

    def hurry(self) -> None:
        """Kill the sidecar instead of waiting for its drain."""
        if self._child is not None:
            self._child.send_signal(signal.SIGKILL)

    @property
    def sidecar(self) -> SidecarProcess:
        """The child."""
        assert self._child is not None, "not started"
        return self._child

    async def ended(self) -> str:
        """Wait until the demonstration cannot go on, and say why."""
        child = self._tasks.start(self.sidecar.returned(timeout_s=None), "the sidecar's end")
        failed = self._tasks.start(self.failed.wait(), "a failure")
        await asyncio.wait((child, failed), return_when=asyncio.FIRST_COMPLETED)
        if not child.done():
            return "the identity could not be rotated"
        tail = "".join(f"\n  {text}" for _, text in list(self.sidecar.lines)[-10:])
        return f"the sidecar ended with exit code {child.result()}; its last lines:{tail or ' (none)'}"

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _start(self) -> None:
        admin_port = self._port + 1 if self._port else 0
        for port in filter(None, (self._port, admin_port)):
            check_free(port)
        stack = self._stack
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX)))
        documents = await stack.enter_async_context(DocumentServer())
        authority = IdentityAuthority(issuer=documents.url, clock=self._clock)
        documents.publish(authority)
        self.issuer = authority.issuer
        self.broker = await stack.enter_async_context(
            DemoBroker(jwks=authority.jwks, issuer=authority.issuer, audience=AUDIENCE, clock=self._clock, on_request=self._on_event)
        )
        stack.push_async_callback(self._tasks.close)
        identity = self._start_projected(authority) if self.source == "file" else await self._start_workload_api(authority)
        key, place = next(iter(identity.items()))
        self.identity = f"{key}={place}"
        settings = {
            "ROBIN_LISTEN_ADDR": f"127.0.0.1:{self._port}",
            "ROBIN_ADMIN_ADDR": f"127.0.0.1:{admin_port}",
            "ROBIN_AUDIENCE": AUDIENCE,
            "ROBIN_TOKEN_SOURCE": self.source,
            "ROBIN_DRAIN_MAX": f"{DRAIN_S}s",
            **identity,
        }
        self._child = SidecarProcess(upstream_url=self.broker.url, settings=settings, on_line=self._line, keep_lines=1000)
        await stack.enter_async_context(self._child)
        await self._child.started()

    def _start_projected(self, authority: IdentityAuthority) -> dict[str, str]:
        volume = ProjectedDirectory(self.folder / "tokens", clock=self._clock)
        lifetime_s = max(2 * self.rotate_s, LIFETIME_LEAST_S)

        def rotate() -> None:
            token = authority.service_account_token(audience=AUDIENCE, lifetime_s=lifetime_s)
            volume.write({"token": token})
            self._rotated(token, lifetime_s)

        async def rotate_for_ever() -> None:
            while True:
                await asyncio.sleep(self.rotate_s)
                rotate()

        rotate()
        self._tasks.start(rotate_for_ever(), "rotation")
        return {"ROBIN_TOKEN_FILE": str(volume.token_file)}

    async def _start_workload_api(self, authority: IdentityAuthority) -> dict[str, str]:
        """Here the sidecar sets the pace: it asks again at half of a token's life."""
        lifetime_s = 2 * self.rotate_s

        async def answer(request: JwtSvidRequest) -> Outcome:
            token = authority.jwt_svid(audience=list(request.audiences), path=SPIFFE_PATH, lifetime_s=lifetime_s)
            self._rotated(token, lifetime_s)
            return (JwtSvid(spiffe_id=f"spiffe://{authority.trust_domain}{SPIFFE_PATH}", svid=Secret(token), hint=""),)

        api = WorkloadApi(answer)
        self._stack.push_async_callback(api.close)
        address = await api.start_unix(str(self.folder / "api.sock"))
        return {"ROBIN_SPIFFE_SOCKET": f"unix://{address.path}", "ROBIN_SVID_REFRESH_BEFORE": f"{int(self.rotate_s * 1000)}ms"}

    def _rotated(self, token: bytes, lifetime_s: float) -> None:
        self._rotations += 1
        self._on_event(TokenIssued(number=self._rotations, fingerprint=fingerprint_of(token), expires_at=self._clock.wall() + lifetime_s))

    def _line(self, stream: str, text: str) -> None:
        """One line of the sidecar: an exchange that the broker did not see, a warning, or words that are not JSON."""
        try:
            entry: Any = json.loads(text)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            self._on_event(LogLine(level="error" if stream == "stderr" else "info", text=text))
        elif entry.get("event") == "exchange":
            if entry.get("outcome") not in {"forwarded", "local_response"}:
                self._on_event(
                    SidecarResponse(
                        method=entry.get("method"), path=entry.get("path"), status=entry.get("status"), outcome=str(entry.get("outcome"))
                    )
                )
        elif entry.get("level") in {"warning", "error"}:
            rest = {key: value for key, value in entry.items() if key not in {"ts", "level", "event"}}
            self._on_event(LogLine(level=entry["level"], text=f"{entry.get('event')} {json.dumps(rest)}"))

    def _task_failed(self, _name: str, error: BaseException) -> None:
        self._on_event(LogLine(level="error", text=f"{type(error).__name__}: {error}"))
        self.failed.set()


def check_free(port: int) -> None:
    """PortTaken unless this port of 127.0.0.1 can be listened on now."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            raise PortTaken(port, error.strerror or "unknown") from None
