"""One case of the hostile corpus through Robin to a foreign origin, and where the origin's reading differs from the corpus' verdict.

The verdicts come from the sidecar's specification and are held, for the bytes that Robin sends, by tests/conformance. After every case a
sentinel request asks how many messages the origin has read: a second one that nobody answered to shows there.
"""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.corpus.cases import Answered, Cut, Either, Forwarded, Refused, RequestCase, Verdict
from tests.corpus.rig import Answer, Caller, open_caller, unsigned_token

from robin.testing.process import SidecarProcess
from robin.testing.waiting import eventually

SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: localhost\r\n\r\n"
VIA = re.compile(rb"1\.1 robin-[0-9a-f]{8}\Z")
MADE_BY_ROBIN = {b"host", b"authorization", b"via", b"content-length", b"transfer-encoding", b"te"}

Values = dict[bytes, list[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One message as the origin read it; field names in lower case, the values of each in their order."""

    method: bytes
    target: bytes
    fields: Values
    body: bytes


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of the cases: `refused` by the origin (case ids), `differs` in words, the others by their number."""

    agreed: int = 0
    by_robin: int = 0
    refused: set[str] = field(default_factory=set)
    differs: list[str] = field(default_factory=list)


class Trial:
    """Robin in front of one origin, at base `/` and at base `/b`."""

    def __init__(self, plain: SidecarProcess, based: SidecarProcess, *, authority: bytes, token: bytes) -> None:
        self.tally = Tally()
        self.count = 0
        self._plain = plain
        self._based = based
        self._authority = authority
        self._token = token

    async def sentinel(self) -> int:
        """How many messages the origin has read, this one included."""
        caller = await self._caller(self._plain)
        caller.send(SENTINEL)
        answer = await caller.answer()
        await caller.leave()
        reading, count = _read(answer, b"GET")
        assert (reading.method, reading.target, reading.body) == (b"GET", b"/sentinel", b""), f"the sentinel arrived as {reading}"
        return count

    async def put(self, case: RequestCase, *, ignored: frozenset[bytes], tabs_are_spaces: bool) -> None:
        """Send it, compare every answer, and count what the origin read."""
        caller = await self._caller(self._based if case.base else self._plain)
        caller.send(case.raw)
        read = 0
        for verdict in case.verdicts:
            if isinstance(verdict, Cut):
                await eventually(lambda: caller.peer.transport.get_write_buffer_size() == 0, what="the kernel to take the request")
                assert await self.sentinel() == self.count + read + 1
                self.count += 1
                break
            answer = await caller.answer(_method(verdict))
            if answer.value(b"Proxy-Status") is not None:
                self._refused_by_robin(case, verdict, answer)
            elif answer.status == 204 and answer.value(b"Allow") is not None and _allows(verdict, Answered):
                self.tally.by_robin += 1
            elif answer.value(b"X-Origin") is None:
                self.tally.refused.add(case.id)
            else:
                read += 1
                self._compare(case, verdict, answer, ignored=ignored, tabs_are_spaces=tabs_are_spaces)
            if answer.value(b"Connection") == b"close":
                break
        await caller.leave()
        count = await self.sentinel()
        if count != self.count + read + 1:
            self.tally.differs.append(f"{case.id}: the origin read {count - self.count - 1} messages, Robin sent {read}")
        self.count = count

    def _refused_by_robin(self, case: RequestCase, verdict: Verdict, answer: Answer) -> None:
        code = (answer.value(b"Proxy-Status") or b"").partition(b'details="')[2].rstrip(b'"').decode()
        if any(isinstance(option, Refused) and option.code == code for option in _options(verdict)):
            self.tally.by_robin += 1
        elif code == "upstream_closed" and _allows(verdict, Forwarded):  # the origin hung up instead of an answer
            self.tally.refused.add(case.id)
        else:
            self.tally.differs.append(f"{case.id}: Robin says {code}, the corpus {verdict}")

    def _compare(self, case: RequestCase, verdict: Verdict, answer: Answer, *, ignored: frozenset[bytes], tabs_are_spaces: bool) -> None:
        wanted = [option for option in _options(verdict) if isinstance(option, Forwarded)]
        if not wanted:
            self.tally.differs.append(f"{case.id}: forwarded, but the corpus says {verdict}")
            return
        reading, _ = _read(answer, wanted[0].method)
        before = len(self.tally.differs)
        expected: Values = defaultdict(list)
        for name, value in wanted[0].fields:
            expected[name.lower()].append(value.replace(b"\t", b" ") if tabs_are_spaces else value)
        got = {name: values for name, values in reading.fields.items() if name not in MADE_BY_ROBIN | ignored}
        pairs: dict[str, tuple[Any, Any]] = {
            "method": (reading.method, wanted[0].method),
            "target": (reading.target, wanted[0].target),
            "body": (reading.body, wanted[0].body),
            "fields": (got, {name: values for name, values in expected.items() if name not in MADE_BY_ROBIN}),
            "Host": (reading.fields[b"host"], [self._authority]),
            "Authorization": (reading.fields[b"authorization"], [b"Bearer " + self._token]),
        }
        for what, (found, right) in pairs.items():
            if found != right:
                self.tally.differs.append(f"{case.id}: {what} {found!r:.300} instead of {right!r:.300}")
        if not VIA.search(reading.fields[b"via"][-1]):
            self.tally.differs.append(f"{case.id}: Via {reading.fields[b'via']}")
        self.tally.agreed += len(self.tally.differs) == before

    async def _caller(self, robin: SidecarProcess) -> Caller:
        host, _, port = robin.listen[0].rpartition(":")
        return await open_caller(host, int(port))


@asynccontextmanager
async def trial(folder: Path, origin_url: str) -> AsyncIterator[Trial]:
    """Both sidecars started, and the origin's count known."""
    token = unsigned_token()
    (folder / "token").write_bytes(token)
    settings = {"ROBIN_TOKEN_FILE": str(folder / "token"), "ROBIN_UPSTREAM_RESPONSE_TIMEOUT": "20s"}
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(SidecarProcess(upstream_url=origin_url, settings=settings))
        based = await stack.enter_async_context(SidecarProcess(upstream_url=f"{origin_url}/b", settings=settings))
        await plain.started()
        await based.started()
        made = Trial(plain, based, authority=origin_url.removeprefix("http://").encode(), token=token)
        made.count = await made.sentinel()
        yield made


def _options(verdict: Verdict) -> tuple[Verdict, ...]:
    return verdict.verdicts if isinstance(verdict, Either) else (verdict,)


def _allows(verdict: Verdict, kind: type) -> bool:
    return any(isinstance(option, kind) for option in _options(verdict))


def _method(verdict: Verdict) -> bytes:
    return next((option.method for option in _options(verdict) if isinstance(option, Forwarded)), b"GET")


def _read(answer: Answer, method: bytes) -> tuple[Reading, int]:
    """What the origin said it read, and its count."""
    document = json.loads((answer.value(b"X-Echo") or b"") if method == b"HEAD" else answer.body)
    fields: Values = defaultdict(list)
    for name, value in document["fields"]:
        fields[bytes.fromhex(name).lower()].append(bytes.fromhex(value))
    told = {name: bytes.fromhex(document[name]) for name in ("method", "target", "body")}
    return Reading(fields=fields, **told), document["n"]
