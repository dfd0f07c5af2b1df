"""`robin --help` teaches, and lists exactly the settings of the table with their defaults (item I5)."""

import re

import pytest

from robin.cli.main import COMMANDS, main
from robin.config.table import SETTINGS


@pytest.fixture
def text(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["--help"]) == 0
    return capsys.readouterr().out


def test_help_lists_exactly_the_keys_and_defaults_of_the_table(text: str) -> None:
    listed = re.findall(r"^  (ROBIN_[A-Z_]+) +.*?\n? +\[(\S+|)\]$", text, flags=re.MULTILINE)
    assert dict(listed) == {key: setting.default_text for key, setting in SETTINGS.items()}
    assert len(listed) == len(SETTINGS)


def test_help_has_what_it_is_the_quick_start_the_commands_and_where_to_read_on(text: str) -> None:
    assert text.startswith("robin - workload identity")
    assert "robin --upstream-url https://broker.example:8443 --token-file" in text
    for command in COMMANDS.values():
        assert f"  {command.name:<12}{command.summary}\n" in text
    assert "Exit codes: 0 drained" in text
    assert "docs/reference/settings.md" in text
    assert "An unknown ROBIN_ name is an error, except those that Kubernetes makes for a Service named robin" in text


def test_help_names_the_values_of_each_choice(text: str) -> None:
    choices = {key: setting for key, setting in SETTINGS.items() if setting.kind.name == "choice"}
    assert len(choices) >= 6
    for key, setting in choices.items():
        (line,) = re.findall(rf"^  {key} .*$", text, flags=re.MULTILINE)
        assert setting.choices in line
    assert "{file,jwtsvid}" in text


def test_help_has_no_line_beyond_the_longest_default(text: str) -> None:
    longest = max(len(setting.default_text) for setting in SETTINGS.values()) + 40
    assert all(len(line) <= longest for line in text.splitlines())
