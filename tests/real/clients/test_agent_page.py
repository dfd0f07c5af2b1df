"""The page about a coding agent tells the truth: its commands run in its order, in one bash, by programs of others, with a small internet.

The hosts of the page are at one loopback address here, which `gw/robin.yaml` learns behind the command that makes it, together with the CA
that stands for the public one; its ports belong to others on this machine, and are replaced.
"""

import os
import re
import secrets
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, blocks, commands
from tests.docs.shell import Shell
from tests.docs.test_commands import matches
from tests.real.clients.internet import Internet, npm_package, running
from tests.real.clients.test_package_tools import NOISE, wheel
from tests.real.parts import debian, nodeclients, pyclients
from tests.real.parts.missing import MissingPart

from robin.testing.certificates import CertificateAuthority
from robin.testing.waiting import eventually

pytestmark = pytest.mark.real

PAGE = ROOT / "docs" / "how-to" / "give-an-agent-the-internet.md"
HOSTS = ("github.com", "api.github.com", "registry.npmjs.org", "pypi.org", "files.pythonhosted.org", "example.com")
HOSTS += ("api.openai.com", "api.anthropic.com", "mcp.example.com")
KEYS = ("github", "openai", "anthropic", "mcp")
AS_ROOT = re.compile(r"WARNING: Running pip as the 'root' user .*\n")


def page_commands() -> list[tuple[str, str]]:
    """All of the page, with what it shows."""
    return [pair for block in blocks() if block.page == PAGE and block.language == "console" for pair in commands(block)]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the programs that the page calls and that have another name or place here."""
    for name in ("bwrap", "socat", "curl", "git"):
        debian.find(name)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in {
        "python3": f"{pyclients.find()}",
        "pip": f"{pyclients.find()} -m pip",
        "node": f"{nodeclients.recent()}",
        "gh": f"{debian.find('gh')}",
    }.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """One repository with one commit, as a code host has it."""
    folder = tmp_path / "repositories"
    work = tmp_path / "work"
    who = {f"GIT_{role}_{part}": "a@b" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")} | {"HOME": str(tmp_path)}
    for command in (
        f"git init -q -b main {work}",
        f"git -C {work} commit -q --allow-empty -m first",
        f"git clone -q --bare {work} {folder}/my-org/my-repo",
        f"git clone -q --bare {work} {folder}/python/peps",
    ):
        subprocess.run(command.split(), env={"PATH": os.environ["PATH"], **who}, check=True, timeout=60)
    return folder


@pytest.fixture
def internet(tmp_path: Path, repositories: Path) -> Iterator[Internet]:
    """At port 443 of a loopback address that nothing else has by chance."""
    package = wheel(tmp_path, "six")
    everything = Internet(
        wheels={package.name: package.read_bytes()}, tarballs={"left-pad": npm_package("left-pad", NOISE)}, repositories=repositories
    )
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(200) + 20}.{secrets.randbelow(200) + 20}"
    roots = CertificateAuthority(tmp_path / "roots")
    try:
        with running(roots.issue(*HOSTS), everything, (address, 443)):
            yield everything
    except PermissionError:
        raise MissingPart(name="port 443", remedy="needs root, or `sysctl net.ipv4.ip_unprivileged_port_start=443`") from None


def adapt(folder: Path, internet: Internet, roots: Path, programs: Path, shell: Shell) -> None:
    """Let the page's gateway find the internet of this test, on ports of its own."""
    sandbox, places = folder / "sandbox", {Path(sys.base_prefix), pyclients.find().parents[1], nodeclients.find(), programs}
    binds = " ".join(f"--ro-bind {place} {place}" for place in sorted(places))  # as its comment says of programs in other places
    sandbox.write_text(sandbox.read_text().replace("--setenv PATH ", f"{binds} --setenv PATH {programs}:"))
    section = f"""
  addresses: {{hosts: {{{", ".join(f"{host}: [{internet.address}]" for host in HOSTS)}}}, unsafe_loopback: ["{internet.address}:443"]}}
  upstream_tls: {{system_roots: false, ca_files: ["{roots}"]}}
"""
    for path in (folder / "robin.yaml", folder / "agent" / "env.sh"):
        text = path.read_text().replace("127.0.0.1:9464", shell.admin)
        text = text.replace("127.0.0.1:8081", shell.proxy) if path.name == "robin.yaml" else text
        path.write_text(text + section * (path.name == "robin.yaml"))
    with (folder / "agent" / "bundle.crt").open("ab") as bundle:
        bundle.write(roots.read_bytes())


def key_of(name: str) -> str:
    """What `~/keys/NAME` has."""
    return f"{name}-key-{'0123456789' * 3}"


def check_keys(internet: Internet, written: str) -> None:
    """Each service got its own key in its own field, and no other; neither key nor placeholder is anywhere else."""
    pair = "Basic " + b64encode(f"x-access-token:{key_of('github')}".encode()).decode()
    expected = {
        "github.com": ("authorization", pair),
        "api.github.com": ("authorization", f"Bearer {key_of('github')}"),
        "api.openai.com": ("authorization", f"Bearer {key_of('openai')}"),
        "api.anthropic.com": ("x-api-key", key_of("anthropic")),
        "mcp.example.com": ("authorization", f"Bearer {key_of('mcp')}"),
    }
    for one in internet.seen:
        given = {name: value for name, value in one.fields.items() if name in ("authorization", "x-api-key")}
        assert given == dict([expected[one.host]] if one.host in expected else []), one
        assert "placeholder" not in str(one)
    assert {one.host for one in internet.seen} >= expected.keys()
    assert not [name for name in KEYS if key_of(name) in written]


async def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path, internet: Internet, programs: Path) -> None:
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True)
    for name in KEYS:
        (home / "keys" / name).write_text(f"{key_of(name)}\n")
    async with Shell() as shell:
        await shell.run(f"cd {home}; export HOME={home} PATH={programs}:$PATH GIT_TERMINAL_PROMPT=0 GIT_CONFIG_NOSYSTEM=1")
        for command, shown in page_commands():
            said = await shell.run(re.sub("127.0.0.1:9464", shell.admin, command))
            if "--init" in command:
                adapt(home / "gw", internet, tmp_path / "roots" / "ca.pem", programs, shell)
            if "kill -HUP" in command:
                await eventually(lambda: '"event":"config_loaded"' in (home / "gateway.log").read_text(), what="the reload", timeout_s=20)
            said = AS_ROOT.sub("", said.replace(str(home), "..."))
            print("$", command, "\n", said)
            assert matches(shown, said) if shown else (said, shell.code) == ("", 0), f"{command}\n{said}"
    check_keys(internet, "".join((home / name).read_text() for name in ("gateway.log", "gw/audit.jsonl", "gw/agent/env.sh")))
