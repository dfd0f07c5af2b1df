"""Byte-at-a-time and random cuts give the same result as one segment (Q3), for requests and for upstream responses."""

import random

import pytest
from tests.corpus.cases import RequestCase, ResponseCase
from tests.corpus.judge import judge
from tests.corpus.judge_responses import judge_response
from tests.corpus.load import REQUESTS, RESPONSES
from tests.corpus.rig import Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = 3000
MEDIUM = 300_000


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


@pytest.mark.parametrize("case", [case for case in REQUESTS if len(case.raw) <= SMALL], ids=lambda case: case.id)
async def test_a_request_byte_by_byte_gets_the_verdict_of_one_segment(rig: Rig, based: Rig, case: RequestCase) -> None:
    robin = based if case.base else rig
    assert await judge(robin, case, single_bytes(case.raw)) == await judge(robin, case)


@pytest.mark.parametrize("case", [case for case in REQUESTS if len(case.raw) <= MEDIUM], ids=lambda case: case.id)
async def test_a_request_in_random_pieces_gets_the_verdict_of_one_segment(rig: Rig, based: Rig, case: RequestCase) -> None:
    robin = based if case.base else rig
    whole = await judge(robin, case)
    assert await judge(robin, case, random_pieces(case.raw, case.id)) == whole
    assert await judge(robin, case, at_line_ends(case.raw)) == whole


@pytest.mark.parametrize("case", [case for case in RESPONSES if 0 < len(case.raw) <= SMALL], ids=lambda case: case.id)
async def test_a_response_byte_by_byte_gets_its_verdict(rig: Rig, case: ResponseCase) -> None:
    await judge_response(rig, case, single_bytes(case.raw))


@pytest.mark.parametrize("case", [case for case in RESPONSES if 0 < len(case.raw) <= MEDIUM], ids=lambda case: case.id)
async def test_a_response_in_random_pieces_gets_its_verdict(rig: Rig, case: ResponseCase) -> None:
    await judge_response(rig, case, random_pieces(case.raw, case.id))
    await judge_response(rig, case, at_line_ends(case.raw))
