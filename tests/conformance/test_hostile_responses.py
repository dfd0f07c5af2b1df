"""Every raw upstream response of the corpus gets its verdict from the real process: relayed, refused as 502, or aborted; never mixed up."""

import pytest
from tests.corpus.judge_responses import judge_response
from tests.corpus.load import RESPONSES, by_item
from tests.corpus.rig import Rig
from tests.rows import every_row

pytestmark = pytest.mark.asyncio(loop_scope="module")
BY_ITEM = by_item(RESPONSES)


@pytest.mark.parametrize("item", BY_ITEM)
async def test_each_hostile_response_gets_its_verdict(rig: Rig, item: str) -> None:
    with every_row() as row:
        for case in BY_ITEM[item]:
            with row(case.id):
                await judge_response(rig, case)


async def test_the_corpus_is_large_and_covers_each_response_item() -> None:
    assert len(RESPONSES) >= 60
    assert {"E1", "E2", "E3", "E8", "E9", "F3", "G3", "D4", "C1", "C7", "J7"} <= {case.item for case in RESPONSES}
