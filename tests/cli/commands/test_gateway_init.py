"""`robin gateway --init`: the folder starts as it is, keys are for its owner alone, and nothing is ever written over."""

import asyncio
import stat
import subprocess
from pathlib import Path

import pytest

from robin.cli.main import main
from robin.config.agent_environment import ADDED_ROOTS, DIRECT, PROXY, REPLACED_ROOTS
from robin.testing.process import RobinProcess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "it's a folder"
    assert main(["gateway", "--init", str(made)]) == 0
    return made


def test_it_names_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", "--init", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(f"{tmp_path}/{name}" in said for name in ("robin.yaml", "sandbox COMMAND", "agent/env.sh", "keys")), said
    assert "mode: report" in said


def test_a_gateway_without_its_file_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["gateway", "--config", str(tmp_path / "robin.yaml")])
    fix = "name the file with --config, or make one with robin gateway --init DIR"
    assert capsys.readouterr().err == f"robin: {tmp_path}/robin.yaml: No such file or directory; {fix}\n"


def test_what_it_writes_is_right_and_keys_are_for_the_owner(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["check", "--config", str(folder / "robin.yaml")]) == 0
    (folder / "robin.yaml").write_text((folder / "robin.yaml").read_text().replace("\n#: ", "\n"))
    assert main(["check", "--config", str(folder / "robin.yaml")]) == 0
    told = capsys.readouterr()
    assert {line.split(": ")[2] for line in told.err.splitlines()} == {"file_missing"}, "of the keys that are to be written"
    assert (told.out.count(" 10 rule(s)"), told.out.count(" 3 rule(s)")) == (1, 1)
    assert {path.name for path in (folder / "agent").iterdir()} == {"env.sh", "ca.crt", "bundle.crt"}
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in ("ca", "keys", "ca/tls.key")] == [0o700, 0o700, 0o600]
    ca, bundle = ((folder / "agent" / name).read_bytes() for name in ("ca.crt", "bundle.crt"))
    assert bundle.startswith(ca)
    assert bundle.count(b"-----BEGIN CERTIFICATE-----") > 20, "the public roots"
    assert not any(b"PRIVATE" in path.read_bytes() for path in (folder / "agent").iterdir())


def test_a_shell_reads_the_environment_as_it_is_meant(folder: Path) -> None:
    command = ["/bin/sh", "-c", '. "$0"; env -0', str(folder / "agent" / "env.sh")]
    said = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True, timeout=30).stdout
    environment = dict(line.split("=", 1) for line in said.split("\0") if line)
    assert {environment[name] for name in PROXY} == {"http://127.0.0.1:8081"}
    assert {environment[name] for name in DIRECT} == {"localhost,127.0.0.1,::1"}
    assert {environment[name] for name in REPLACED_ROOTS} == {str(folder / "agent" / "bundle.crt")}
    assert environment["OPENAI_API_KEY"] == environment["GH_TOKEN"] == "robin-placeholder"
    assert {environment[name] for name in ADDED_ROOTS} == {str(folder / "agent" / "ca.crt")}


@pytest.mark.parametrize("kept", ["robin.yaml", "ca/tls.key", "agent/env.sh"])
def test_it_replaces_nothing_and_leaves_no_part(tmp_path: Path, kept: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / kept).parent.mkdir(exist_ok=True)
    (tmp_path / kept).write_text("mine")
    assert main(["gateway", "--init", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["mine"]


@pytest.mark.parametrize("name", ["file/x", "new\nline"])
def test_a_folder_that_cannot_be_is_refused_with_nothing_written(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["gateway", "--init", str(tmp_path / name)]) == 1
    assert capsys.readouterr().err.startswith("robin: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_the_gateway_starts_with_it_and_its_audit_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = folder / "robin.yaml"
    yaml.write_text(yaml.read_text().replace(":8081", ":0").replace(":9464", ":0"))  # the ports of the tests' machine are for others
    async with RobinProcess("gateway", "--config", str(yaml)) as robin:
        host, _, port = (await robin.event("listening"))["listen"][0].rpartition(":")
        await robin.event("started")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"CONNECT 127.0.0.1:9464 HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n\r\n")
        async with asyncio.timeout(30):
            assert b" 403 " in await reader.readline()  # reporting alone lets no address pass
        writer.close()
        assert await robin.stop() == 0
    assert main(["audit", "verify", str(folder / "audit.jsonl")]) == 0
    capsys.readouterr()
    log = folder / "audit.jsonl"
    assert main(["audit", "tail", "--calls", str(log)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[1:] == "local CONNECT 127.0.0.1:9464 deny address_refused loopback would_deny rule_default".split()
    log.write_text(log.read_text().replace('"address_refused"', '"rule_default"'))
    assert main(["audit", "tail", "--calls", str(log)]) == 0
    assert capsys.readouterr().out.startswith("!")


@pytest.mark.parametrize("place", ["", "..", "ca", "agent", "/"])
def test_the_sandbox_refuses_a_folder_that_would_show_it_the_keys(folder: Path, place: str) -> None:
    done = subprocess.run([folder / "sandbox", "true"], cwd=folder / place, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr.startswith("robin: this")) == (2, True)
    done = subprocess.run([folder / "sandbox"], cwd=folder / place, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (2, f"usage: {folder}/sandbox COMMAND [ARGUMENT]...\n")
