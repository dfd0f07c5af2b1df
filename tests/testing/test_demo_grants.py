"""The demonstration `grants` as people start it: G55 and, as far as its own process can show it, G56 of grants.md."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from robin.testing.process import free_port
from robin.testing.server import hold_port

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


def robin(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "robin.cli.main", "up", "--demo", "grants", *words]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"}
    )


def free_base() -> int:
    """The first of four ports that are free now."""
    while True:
        base = free_port()
        if base < 65000 and all(not _is_taken(base + at) for at in range(4)):
            return base


def _is_taken(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def test_g55_its_output_is_that_of_the_spec_and_nothing_is_left(tmp_path: Path) -> None:
    base, began = free_base(), time.monotonic()
    done = robin("--port-base", str(base), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 20
    expected = re.escape(SERVICE).replace(re.escape("[0-9a-f]{32}"), "[0-9a-f]{32}").replace("BASE", str(base))
    assert re.fullmatch(expected.replace("NAME", "alpha") + expected.replace("NAME", "beta") + re.escape(CHECKS), done.stdout)
    assert not any(_is_taken(base + at) for at in range(4))
    assert list(tmp_path.iterdir()) == []


def test_g55_with_json_there_is_one_object_and_a_busy_port_is_named(tmp_path: Path) -> None:
    base = free_base()
    done = robin("--json", "--port-base", str(base), folder=tmp_path)
    assert {"demo": "grants", "passed": True, "ok": 6, "total": 6}.items() <= json.loads(done.stdout).items()
    holder = hold_port("127.0.0.1", base + 2)
    holder.listen()
    try:
        refused = robin("--port-base", str(base), folder=tmp_path)
    finally:
        holder.close()
    assert (refused.returncode, str(base + 2) in refused.stderr) == (2, True)
