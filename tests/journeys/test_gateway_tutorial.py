"""The gateway's tutorial tells the truth: its commands are run in its order, and what it shows is what they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "gateway.md"


def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    page = PAGE.read_text()
    yaml = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert yaml is not None
    (tmp_path / "robin.yaml").write_text(yaml[1])
    shown = re.search(r"```\n(check ok.*?)```", page, re.DOTALL)
    assert shown is not None
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    printed = []
    for line in re.findall(r"^\$ robin (.*)$", page, re.MULTILINE):
        command = [sys.executable, "-m", "robin.cli.main", *line.split()]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == (4 if "pastebin" in line else 0), done.stderr
        printed.append(done.stdout)
    assert all(line in printed[0] for line in shown[1].splitlines())
    assert printed[5].endswith("demo grants: PASS 6/6\n")
    assert printed[3].startswith("permit by the rule github-read: https api.github.com:443, tls bridge")
    assert printed[4].startswith("deny rule_default")
