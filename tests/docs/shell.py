"""One bash for all commands of a page, as a reader has one: its jobs, its folder and its variables last from each command to the next.

The ports that a page calls 4000 and 4001 are this shell's for as long as it lives: a Robin that a page starts while one still runs finds
them taken, as the reader's would.
"""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

COMMAND_LIMIT_S = 40.0
END_LIMIT_S = 30.0
_MARK = "-- ended with"
_DONE = re.compile(r"^\[\d+\][+-]? +Done .*\n", re.MULTILINE)


class Shell:
    """`async with Shell() as shell:`; then `run(command)`. What still runs behind it at the end is ended with it."""

    def __init__(self) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._bash: asyncio.subprocess.Process
        self.code = 0
        self.proxy: str
        self.admin: str

    async def __aenter__(self) -> Self:
        self.proxy, self.admin = (f"127.0.0.1:{self._keep_port()}" for _ in range(2))
        self._bash = await asyncio.create_subprocess_exec(
            *("/bin/bash", "--noprofile", "--norc"),
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._stack.push_async_callback(self._end)
        await self.run(
            "set -m; trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT"
        )  # jobs as at a prompt, ended even when the tests are killed
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def run(self, command: str) -> str:
        """What the command says, standard error included; `code` is its exit code. A job in the background ends by the page's own words."""
        if command.rstrip().endswith("&"):
            running = await self._say("jobs -r")
            assert not running, f"{command}: the page has not ended the one before, which holds its ports: {running}"
        return _DONE.sub("", await self._say(command))

    async def _say(self, command: str) -> str:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{\n{command}\n}} < /dev/null\nprintf '\\n{_MARK} %d\\n' $?\n".encode())
        try:
            async with asyncio.timeout(COMMAND_LIMIT_S):
                said = await self._bash.stdout.readuntil(f"\n{_MARK} ".encode())
                self.code = int(await self._bash.stdout.readline())
        except TimeoutError:
            raise AssertionError(f"{command}: did not end in {COMMAND_LIMIT_S:g} s") from None
        return said.decode().removesuffix(f"\n{_MARK} ")

    async def _end(self) -> None:
        """End of input: bash ends its jobs, then itself. One that hangs in a command is killed together with that."""
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        try:
            async with asyncio.timeout(END_LIMIT_S):
                await self._bash.communicate()
        except TimeoutError:
            jobs = Path(f"/proc/{self._bash.pid}/task/{self._bash.pid}/children").read_text().split()
            for group in (self._bash.pid, *map(int, jobs)):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            await self._bash.wait()

    def _keep_port(self) -> int:
        """Bound and never listened on: nobody is given this port by chance, and a listener may still take it."""
        keeper = self._stack.enter_context(socket.socket())
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        port: int = keeper.getsockname()[1]
        return port
