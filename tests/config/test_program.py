"""A line to copy names this program as the shell finds it, or by its own path."""

import sys
from pathlib import Path

import pytest

from robin.config.program import program_name


@pytest.mark.parametrize(
    ("called", "searched", "name"),
    [
        ("a/robin", "{folder}/a", "robin"),
        ("a/robin", "{folder}/b", "{folder}/a/robin"),
        ("a/robin", "{folder}/c", "{folder}/a/robin"),
        ("a/main.py", "{folder}/c", "robin"),
        ("c/robin", "{folder}/a", "robin"),
    ],
    ids=["found", "another is found", "none is found", "called as a module", "not there any more"],
)
def test_a_line_to_copy_names_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, searched: str, name: str) -> None:
    for path in ("a/robin", "b/robin", "a/main.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / called)])
    monkeypatch.setenv("PATH", searched.format(folder=tmp_path))
    assert program_name() == name.format(folder=tmp_path)
