"""`robin lockdown` with Debian's nft in a network of its own: what it leaves open, and that it fails closed (item E65)."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.real.parts import debian
from tests.real.parts.pod_network import __file__ as POD_NETWORK

pytestmark = pytest.mark.real

ROBIN = [sys.executable, "-m", "robin.cli.main", "lockdown"]
GATEWAY = ["--gateway", "10.9.0.2:8081", "--gateway", "[fd00:9::2]:8081"]
LIES = """#!{python}
import subprocess, sys
nft, words, kept = {nft!r}, sys.argv[1:], {kept!r}
if words[0] == "-f":  # IPv4 alone is filtered
    script = sys.stdin.read()
    lines = [line for line in script.splitlines() if "ip6" not in line and "icmpv6" not in line]
    sys.exit(subprocess.run([nft, "-f", "-"], input="\\n".join(lines).replace("inet", "ip") + "\\n", text=True).returncode)
print(open(kept).read())  # and what is read back is what was to be written
"""


def run_in_pod(*commands: list[str], look: bool = True) -> tuple[dict[str, bool], list[dict[str, Any]]]:
    """What could be reached before, and what came of each command; `look`: what can be reached then too, else behind the last alone."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: this needs root, for network namespaces and nft")
    debian.ensure_debian("nft", "ip")
    ended = subprocess.run(
        ["unshare", "--net", sys.executable, POD_NETWORK],
        input=json.dumps([{"run": command, "look": look or command is commands[-1]} for command in commands]) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    before, *after = map(json.loads, ended.stdout.splitlines())
    return before, after


def open_in(found: dict[str, bool]) -> set[str]:
    return {name for name, reached in found.items() if reached}


def test_e65_only_the_gateway_and_the_name_servers_of_the_mode_stay_reachable() -> None:
    gateway = {"tcp 10.9.0.2:8081", "tcp fd00:9::2:8081"}
    dns = {f"{protocol} {host}:53" for protocol in ("udp", "tcp") for host in ("10.9.0.2", "fd00:9::3")}
    before, (none, custom, repeated) = run_in_pod(
        [*ROBIN, *GATEWAY],
        [*ROBIN, *GATEWAY, "--dns", "10.9.0.2", "--dns", "[fd00:9::3]:53"],
        [*ROBIN, "--gateway", "10.9.0.2:8081"],
    )
    assert all(before.values()), before
    assert (none["code"], open_in(none["reachable"])) == (0, gateway)
    assert (custom["code"], open_in(custom["reachable"])) == (0, gateway | dns)
    assert (repeated["code"], open_in(repeated["reachable"])) == (0, {"tcp 10.9.0.2:8081"})


def test_e65_what_cannot_be_proven_to_be_closed_is_exit_1(tmp_path: Path) -> None:
    nft = str(debian.ensure_debian("nft")["nft"])
    kept, lies = tmp_path / "kept.json", tmp_path / "nft"
    lies.write_text(LIES.format(python=sys.executable, nft=nft, kept=str(kept)))
    lies.chmod(lies.stat().st_mode | stat.S_IXUSR)
    no_rights = ["setpriv", "--bounding-set", "-net_admin"]
    _, outcomes = run_in_pod(
        [*ROBIN, *GATEWAY, "--nft", "/bin/false"],
        [*ROBIN, *GATEWAY, "--nft", "/nowhere/nft"],
        [*no_rights, *ROBIN, *GATEWAY],
        [*ROBIN, *GATEWAY],
        ["/bin/sh", "-c", f"{nft} -j list table inet robin > {kept} && {nft} delete table inet robin"],
        [*ROBIN, *GATEWAY, "--nft", str(lies)],
        look=False,
    )
    failed, absent, unprivileged, good, _, lied = outcomes
    for outcome in (failed, absent, unprivileged):
        assert outcome["code"] == 1
        assert outcome["said"].startswith("robin: this pod is not locked down: ")
    assert "NET_ADMIN" in unprivileged["said"]
    assert good["code"] == 0
    assert (lied["code"], "IPv6 still goes out" in lied["said"]) == (1, True)
    assert {name for name in open_in(lied["reachable"]) if " 10." in name} == {"tcp 10.9.0.2:8081"}  # and what was closed stays so
