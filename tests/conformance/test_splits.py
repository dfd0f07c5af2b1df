"""Byte-at-a-time and random cuts give the same result as one segment (Q3), for requests and for upstream responses."""

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.corpus.cases import RequestCase, ResponseCase
from tests.corpus.judge import judge
from tests.corpus.judge_responses import judge_response
from tests.corpus.load import REQUESTS, RESPONSES
from tests.corpus.rig import Rig, running

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with running(tmp_path_factory.mktemp("plain")) as rig:
        yield rig


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def based(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with running(tmp_path_factory.mktemp("based"), base="/b") as rig:
        yield rig


@pytest.mark.parametrize("case", [case for case in REQUESTS if len(case.raw) <= SMALL], ids=lambda case: case.id)
async def test_a_request_byte_by_byte_gets_the_verdict_of_one_segment(plain: Rig, based: Rig, case: RequestCase) -> None:
    rig = based if case.base else plain
    assert await judge(rig, case, single_bytes(case.raw)) == await judge(rig, case)


@pytest.mark.parametrize("case", [case for case in REQUESTS if len(case.raw) <= MEDIUM], ids=lambda case: case.id)
async def test_a_request_in_random_pieces_gets_the_verdict_of_one_segment(plain: Rig, based: Rig, case: RequestCase) -> None:
    rig = based if case.base else plain
    whole = await judge(rig, case)
    assert await judge(rig, case, random_pieces(case.raw, case.id)) == whole
    assert await judge(rig, case, at_line_ends(case.raw)) == whole


@pytest.mark.parametrize("case", [case for case in RESPONSES if 0 < len(case.raw) <= SMALL], ids=lambda case: case.id)
async def test_a_response_byte_by_byte_gets_its_verdict(plain: Rig, case: ResponseCase) -> None:
    await judge_response(plain, case, single_bytes(case.raw))


@pytest.mark.parametrize("case", [case for case in RESPONSES if 0 < len(case.raw) <= MEDIUM], ids=lambda case: case.id)
async def test_a_response_in_random_pieces_gets_its_verdict(plain: Rig, case: ResponseCase) -> None:
    await judge_response(plain, case, random_pieces(case.raw, case.id))
    await judge_response(plain, case, at_line_ends(case.raw))
