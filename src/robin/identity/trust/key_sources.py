"""Where key sets come from: a file watched by `stat`, or a URL fetched through the issuer client; both keep the last good set for a while.

Rules to keep. `ready` never waits. A set that is due is fetched again behind the requests; one twice as old as `refresh_s` is used only
where a try to renew it has failed within the last `refresh_s`, and further tries run behind the requests then. One fetch runs at a time;
requests that leave do not stop it. No try starts within `min_refetch_s` of the one before.
"""

import asyncio
import errno
import math
import os
import re
import stat
from typing import Final, Protocol

from robin.identity.issuer import IssuerClient, IssuerRequest, IssuerUnreachable
from robin.identity.trust.keys import KEY_SET_LIMIT_BYTES, KeySet, KeySetRefused, parse_key_set
from robin.identity.trust.settings import JwksSettings
from robin.model.secret import Secret
from robin.transport.clock import Clock
from robin.transport.entropy import Entropy
from robin.transport.tasks import TaskOwner

_LOOK_S: Final = 1.0
_SETTLED_S: Final = 1.0  # a younger file can hide a second write within one tick of its clock
_OVERTIME_S: Final = 1.0  # how much longer than a fetch its requests wait, so that they see how it ended
_BEARER_LIMIT_BYTES: Final = 16384
_BEARER: Final = re.compile(rb"[\x21-\x7e]+")


