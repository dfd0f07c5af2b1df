"""Reloads of the gateway: at SIGHUP, and when robin.yaml or a profile holds something else; whole, or not at all.

The files are looked at once a second by their `stat`, and read every ten seconds, since not every file system shows a change there. A
change is read once the files have been still for a quarter second. Settings are read and compiled in a thread: hundreds of profiles take
seconds. What a reload came to stands on the status page.
"""

import asyncio
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from robin.admin.pages import Page, Response
from robin.app.gateway_generation import Generation
from robin.app.plane import Parts
from robin.config.gateway_files import Contents
from robin.config.gateway_load import LoadedGateway
from robin.model.message import RequestHead
from robin.planes.gateway.canary import Canary
from robin.planes.gateway.metrics import GatewayMetrics
from robin.planes.gateway.settings import GatewaySettings
from robin.planes.gateway.slots import describe_slots
from robin.telemetry.logs import stack_of

_LOOK_S: Final = 1.0
_READ_S: Final = 10.0
_STILL_S: Final = 0.25
_SHOWN_MAX: Final = 5  # errors of the settings in one event
_CHANGES_MAX: Final = 20  # files that never rest are read all the same

Load = Callable[[], LoadedGateway]
"""Reads the settings again, and reports what is wrong with them. Called in a thread. Raises OSError."""

_FIXED: Final[dict[str, Callable[[GatewaySettings], object]]] = {
    "name": lambda settings: settings.name,
    "listeners": lambda settings: settings.listeners,
    "parent": lambda settings: settings.parent,
    "admin": lambda settings: (settings.admin, settings.probes),
    "audit": lambda settings: settings.audit,
}
"""What is read at the start only, by its key."""


def fixed_changes(old: GatewaySettings, new: GatewaySettings) -> tuple[str, ...]:
    """The keys that differ and are read at the start only."""
    return tuple(f"gateway.{key}" for key, part in _FIXED.items() if part(old) != part(new))


def _errors_of(loaded: LoadedGateway) -> str:
    """What is wrong with the settings: each error with its place, its code and its fix; `robin check gateway` shows all of them."""
    errors = [str(one) for one in loaded.diagnostics if one.severity == "error"]
    more = [f"And {len(errors) - _SHOWN_MAX} more."] if len(errors) > _SHOWN_MAX else []
    return " ".join(errors[:_SHOWN_MAX] + more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Exception):
    """Settings that cannot replace those in force: why, or the keys that need a restart."""

    error: str
    keys: tuple[str, ...] = ()


class Reloads:
    """Carries them out one after the other. `error` and `refused_keys` are of the last one, empty where it succeeded."""

    def __init__(
        self,
        parts: Parts,
        metrics: GatewayMetrics,
        *,
        load: Load | None,
        current: Callable[[], Generation],
        build: Callable[[LoadedGateway], Generation],
        use: Callable[[Generation], None],
        canary: Canary,
    ) -> None:
        """`build` may be called in a thread, and raises Refused; `use` puts a generation in force, or raises Refused."""
        self.error = ""
        self.refused_keys: tuple[str, ...] = ()
        self._parts = parts
        self._metrics = metrics
        self._load = load
        self._current = current
        self._build = build
        self._use = use
        self._canary = canary
        self._turn = asyncio.Lock()
        self._asked = self._begun = 0  # how many were asked for, and how many of them the last one that began is for
        self._unread = False  # robin.yaml could not be read then
        self._tried = current().loaded  # what was read last, whatever came of it

    async def reload(self, *, seen: Contents | None = None) -> None:
        """Read the settings, and put them in force. `seen`: not if this was read meanwhile."""
        asked = self._asked = self._asked + 1
        async with self._turn:
            if asked <= self._begun or seen == self._tried.contents:
                return  # one that began later has read the files
            self._begun = self._asked
            try:
                outcome = await asyncio.to_thread(self._prepare)
            except Exception as error:  # noqa: BLE001 - a bug of ours must end neither the watch nor what is in force
                self._parts.events.error("reload_failed", code="internal_error", stack=stack_of(error))
                outcome = Refused(error="internal_error: see the log of this Robin")
            self._conclude(outcome)

    def reload_now(self) -> None:
        """The same on the spot: nothing else runs meanwhile."""
        self._conclude(self._prepare())

    def _prepare(self) -> Generation | Refused:
        """The next generation, or why there is none."""
        if self._load is None:
            return Refused(error="this gateway has no file to read its settings from")
        try:
            self._unread = True
            loaded = self._tried = self._load()
            self._unread = False
        except OSError as error:
            self._tried = replace(self._tried, contents=self._tried.files.contents())
            return Refused(error=f"robin.yaml: {error.strerror or type(error).__name__}")
        if loaded.settings is None:
            return Refused(error=_errors_of(loaded))
        if keys := fixed_changes(self._current().settings, loaded.settings):
            return Refused(error=f"{', '.join(keys)}: a change needs a restart", keys=keys)
        try:
            return self._build(loaded)
        except Refused as refused:
            return refused

    def _conclude(self, outcome: Generation | Refused) -> None:
        if isinstance(outcome, Generation):
            try:
                self._use(outcome)
            except Refused as refused:
                outcome = refused
        if isinstance(outcome, Generation):
            self.error, self.refused_keys = "", ()
            self._metrics.reloads["ok"] += 1
            self._parts.events.info("config_loaded", generation=outcome.number, sha256=outcome.loaded.contents.sha256)
        else:
            self.error, self.refused_keys = outcome.error, outcome.keys
            self._metrics.reloads["refused"] += 1
            detail = f"{outcome.error.removesuffix('.')}; the settings before stay in force"
            self._parts.events.error("config_refused", keys=list(outcome.keys), detail=detail)

    async def watch(self) -> None:
        """Reload whenever the files hold something else than what was read last."""
        if self._load is None:
            return
        seen: object = None
        read_at = self._parts.loop.time()
        while True:
            await asyncio.sleep(_LOOK_S)
            files, now = self._tried.files, self._parts.loop.time()
            looked = await asyncio.to_thread(files.identities)
            if not (changed := looked != seen) and now - read_at < _READ_S:
                continue
            for _ in range(_CHANGES_MAX):
                seen = looked
                await asyncio.sleep(_STILL_S)
                looked = await asyncio.to_thread(files.identities)
                if looked == seen:
                    break
            read_at = now
            contents = await asyncio.to_thread(files.contents)
            if contents != self._tried.contents:
                await self.reload(seen=contents)
            elif changed and self._unread:
                await self.reload()

    # the status page

    def page(self, _: RequestHead) -> Response:
        """`/status/gateway`."""
        generation = self._current()
        settings = generation.settings
        canary = self._canary.state
        shown = {
            "generation": generation.number,
            "config_sha256": generation.loaded.contents.sha256,
            "loaded_at": datetime.datetime.fromtimestamp(int(generation.loaded_at), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "last_error": self.error or None,
            "refused_keys": self.refused_keys,
            "mode": "report" if settings.rules.report else "enforce",
            "ca": describe_slots(generation.slots, settings.bridge.sign_with, generation.authority),
            "ca_pending": generation.authority is not None and generation.authority.pending,
            "canary_up": None if canary is None else canary.up,
        }
        return Response(status=200, content_type="application/json", body=json.dumps(shown, indent=1).encode() + b"\n")

    @property
    def pages(self) -> dict[bytes, Page]:
        """The pages of the admin listener."""
        return {b"/status/gateway": self.page}
