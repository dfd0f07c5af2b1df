"""A gateway in a network namespace of its own: the ports that it binds by itself, and addresses that no test may reach in this machine's.

Nothing but loopback is there, so whatever is dialled is unreachable; that it was dialled is counted as everywhere (`watched.py`).
"""

import os
import signal
from pathlib import Path
from typing import Any

from tests.descriptors import listening
from tests.planes.gateway.rig import WATCHED, code_of, running

from robin.testing.process import ROBIN, RobinProcess


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
