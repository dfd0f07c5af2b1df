"""The real gateway in this process, with identities that exist here alone: for demonstrations and tests on one machine."""

import asyncio
import gc
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from robin.app.gateway import Gateway, gateway_runtime
from robin.app.runtime import Runtime
from robin.config.diagnostic import Diagnostic
from robin.config.gateway_load import LoadedGateway, read_gateway
from robin.testing.embedded_identity import EmbeddedIdentities
from robin.transport.clock import Clock
from robin.transport.tasks import TaskOwner

_BIND_S: Final = 10.0
_POLL_S: Final = 0.002


class ConfigurationRefused(Exception):
    """The configuration has errors."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = diagnostics


class EmbeddedGateway:
    """`async with EmbeddedGateway(file, identities) as gateway:` serves what robin.yaml says.

    `port` is that of its first listener, `admin_port` that of the admin listener, 0 where there is none.

    Its log is `gateway.log` beside the file. The signals of the process are not its own: `reload` reads the file again.
    """

    def __init__(self, file: Path, identities: EmbeddedIdentities, *, clock: Clock | None = None) -> None:
        self.port = 0
        self.admin_port = 0
        self._file = file
        self._identities = identities
        self._clock = clock
        self._log_fd = -1
        self._tasks = TaskOwner(lambda _name, _error: None)  # the error of the one task is raised from its result
        self._served: asyncio.Task[int] | None = None
        self.runtime: Runtime

    async def __aenter__(self) -> Self:
        """Raises ConfigurationRefused, StartFailure."""
        loaded = self._load()
        if loaded.settings is None:
            raise ConfigurationRefused(loaded.diagnostics)
        self._log_fd = os.open(self._file.parent / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.runtime = gateway_runtime(loaded, self._identities, self._load, log_fd=self._log_fd, clock=self._clock)
        self._served = self._tasks.start(self.runtime.serve(), "gateway")
        try:
            async with asyncio.timeout(_BIND_S):
                while not self.runtime.started:
                    if self._served.done():
                        self._served.result()
                    await asyncio.sleep(_POLL_S)
        except BaseException:
            await self._close()
            raise
        self.port = int(self.runtime.listening[0].rpartition(":")[2])
        admin = self.runtime.admin_listening
        self.admin_port = int(admin[0].rpartition(":")[2]) if admin else 0
        return self

    async def __aexit__(self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.runtime.begin_drain()
        assert self._served is not None
        await asyncio.wait((self._served,), timeout=_BIND_S)
        await self._close()

    async def _close(self) -> None:
        await self._tasks.close()
        await self.runtime.close()
        os.close(self._log_fd)
        gc.unfreeze()  # the runtime froze what was alive, for a process life that this is not

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has written so far, events and records."""
        self.runtime.plane.flush()
        whole, _, _ = (self._file.parent / "gateway.log").read_text().rpartition("\n")  # the last line may be half written
        return [json.loads(line) for line in whole.splitlines()]

    def reload(self) -> None:
        """Read the file again, as for a SIGHUP: the next request on any connection meets it."""
        plane = self.runtime.plane
        assert isinstance(plane, Gateway)
        plane.reload_now()

    def _load(self) -> LoadedGateway:
        return read_gateway(str(self._file), self._identities.audiences)
