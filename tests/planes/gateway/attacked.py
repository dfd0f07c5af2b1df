"""A gateway to attack: rules for names and addresses that it must never dial, and origins and a name server that count."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.planes.gateway.rig import Client, Rig, code_of, running

from robin.testing.certificates import CertificateAuthority

NEVER = {
    "10.0.0.7": "private",
    "172.16.0.1": "private",
    "192.168.1.1": "private",
    "fc00::1": "private",
    "100.64.0.1": "cgnat",
    "127.0.0.1": "loopback",
    "127.8.8.8": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",
    "::": "unspecified",
    "169.254.0.1": "link_local",
    "fe80::1": "link_local",
    "169.254.169.254": "metadata",
    "168.63.129.16": "metadata",
    "fd00:ec2::254": "metadata",
    "224.0.0.1": "multicast",
    "198.18.0.1": "reserved",
    "240.0.0.1": "reserved",
    "2001:db8::1": "reserved",
    "::ffff:10.0.0.1": "embedded",
    "::ffff:127.0.0.1": "embedded",
    "64:ff9b::7f00:1": "embedded",
    "2002:7f00:1::": "embedded",
    "2001:0:7f00:1::": "embedded",
    "2606::5efe:7f00:1": "embedded",
}
"""An address of each class of section 7 that no rule of these tests can reach."""

NAMES = {address: f"n{at}.names.test" for at, address in enumerate(NEVER)}
BRIDGED = {address: f"n{at}.bridged.test" for at, address in enumerate(NEVER)}

RULES = [
    {"name": "bridged", "hosts": ["a.test"], "ports": ["TLS"], "paths": ["/ok/**"]},
    {"name": "closed", "hosts": ["b.test"], "ports": ["TLS"]},
    {"name": "plain", "hosts": ["b.test"], "ports": ["PLAIN"], "schemes": ["http"]},
    {"name": "paths", "hosts": ["a.test"], "ports": ["PLAIN"], "schemes": ["http"], "paths": ["/a/**"]},
    {"name": "names", "hosts": ["*.names.test", "localhost"], "schemes": ["https", "http"], "ports": [80, 443, "PLAIN", "TLS"]},
    {"name": "bridged-names", "hosts": ["*.bridged.test"], "tls": "bridge", "ports": [443, "TLS"]},
    {"name": "sockets", "hosts": ["ws.test"], "schemes": ["http"], "ports": ["PLAIN"], "upgrade": ["websocket"]},
    {"name": "exact", "effect": "deny", "hosts": ["Deny.Names.TEST."], "schemes": ["https", "http"], "ports": [80, 443, "PLAIN", "TLS"]},
    {"name": "literals", "hosts": list(NEVER), "schemes": ["https", "http"], "ports": [80, 443, "PLAIN", "TLS"]},
]


@contextlib.asynccontextmanager
async def attacked(folder: Path) -> AsyncIterator[Rig]:
    """The gateway. Its deadlines for what a client owes it are short."""
    answers: dict[str, list[Any]] = {name: [address] for names in (NAMES, BRIDGED) for address, name in names.items()}
    section = {
        "timeouts": {"first_bytes": "1500ms", "tls": "1500ms", "head": "1500ms", "dns": "2s"},
        "addresses": {"self_names": ["gateway.names.test"]},
        "admin": {"probes": "127.0.0.1:0"},
        "limits": {"connections_per_caller": 0},  # all tests are one caller, and some of its connections stay open
    }
    pki = CertificateAuthority(folder / "pki")
    leaf = pki.issue("a.test", "b.test", "rebind.bridged.test", "127.0.0.1")
    answers["gateway.names.test"] = ["8.8.8.8"]
    async with running(folder, RULES, answers=answers, section=section, pki=pki, leaf=leaf, hosts={"ws.test": ["127.0.0.1"]}) as rig:
        yield rig


async def refused(rig: Rig, client: Client, *lines: str) -> tuple[int, str]:
    """Status and code of a refusal, during which nothing was dialled."""
    before = rig.dials
    answer = code_of(await client.ask(*lines))
    assert rig.dials == before
    return answer


def named(address: str) -> str:
    return f"[{address}]" if ":" in address else address
