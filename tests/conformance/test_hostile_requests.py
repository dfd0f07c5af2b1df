"""Every raw request of the corpus gets its verdict from the real process (Q1): answer, close, what the upstream saw, and the record."""

from collections import Counter
from typing import Any

import pytest
from tests.corpus.cases import Answered, Cut, Either, Refused
from tests.corpus.judge import judge
from tests.corpus.load import REQUESTS, by_item
from tests.corpus.rig import Rig
from tests.rows import every_row

from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


BY_ITEM = by_item(REQUESTS)


def exchanges(rig: Rig) -> list[dict[str, Any]]:
    return [entry for entry in rig.robin.events if entry.get("event") == "exchange"]


@pytest.mark.parametrize("item", BY_ITEM)
async def test_each_hostile_request_gets_its_verdict(rig: Rig, based: Rig, item: str) -> None:
    with every_row() as row:
        for case in BY_ITEM[item]:
            with row(case.id):
                await judge(based if case.base else rig, case)


async def test_each_exchange_of_the_corpus_leaves_one_record_with_its_outcome(rig: Rig) -> None:
    assert (await rig.ask(b"GET /marker HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200
    before = await eventually(lambda: exchanges(rig)[-1]["path"] == "/marker" and len(exchanges(rig)), what="the marker's record")
    expected: Counter[str] = Counter()
    for case in REQUESTS:
        single = case.verdicts[0]
        if case.base or len(case.verdicts) != 1 or isinstance(single, (Cut, Either)):
            continue
        await judge(rig, case)
        if isinstance(single, Refused):
            expected[single.code] += 1
        else:
            expected["local_response" if isinstance(single, Answered) else "forwarded"] += 1

    def found() -> Counter[str]:
        return Counter(entry["outcome"] for entry in exchanges(rig)[before:] if entry["path"] != "/sentinel")

    await eventually(lambda: found().total() >= expected.total(), what="every record")
    assert found() == expected


async def test_the_corpus_is_large_and_covers_each_request_item() -> None:
    assert len(REQUESTS) >= 250
    assert len({case.raw for case in REQUESTS if not case.base}) > 500, "cases repeat each other"
    items = {case.item for case in REQUESTS}
    assert {"A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A11", "A12", "B1", "B2", "B3", "B4", "B5", "B6", "B7"} <= items
    assert {"C1", "C2", "C3", "C4", "C7", "C8", "C9", "F4", "G1", "G2", "L4"} <= items
