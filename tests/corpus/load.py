"""The whole corpus in one place, checked: ids are unique, and each case says which item of the spec it shows."""

import re
from collections.abc import Iterable
from typing import TypeVar

from tests.corpus import requests_body, requests_fields, requests_line, responses
from tests.corpus.cases import RequestCase, ResponseCase

Case = TypeVar("Case", RequestCase, ResponseCase)
ITEM = re.compile(r"[A-GJL][0-9]{1,2}")


def _checked(cases: tuple[RequestCase | ResponseCase, ...]) -> None:
    seen: set[str] = set()
    for case in cases:
        assert ITEM.fullmatch(case.item), f"{case.id}: {case.item!r} is no item of the spec"
        assert case.id not in seen, f"{case.id} twice"
        seen.add(case.id)


def by_item(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Tables of cases, one for each item: a test runs the cases of one item and reports each that fails by its id."""
    tables: dict[str, list[Case]] = {}
    for case in cases:
        tables.setdefault(case.item, []).append(case)
    return tables


REQUESTS: tuple[RequestCase, ...] = requests_line.CASES + requests_fields.CASES + requests_body.CASES
RESPONSES: tuple[ResponseCase, ...] = responses.CASES
_checked(REQUESTS)
_checked(RESPONSES)
