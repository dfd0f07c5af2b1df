"""The commands of the pages are run, page by page and in order, and say what the pages show; `...` in a page stands for anything."""

import itertools
import re
import shutil
from collections.abc import Iterator

import pytest
from tests.docs.pages import ROOT, Block, blocks, blocks_of, commands
from tests.docs.stages import WORDS, Stage

from robin.testing.waiting import eventually

ELSEWHERE = {
    "README.md": "make up and make test are what runs this",
    "docs/tutorials/first-five-minutes.md": "tests/journeys/test_tutorial.py",
    "docs/reference/benchmarks.md": "ten minutes of both cores",
}
"""Pages whose commands run in another test, or cannot run in one, and why."""

OF_OTHERS = frozenset("docker kubectl systemctl journalctl systemd-analyze make git pip sudo spire-server spire-agent promtool".split())
"""Programs that a test machine need not have, or must not be told such things: a block of their commands alone is shown, not run."""


def plays() -> Iterator[list[Block]]:
    """The `ini` and `console` blocks of each stage that has commands."""
    staged = [block for block in blocks() if block.stage is not None and block.language in {"ini", "console"}]
    for _, found in itertools.groupby(staged, key=lambda block: (block.page, block.stage)):
        play = list(found)
        if any(block.language == "console" for block in play):
            yield play


def matches(shown: str, said: str) -> bool:
    """Whether `said` is what the page shows, but for white space and what the page leaves out."""
    parts = re.sub(r"\s", "", shown).split("...")
    return re.fullmatch(".*".join(re.escape(part) for part in parts), re.sub(r"\s", "", said)) is not None


@pytest.fixture(scope="module", autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("the pages use curl: install it to run their commands")


@pytest.mark.parametrize("play", list(plays()), ids=lambda play: f"{play[0].page.stem}-{play[0].stage}")
async def test_the_commands_of_a_page_say_what_it_shows(play: list[Block]) -> None:
    async with Stage(*play[0].words) as stage:
        for block in play:
            if block.language == "ini":
                stage.settings(block.text)
                continue
            for command, shown in commands(block):
                await check(stage, block, command, shown)


async def check(stage: Stage, block: Block, command: str, shown: str) -> None:
    """Run one command. What it says may take a moment to become true: a log line to be written, a refresh to fail."""
    if not shown:
        said = await stage.run(command)
        assert not said, f"{block.name}: {command}\nsaid {said}"
        return
    last = ""

    async def holds() -> bool:
        nonlocal last
        last = await stage.run(command)
        return matches(shown, last)

    try:
        await eventually(holds, timeout_s=8.0, every_s=0.2, what=command)
    except TimeoutError:
        pytest.fail(f"{block.name}: {command}\nsaid:\n{last}\nshown:\n{shown}")


def test_stages_are_made_of_known_words() -> None:
    assert {word for block in blocks() for word in block.words} <= WORDS.keys()


@pytest.mark.parametrize("block", [block for block in blocks_of("console") if block.stage is None], ids=lambda block: block.name)
def test_a_block_of_commands_that_is_not_run_is_of_programs_that_cannot_be(block: Block) -> None:
    if str(block.page.relative_to(ROOT)) not in ELSEWHERE:
        for command, _ in commands(block):
            assert OF_OTHERS & set(command.split()), f"{block.name}: {command}: give it a stage"


def test_pages_with_commands_elsewhere_still_have_some() -> None:
    assert {str(block.page.relative_to(ROOT)) for block in blocks_of("console")} >= ELSEWHERE.keys()


def test_dots_stand_for_anything_and_nothing_else_does() -> None:
    assert matches('{"a": ..., "b": 1}\n', '{"a":[1,2],"b":1}')
    assert not matches('{"a": ..., "b": 1}\n', '{"a":[1,2],"b":2}')
    assert not matches("ok\n", "ok no")
