"""The reference page is what the table renders, and lists exactly its keys and defaults (item I5)."""

import re
from pathlib import Path

from robin.config.reference import settings_page
from robin.config.table import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_the_page_in_the_tree_is_current() -> None:
    assert PAGE.read_text() == settings_page(), "run: python -m robin.config.reference > docs/reference/settings.md"


def test_the_page_lists_exactly_the_keys_and_defaults() -> None:
    rows = re.findall(r"^\| `(ROBIN_[A-Z_]+)` \| `?(.*?)`? \| (`?)(.*?)\3 \| (.*?) \| (.*?) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert {key: (path, default) for key, path, _quote, default, _kind, _meaning in rows} == {
        key: (setting.path, setting.default_text) for key, setting in SETTINGS.items()
    }
    assert len(rows) == len(SETTINGS)
