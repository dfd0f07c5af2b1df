"""Where a page says which tests show something (A8, L2), there are such tests."""

import re

from tests.corpus.load import REQUESTS, RESPONSES
from tests.docs.pages import ROOT, pages

_NAMED = re.compile(r"\(((?:[A-Z]\d+ ?)+)\)|\| ((?:[A-Z]\d+ ?)+) \|$", re.MULTILINE)


def items() -> dict[str, str]:
    """What the pages name in parentheses and in columns of tests, each with a page that does."""
    named = {}
    for page in pages():
        for pair in _NAMED.findall(page.read_text()):
            named |= {item: page.name for text in pair for item in text.split()}
    return named


def first_line(text: str) -> set[str]:
    """The items that a module's first line names: `(items I1, I3)`, `(M1 to M6)`."""
    line = text.partition("\n")[0]
    ranges = [(kind, int(low), int(high)) for kind, low, high in re.findall(r"\b([A-Z])(\d+) to \1(\d+)\b", line)]
    return set(re.findall(r"\b[A-Z]\d+\b", line)) | {f"{kind}{number}" for kind, low, high in ranges for number in range(low, high + 1)}


def shown() -> set[str]:
    """Each item that some test or case says it shows."""
    names = re.findall(r"def test_((?:[a-z]\d+_)+)", "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py")))
    by_test = {item.upper() for name in names for item in name.strip("_").split("_")}
    told = {item for path in (ROOT / "tests").rglob("test_*.py") for item in first_line(path.read_text())}
    return by_test | told | {item for case in (*REQUESTS, *RESPONSES) for item in re.findall(r"[A-Z]\d+", case.item)}


def test_each_item_that_a_page_names_is_shown_by_a_test() -> None:
    assert len(items()) > 60
    there = shown()
    assert {item: page for item, page in items().items() if item not in there} == {}
