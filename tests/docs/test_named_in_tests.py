"""Every code that the pages of gateway and credentials document is named by a test, so that none is documented and never seen."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.docs.pages import DOCS, ROOT

PAGES = [DOCS / "reference" / f"{name}.md" for name in ("gateway", "credentials")]
_ROW = re.compile(r"^\| `([a-z_]+)` \| \d{3} ", re.MULTILINE)


@cache
def named() -> frozenset[str]:
    """Every word in quotes in the tests, and each word of a list in quotes."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    return frozenset(word for quoted in re.findall(r'"([a-z_ ]+)"', text) for word in quoted.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_code_is_named_by_a_test(page: Path) -> None:
    text = page.read_text()
    faults = set(_ROW.findall(text))
    errors = set(re.findall(r"`([a-z]+_[a-z_]+)`", text.partition("## Errors of the file")[2].partition("\n## ")[0]))
    assert faults
    assert errors
    assert sorted((faults | errors) - named()) == []
