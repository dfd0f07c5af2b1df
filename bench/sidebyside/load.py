"""The other end of bench/load's standard input: one order, one answer, both JSON."""

import json
import subprocess
from pathlib import Path
from typing import Self

from sidebyside.machine import pinned


class Refused(Exception):
    """The load generator could not finish an order; its reason."""


class Load:
    """Load generator and both upstreams, in one process on the load core."""

    def __init__(self, program: Path, pki: Path, core: int) -> None:
        self._command = [str(program), "-token", str(pki / "token"), "-tls", str(pki)]
        self._core = core

    def __enter__(self) -> Self:
        with pinned(self._core):
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        greeting = self._read()
        self.upstream, self.tls_upstream = str(greeting["upstream"]), str(greeting["tls_upstream"])
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def order(self, op: str, target: str, **details: object) -> dict[str, float]:
        """Have one order carried out; raises Refused with the generator's reason."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"op": op, "target": target, "direct": target == self.upstream, **details}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        if "error" in answer:
            raise Refused(f"{op} {target}: {answer['error']}")
        return answer

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Refused(f"bench/load ended with {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        return answer


class WorkloadApi:
    """bench/load's SPIFFE Workload API, in a process of its own until we leave."""

    def __init__(self, program: Path, pki: Path, core: int) -> None:
        self._command = [str(program), "-token", str(pki / "token"), "-workload-api", str(pki / "workload.sock")]
        self._core = core

    def __enter__(self) -> str:
        """The path of its socket."""
        with pinned(self._core):
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        socket: str = json.loads(self._process.stdout.readline())["socket"]
        return socket

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