class KeysUnavailable(Exception):
    """There is no key set young enough. `reason` is one word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeySource(Protocol):
    """Holds the key set of one issuer."""

    def ready(self) -> KeySet | None:
        """Return the key set if one may be used now, without awaiting; None when it must be obtained."""
        ...

    async def obtain(self) -> KeySet:
        """Return the key set after a bounded wait. Raises KeysUnavailable."""
        ...

    async def renew(self) -> KeySet:
        """Look for newer keys, since a token names an unknown one; at most once per `min_refetch_s`. Raises KeysUnavailable."""
        ...


class FileKeys:
    """A key set in a file. It is read again when its `stat` changes, looked at once per second at most."""

    __slots__ = ("_clock", "_found", "_good_at", "_keys", "_looked_at", "_max_stale_s", "_path", "failures", "reason")

    def __init__(self, path: str, *, clock: Clock, max_stale_s: float) -> None:
        self._path = path
        self._clock = clock
        self._max_stale_s = max_stale_s
        self._keys: KeySet | None = None
        self._found: tuple[int, ...] = ()  # the stat of the bytes that were read last
        self._good_at = -math.inf
        self._looked_at = -math.inf
        self.failures = 0
        self.reason = "not_read"

    def ready(self) -> KeySet | None:
        """Return the key set, after a `stat` if the last is more than a second ago."""
        now = self._clock.monotonic()
        if now - self._looked_at >= _LOOK_S:
            self._look(now)
        return self._keys if now - self._good_at < self._max_stale_s else None

    async def obtain(self) -> KeySet:
        """Return the key set. Raises KeysUnavailable."""
        keys = self.ready()
        if keys is None:
            raise KeysUnavailable(self.reason)
        return keys

    async def renew(self) -> KeySet:
        """Look at the file once more."""
        return await self.obtain()

    def _look(self, now: float) -> None:
        self._looked_at = now
        try:
            status = os.stat(self._path)
            found = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if found != self._found or self.reason:
                self._keys = parse_key_set(_read(self._path, KEY_SET_LIMIT_BYTES))
                settled = abs(self._clock.wall() - max(status.st_mtime, status.st_ctime)) > _SETTLED_S
                self._found = found if settled else ()
            self._good_at, self.reason = now, ""
        except KeySetRefused as refused:
            self.failures, self.reason = self.failures + 1, refused.reason
        except OSError:
            self.failures, self.reason = self.failures + 1, "unreadable"


class UrlKeys:
    """A key set at a URL. `fetches` counts by result: `ok`, or the reason word of a failure."""

    __slots__ = (
        "_client",
        "_clock",
        "_done",
        "_due_at",
        "_entropy",
        "_failed_at",
        "_fetched_at",
        "_keys",
        "_settings",
        "_tasks",
        "_tried_at",
        "_url",
        "fetches",
        "reason",
    )

    def __init__(self, url: str, settings: JwksSettings, client: IssuerClient, *, clock: Clock, entropy: Entropy, tasks: TaskOwner) -> None:
        self._url = url
        self._settings = settings
        self._client = client
        self._clock = clock
        self._entropy = entropy
        self._tasks = tasks
        self._keys: KeySet | None = None
        self._fetched_at = self._tried_at = self._due_at = self._failed_at = -math.inf
        self._done: asyncio.Future[None] | None = None  # of the running fetch
        self.fetches: dict[str, int] = {}
        self.reason = "not_fetched"

    @property
    def age_s(self) -> float:
        """Seconds since the key set in use was fetched; infinity without one."""
        return self._clock.monotonic() - self._fetched_at

    def ready(self) -> KeySet | None:
        """Return the key set while it is young, and start a fetch behind it when it is due."""
        now = self._clock.monotonic()
        if now >= self._due_at and self._done is None and now - self._tried_at >= self._settings.min_refetch_s:
            self._start(now)
        age_s = now - self._fetched_at
        if age_s < 2 * self._settings.refresh_s:
            return self._keys
        if now - self._failed_at < self._settings.refresh_s and age_s < self._settings.max_stale_s:
            return self._keys  # the try that was due has failed; the next one runs behind the requests
        return None

    async def obtain(self) -> KeySet:
        """Return the key set after the running fetch, if there is none that is young. Raises KeysUnavailable."""
        keys = self.ready()
        if keys is None and self._done is not None:
            await self._wait()
            keys = self.ready()
        if keys is None:
            raise KeysUnavailable(self.reason)
        return keys

    async def renew(self) -> KeySet:
        """Wait for a fetch: the running one, or a new one unless the last began less than `min_refetch_s` ago."""
        now = self._clock.monotonic()
        if self._done is None and now - self._tried_at >= self._settings.min_refetch_s:
            self._start(now)
        await self._wait()
        return await self.obtain()

    async def _wait(self) -> None:
        if self._done is not None:
            await asyncio.wait((self._done,), timeout=self._settings.fetch_timeout_s + _OVERTIME_S)

    def _start(self, now: float) -> None:
        self._tried_at = now
        self._done = asyncio.get_running_loop().create_future()
        self._tasks.start(self._run_fetch(self._done), "key set fetch")

    async def _run_fetch(self, done: asyncio.Future[None]) -> None:
        began_at, result = self._clock.monotonic(), "internal"
        try:
            self._keys = await self._fetch()
            result = "ok"
            self._fetched_at = began_at
            self._due_at = began_at + self._settings.refresh_s * (1 - self._entropy.uniform() / 10)  # a fleet must not refresh as one
        except KeySetRefused as refused:
            result = refused.reason
        except TimeoutError:
            result = "timeout"
        except IssuerUnreachable as unreachable:
            result = unreachable.reason
        finally:
            self.fetches[result] = self.fetches.get(result, 0) + 1
            self.reason = "" if result == "ok" else result
            self._failed_at = -math.inf if result == "ok" else self._clock.monotonic()
            self._done = None
            done.set_result(None)

    async def _fetch(self) -> KeySet:
        fields: tuple[tuple[str, Secret], ...] = (("Accept", Secret(b"application/jwk-set+json, application/json")),)
        if self._settings.bearer_file is not None:
            try:
                bearer = _read(self._settings.bearer_file, _BEARER_LIMIT_BYTES).strip()
            except OSError:
                raise KeySetRefused("bearer_unreadable") from None
            if len(bearer) > _BEARER_LIMIT_BYTES or _BEARER.fullmatch(bearer) is None:
                raise KeySetRefused("bearer_unreadable")
            fields = (*fields, ("Authorization", Secret(b"Bearer " + bearer)))
        request = IssuerRequest(method="GET", url=self._url, fields=fields, ca_file=self._settings.ca_file, limit_bytes=KEY_SET_LIMIT_BYTES)
        deadline_at = asyncio.get_running_loop().time() + self._settings.fetch_timeout_s
        async with asyncio.timeout_at(deadline_at):
            response = await self._client.send(request, deadline_at)
        if response.status != 200:  # a redirect too: it could name another party's keys
            raise KeySetRefused(f"status_{response.status}")
        return parse_key_set(response.body.reveal())


def build_key_source(settings: JwksSettings, *, client: IssuerClient, clock: Clock, entropy: Entropy, tasks: TaskOwner) -> KeySource:
    """Return the source that the settings describe."""
    if settings.file is not None:
        return FileKeys(settings.file, clock=clock, max_stale_s=settings.max_stale_s)
    assert settings.url is not None
    return UrlKeys(settings.url, settings, client, clock=clock, entropy=entropy, tasks=tasks)


def _read(path: str, limit_bytes: int) -> bytes:
    """Return the regular file, cut one byte above the limit so that its reader can refuse it. Raises OSError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # reading a FIFO gives None while its writer is silent
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(limit_bytes + 1)
