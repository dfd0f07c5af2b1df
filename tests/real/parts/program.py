"""A real client as a program: it runs to its end with an environment of its own and tells what it got, one JSON object a line."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 90.0
TAIL = 3000


class ProgramFailed(AssertionError):
    """The client ended with a failure, or did not end in time; its own words are in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a program wrote; `returncode` as the kernel gives it."""

    returncode: int
    stdout: bytes
    stderr: str

    @property
    def told(self) -> dict[str, Any]:
        """The JSON lines `{"step": NAME, "got": VALUE}` on stdout, by their step."""
        lines = [json.loads(line) for line in self.stdout.decode().splitlines() if line.startswith("{")]
        return {line["step"]: line["got"] for line in lines}


async def run(
    command: Sequence[str | Path],
    *,
    home: Path,
    environment: Mapping[str, str] | None = None,
    feed: bytes = b"",
    limit_s: float = LIMIT_S,
    codes: tuple[int, ...] = (0,),
) -> Ended:
    """Run it with `home` as HOME and folder; ProgramFailed when it ends with another code than `codes`. Cancelled: it is killed."""
    chosen = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=home,
        env=chosen,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit_s):
            stdout, stderr = await process.communicate(feed)
    except TimeoutError:
        raise ProgramFailed(f"{command} did not end in {limit_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it started
            await process.wait()
    ended = Ended(returncode=process.returncode or 0, stdout=stdout, stderr=stderr.decode(errors="backslashreplace"))
    if ended.returncode not in codes:
        raise ProgramFailed(f"{command} ended with {ended.returncode}\n{ended.stderr[-TAIL:]}\n{stdout.decode(errors='replace')[-TAIL:]}")
    return ended
