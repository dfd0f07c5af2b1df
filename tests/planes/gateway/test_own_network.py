"""A gateway in a network namespace of its own: the ports that it binds by itself, and addresses that no test may reach in this machine's.

Nothing but loopback is there, so whatever is dialled is unreachable; that it was dialled is counted as everywhere (`watched.py`).
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.descriptors import listening
from tests.planes.gateway.rig import WATCHED, code_of, running

from robin.testing.process import ROBIN, RobinProcess
from robin.testing.waiting import eventually


async def test_without_settings_only_the_two_ports_on_loopback_are_bound(tmp_path: Path, own_network: tuple[str, ...]) -> None:  # E1
    file = tmp_path / "robin.yaml"
    file.write_text("version: 1\ngateway: {}\n")
    async with RobinProcess("gateway", "--config", str(file), program=(*own_network, *ROBIN)) as robin:
        await robin.event("started")
        assert listening(robin.pid) == {("0100007F", 8081), ("0100007F", 9464)}
        robin.send_signal(signal.SIGKILL)  # its drain would take 5 s
        await robin.returned()


TRIED = [
    ("10.1.2.3", ""),  # E22
    ("10.2.0.1", "private"),
    ("64:ff9b::808:808", ""),  # E23
    ("64:ff9b::a00:1", "embedded"),
    ("64:ff9b::7f00:1", "embedded"),
]


async def test_a_private_network_and_a_nat64_prefix_are_dialled_where_they_are_named_and_nowhere_else(
    tmp_path: Path, own_network: tuple[str, ...]
) -> None:
    names = {address: f"n{at}.test" for at, (address, _) in enumerate(TRIED)}
    rules = [{"name": "named", "hosts": list(names.values()), "schemes": ["tcp"], "ports": [5432], "private": ["10.1.0.0/16"]}]
    section: dict[str, Any] = {
        "addresses": {"hosts": {name: [address] for address, name in names.items()}, "nat64_prefixes": ["64:ff9b::/96"]},
        "timeouts": {"connect": "1s"},
    }
    listener = {"listen": f"unix:{tmp_path}/s", "auth": "unix", "uids": [os.getuid()]}
    program = (*own_network, *WATCHED)
    async with running(tmp_path, rules, listener=listener, section=section, bridge=False, program=program) as rig:
        for address, refused in TRIED:
            before = rig.dials
            status, code = code_of(await (await rig.client()).connect(f"{names[address]}:5432"))
            assert rig.dials == [*before, *([] if refused else [(address, 5432)])]
            if refused:
                assert (status, code) == (403, "address_refused")
                assert (await rig.record("gateway.decision", host=names[address]))["why"] == refused
            else:
                assert (status, code) == (502, "unroutable")


NO_SUCH_NAME = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG: it ends with the gateway
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, open(sys.argv[1], "w", buffering=1) as log:
    sock.bind(("127.0.0.1", 53))
    print("ready", file=log)
    while True:
        query, asker = sock.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        print(".".join(labels) + ".", file=log)
        sock.sendto(query[:2] + bytes((0x81, 0x83)) + query[4:6] + bytes(6) + query[12 : at + 5], asker)
"""


async def test_the_name_server_of_resolv_conf_is_asked_and_its_search_list_is_not_used(
    tmp_path: Path, own_network: tuple[str, ...]
) -> None:  # E24
    (tmp_path / "resolv.conf").write_text("search evil.test\noptions ndots:5\nnameserver 127.0.0.1\n")
    (tmp_path / "server.py").write_text(NO_SUCH_NAME)
    script = f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf\n"{sys.executable}" {tmp_path}/server.py {tmp_path}/asked &\nexec "$@"'
    program = (*own_network, "unshare", "-m", "--propagation", "private", "/bin/sh", "-ec", script, "sh", *WATCHED)
    names = ["single", "x.test", "x.y.z.test"]
    rules = [{"name": "named", "hosts": names, "schemes": ["http"]}]
    listener = {"listen": f"unix:{tmp_path}/s", "auth": "unix", "uids": [os.getuid()]}
    section: dict[str, Any] = {"addresses": {"resolver": []}}
    async with running(tmp_path, rules, listener=listener, section=section, bridge=False, program=program) as rig:
        await eventually(lambda: (tmp_path / "asked").exists() and (tmp_path / "asked").read_text(), what="the name server")
        for name in names:
            assert code_of(await rig.get(f"http://{name}/")) == (502, "dns_failed")
        assert code_of(await rig.get("http://other/")) == (403, "rule_default")
        assert set((tmp_path / "asked").read_text().split()) == {"ready", *(f"{name}." for name in names)}
        assert rig.dials == []
