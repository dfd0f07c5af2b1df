"""The demonstration `grants` as people start it: G55 and, as far as its own process can show it, G56 of grants.md."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SERVICE = """\
NAME called with path /:
  sub: [0-9a-f]{32}
  aud: NAME
  iss: http://127.0.0.1:BASE
  scope: NAME profile email
  azp: spiffe://robin.local/demo/agent
  client_id: spiffe://robin.local/demo/agent
NAME accepted request path=/ aud="NAME" scope="NAME profile email" client_id=spiffe://robin.local/demo/agent
"""
CHECKS = """\
check ok: direct call without Robin -> 401
check ok: alpha's token at beta -> 403
check ok: 50 concurrent cold calls -> 1 token request per audience
check ok: app has no identity, no socket, no token
demo grants: PASS 6/6
"""


def robin(*words: str, folder: Path, before: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Its session is its own, and nothing of that is left."""
    command = [*before, sys.executable, "-m", "robin.cli.main", "up", "--demo", "grants", *words]
    env = {"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=env, start_new_session=True) as run:
        out, err = run.communicate(timeout=60)
    assert sessions().count(run.pid) == 0, "a process was left"
    return subprocess.CompletedProcess(command, run.returncode, out, err)


def sessions() -> list[int]:
    """That of each process of this machine."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            found.append(int(stat.read_text().rpartition(")")[2].split()[3]))
    return found


def held(port: int) -> socket.socket:
    """A port that is ours alone: refused where anything has it, and from then on the demonstration may listen there beside us."""
    holder = socket.socket()
    try:
        holder.bind(("127.0.0.1", port))  # without SO_REUSEADDR, with which it would be ours beside another test
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        holder.close()
        raise
    return holder


@contextmanager
def four_ports() -> Iterator[list[socket.socket]]:
    """Four ports in a row, held."""
    while True:
        with ExitStack() as stack:
            ports = [stack.enter_context(held(0))]
            base = ports[0].getsockname()[1]
            try:
                ports += [stack.enter_context(held(base + at)) for at in (1, 2, 3)]
            except (OSError, OverflowError):  # one of them is taken, or there is none
                continue
            yield ports
            return


def test_g55_its_output_is_that_of_the_spec_and_nothing_is_left(tmp_path: Path) -> None:
    with four_ports() as ports:
        base = ports[0].getsockname()[1]
        done = robin("--port-base", str(base), folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        expected = re.escape(SERVICE).replace(re.escape("[0-9a-f]{32}"), "[0-9a-f]{32}").replace("BASE", str(base))
        assert re.fullmatch(expected.replace("NAME", "alpha") + expected.replace("NAME", "beta") + re.escape(CHECKS), done.stdout)
        for port in ports:
            port.listen()  # refused where something else listens
    assert list(tmp_path.iterdir()) == []


def test_g55_it_needs_no_network_and_ten_seconds(tmp_path: Path, own_network: tuple[str, ...]) -> None:
    took = list[float]()
    while not took or took[-1] >= 10:  # a machine that is busy with something else may need a second try
        assert len(took) < 3, took
        began = time.monotonic()
        done = robin(folder=tmp_path, before=own_network)  # the ports are the default ones: nothing else is in that network
        took.append(time.monotonic() - began)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(CHECKS)
        assert "iss: http://127.0.0.1:18080\n" in done.stdout


def test_g55_with_json_there_is_one_object_and_a_busy_port_is_named(tmp_path: Path) -> None:
    with four_ports() as ports:
        base = ports[0].getsockname()[1]
        done = robin("--json", "--port-base", str(base), folder=tmp_path)
        assert {"demo": "grants", "passed": True, "ok": 6, "total": 6}.items() <= json.loads(done.stdout).items()
        ports[2].listen()
        refused = robin("--port-base", str(base), folder=tmp_path)
        assert (refused.returncode, str(base + 2) in refused.stderr) == (2, True)
