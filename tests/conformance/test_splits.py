"""Byte-at-a-time and random cuts give the same result as one segment (Q3), for requests and for upstream responses."""

import random

import pytest
from tests.corpus.cases import RequestCase, ResponseCase
from tests.corpus.judge import judge
from tests.corpus.judge_responses import judge_response
from tests.corpus.load import REQUESTS, RESPONSES, by_item
from tests.corpus.rig import Rig
from tests.rows import every_row

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = 3000
MEDIUM = 300_000
REQUESTS_BY_ITEM = by_item(case for case in REQUESTS if len(case.raw) <= MEDIUM)
RESPONSES_BY_ITEM = by_item(case for case in RESPONSES if 0 < len(case.raw) <= MEDIUM)


def single_bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


def random_pieces(raw: bytes, seed: str, cuts: int = 7) -> list[bytes]:
    """Cut at places that depend only on the case: every run cuts alike."""
    draw = random.Random(seed)
    ends = sorted(draw.sample(range(1, len(raw)), min(cuts, len(raw) - 1))) if len(raw) > 1 else []
    return [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]


def at_line_ends(raw: bytes) -> list[bytes]:
    """Cut between each CR and its LF: where a parser that looks ahead goes wrong."""
    pieces = raw.split(b"\r\n")
    glued = [pieces[0]]
    for piece in pieces[1:]:
        glued[-1] += b"\r"
        glued.append(b"\n" + piece)
    return [piece for piece in glued if piece]


def cuts_of(case: RequestCase | ResponseCase) -> list[list[bytes]]:
    """The ways in which the bytes of a case are cut; into single bytes only where they are few."""
    single = [single_bytes(case.raw)] if len(case.raw) <= SMALL else []
    return [*single, random_pieces(case.raw, case.id), at_line_ends(case.raw)]


@pytest.mark.parametrize("item", REQUESTS_BY_ITEM)
async def test_a_cut_request_gets_the_verdict_of_one_segment(rig: Rig, based: Rig, item: str) -> None:
    with every_row() as row:
        for case in REQUESTS_BY_ITEM[item]:
            robin = based if case.base else rig
            with row(case.id):
                whole = await judge(robin, case)
                for pieces in cuts_of(case):
                    assert await judge(robin, case, pieces) == whole


@pytest.mark.parametrize("item", RESPONSES_BY_ITEM)
async def test_a_cut_response_gets_its_verdict(rig: Rig, item: str) -> None:
    with every_row() as row:
        for case in RESPONSES_BY_ITEM[item]:
            with row(case.id):
                for pieces in cuts_of(case):
                    await judge_response(rig, case, pieces)
