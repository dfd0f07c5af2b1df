"""Every raw upstream response of the corpus gets its verdict from the real process: relayed, refused as 502, or aborted; never mixed up."""

import pytest
from tests.corpus.cases import ResponseCase
from tests.corpus.judge_responses import judge_response
from tests.corpus.load import RESPONSES
from tests.corpus.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: f"{case.item}-{case.id}")
async def test_each_hostile_response_gets_its_verdict(rig: Rig, case: ResponseCase) -> None:
    await judge_response(rig, case)


async def test_the_corpus_is_large_and_covers_each_response_item() -> None:
    assert len(RESPONSES) >= 60
    assert {"E1", "E2", "E3", "E8", "E9", "F3", "G3", "D4", "C1", "C7", "J7"} <= {case.item for case in RESPONSES}
