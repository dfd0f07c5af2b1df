"""go-spiffe as the judge of an upstream: its own validator, offline, with the bundle that its own client fetched from the Workload API.

A token whose key is not in the bundle makes it fetch the bundle once more, as a verifier that follows the bundle would have.
"""

import asyncio
import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.real.parts.spiffe import WorkloadApiRefused
from tests.real.parts.upstream import Verdict

ANSWER_TIMEOUT_S = 30.0


class TrustDomain(Protocol):
    """Whose tokens are judged: its name, a folder for the bundle, and where the bundle comes from."""

    @property
    def folder(self) -> Path: ...
    @property
    def trust_domain(self) -> str: ...
    @property
    def ask_program(self) -> Path: ...
    def fetch_bundle(self) -> Any: ...


class BundleJudge:
    """`async with BundleJudge(domain, audience=...) as judge:`; the child ends with its stdin."""

    def __init__(self, domain: TrustDomain, *, audience: str) -> None:
        self._domain = domain
        self._audience = audience
        self._file = domain.folder / "followed-bundle.json"
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None

    async def judge(self, token: str) -> Verdict:
        """What go-spiffe says."""
        async with self._turn:
            if not self._file.exists():
                await self._follow()
            answer = await self._say(token)
            if "no JWT authority" in answer.get("error", ""):
                await self._follow()
                answer = await self._say(token)
        if answer.get("error"):
            return Verdict(reason=answer["error"], claims={})
        return Verdict(subject=answer["spiffe_id"], expires_at=answer["expiry"], claims=answer["claims"])

    async def __aenter__(self) -> Self:
        arguments = ("-bundle", self._file, "-trust-domain", self._domain.trust_domain, "-audience", self._audience)
        pipe = asyncio.subprocess.PIPE
        self._child = await asyncio.create_subprocess_exec(self._domain.ask_program, "judge", *arguments, stdin=pipe, stdout=pipe)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.close()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await self._child.wait()

    async def _follow(self) -> None:
        """Fetch the bundle; while there is no agent the old one stands."""
        with contextlib.suppress(WorkloadApiRefused):
            bundle = await asyncio.to_thread(self._domain.fetch_bundle)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(bundle))
            fresh.rename(self._file)

    async def _say(self, token: str) -> dict[str, Any]:
        assert self._child is not None
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            self._child.stdin.write(token.encode() + b"\n")
            await self._child.stdin.drain()
            line = await self._child.stdout.readline()
        assert line, "go-spiffe's judge ended (has the bundle been fetched?)"
        found: dict[str, Any] = json.loads(line)
        return found
