"""The way in: which command runs, what usage errors say, and that nothing is imported before it is asked for."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from robin import __version__
from robin.cli.main import COMMANDS, main, parser_of
from robin.config.table import SETTINGS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_of_the_table_is_a_module_with_configure_and_run(name: str) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    assert callable(module.configure)
    assert callable(module.run)


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr().out == f"robin {__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chekc"]) == 2
    assert capsys.readouterr().err == "robin: 'chekc' is not a command; the nearest is check; robin --help lists them\n"


@pytest.mark.parametrize("word", ["run", "status", "serve", "xyz"])
def test_an_unknown_command_that_is_close_to_none_names_none(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"robin: {word!r} is not a command; robin --help lists them\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--upstrem-url", "x"], "robin: --upstrem-url is not a flag of robin check; the nearest is --upstream-url\n"),
        (["check", "--upstrem-url=https://x"], "robin: --upstrem-url is not a flag of robin check; the nearest is --upstream-url\n"),
        (["--token=eyJhbGciOi"], "robin: --token is not a flag of robin sidecar; robin sidecar --help lists what there is\n"),
        (["check", "--token-path", "x"], "robin: --token-path is not a flag of robin check; robin check --help lists what there is\n"),
        (["--admin-quit", "check"], "robin: unrecognized arguments: check; a command comes first: robin check ...\n"),
        (["check", "--log-level"], "robin: argument --log-level: expected one argument; robin check --help lists what there is\n"),
        (["check", "--upstream", "x"], "robin: --upstream is not a flag of robin check; the nearest is --upstream-url\n"),
        (
            ["wait", "--timeout", "5"],
            'robin: argument --timeout: "5" has no unit: write 5s or 5ms\n',
        ),
    ],
)
def test_a_usage_error_is_one_line_and_exit_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err == message


def test_plain_robin_is_the_sidecar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBIN_UPSTREAM_URL", raising=False)
    for words in ([], ["--no-admin-quit"], ["sidecar"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert capsys.readouterr().err == (
            "robin: ROBIN_UPSTREAM_URL is required: set it to https://host[:port][/base], or give --upstream-url\n"
        )


def test_output_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    """A reader that has seen enough ends a command without a word, a full disk with one line; what is printed is more than the buffers."""
    record = {"ts": "", "plane": "p", "event": "e", "id": "", "seq": 1, "prev": "", "hash": "", "x": "y" * 1000}
    (tmp_path / "log").write_text((json.dumps(record) + "\n") * 200)
    (tmp_path / "bundle").write_text(json.dumps({"version": "robin-bundle-v1", "x": ["y" * 1000] * 200}))
    show = ["passport", "bundle", "show", "--bundle", str(tmp_path / "bundle")]
    words = (["--help"], ["schema", "gateway"], ["audit", "tail", "-n", "200", str(tmp_path / "log")], show)
    commands = [[sys.executable, "-m", "robin.cli.main", *one] for one in words]
    for command in commands:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert (process.stderr.read(), process.wait(30)) == (b"", 1), command
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            for command in commands:
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
                said = "robin: the output cannot be written: No space left on device; write it elsewhere, or make space\n"
                assert (done.stderr, done.returncode) == (said, 1), command


def test_check_and_help_load_neither_engine_nor_event_loop_nor_crypto() -> None:
    code = (
        "import sys; from robin.cli.main import main; code = main(sys.argv[1:]);"
        "heavy = {'asyncio', 'ssl', 'uvloop', 'cryptography', 'httptools', 'h2', 'prometheus_client', 'http.client', 'robin.app'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    for words in (["check", "--upstream-url", "https://broker.example"], ["--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *words], env={}, capture_output=True, text=True, check=True)
        assert done.stderr == "[]\n", words


def test_output_survives_a_terminal_without_unicode() -> None:
    environ = {"PYTHONIOENCODING": "ascii:strict", "ROBIN_UPSTREAM_URL": "https://broker.example", "ROBIN_SVID_HINT": "bücher"}
    command = [sys.executable, "-m", "robin.cli.main", "check"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "b\\xfccher" in done.stdout


def test_the_reference_page_has_every_command_and_each_flag_that_is_no_setting() -> None:
    assert re.findall(r"^\| `robin ([a-z]+)` \|", PAGE, flags=re.MULTILINE) == re.findall(r"^## robin ([a-z]+)$", PAGE, flags=re.MULTILINE)
    settings = {setting.flag for setting in SETTINGS.values()}
    for command in COMMANDS.values():
        section = PAGE.split(f"## robin {command.name}\n")[1].split("\n## ")[0]
        for action in (found for found in parser_of(command)._actions if found.option_strings or found.metavar):
            flag = action.option_strings[-1] if action.option_strings else str(action.metavar).partition(" | ")[0]
            assert flag in settings or flag.startswith("--no-") or flag == "--help" or flag in section, (command.name, flag)


def test_every_command_line_of_the_reference_page_is_understood() -> None:
    lines = [line for block in re.findall(r"^```[a-z]*\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("robin ") and "[" not in line]
    assert len(examples) >= 2 * len(COMMANDS)
    for words in examples:
        name, rest = (words[0], words[1:]) if words[0] in COMMANDS else ("sidecar", words)
        parser_of(COMMANDS[name]).parse_args(rest)
