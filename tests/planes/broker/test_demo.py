"""Item P46: the demonstration of passports as its tutorial shows it; and the reference page has every reason code."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from robin.model.passport_reasons import REASONS
from robin.testing.process import RobinProcess

DOCS = Path(__file__).parents[3] / "docs"
PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the demonstration sends its line with curl")
async def test_the_demonstration_says_what_the_tutorial_shows_and_leaves_nothing():
    page = (DOCS / "tutorials" / "passports.md").read_text()
    (block,) = re.findall(r"```console\n\$ robin (up --demo passports)\n(.*?)```", page, re.DOTALL)
    shown = [line for line in block[1].splitlines() if line.startswith(("check", "demo"))]
    with tempfile.TemporaryDirectory(prefix="rd") as folder:
        async with RobinProcess(*block[0].split(), settings={"TMPDIR": folder, "PATH": PATH}) as robin:
            assert await robin.returned(timeout_s=60) == 0
            assert [line for line in robin.stdout if line.startswith(("check", "demo"))] == shown
            assert robin.stderr == []
        assert list(Path(folder).iterdir()) == []


def test_the_reference_page_has_every_reason_code_with_its_statuses():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| (yes|no) \|", (DOCS / "reference" / "passports.md").read_text(), re.MULTILINE)
    wanted = [
        (one.code, f"{one.transcript} / {one.httpsig}" if one.transcript else "broker", "yes" if one.retryable else "no")
        for one in REASONS.values()
    ]
    assert rows == wanted
