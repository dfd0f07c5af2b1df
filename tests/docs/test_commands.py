"""The commands of each page are run in order, in one bash, and say what the page shows; `...` in a page stands for anything."""

import contextlib
import itertools
import re
import shutil
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, Block, blocks, blocks_of, commands, pages
from tests.docs.shell import Shell
from tests.docs.stages import WORDS, Stage

from robin.testing.waiting import eventually

ELSEWHERE = {
    "docs/tutorials/kube.md": "tests/planes/kube/test_commands.py",
    "README.md": "make up and make test are what runs this",
    "docs/tutorials/first-five-minutes.md": "tests/journeys/test_tutorial.py",
    "docs/tutorials/passports.md": "tests/planes/broker/test_demo.py",
    "docs/tutorials/gateway.md": "tests/journeys/test_gateway_tutorial.py",
    "docs/how-to/give-an-agent-the-internet.md": "tests/real/clients/test_agent_page.py",
    "docs/reference/benchmarks.md": "ten minutes of both cores",
}
"""Pages whose commands run in another test, or cannot run in one, and why."""

OF_OTHERS = frozenset("docker kubectl systemctl journalctl systemd-analyze make git pip sudo spire-server spire-agent promtool".split())
"""Programs that a test machine need not have, or must not be told such things: a block of their commands alone is shown, not run."""


WRITTEN_BEHIND = re.compile(r"robin\.log|/metrics")
"""What Robin writes when an exchange has ended: a command that looks there the moment after may be early, and is run again."""


def plays(page: Path) -> list[list[Block]]:
    """The `ini` and `console` blocks of each stage of the page that has commands."""
    staged = [block for block in blocks() if block.page == page and block.stage is not None and block.language in {"ini", "console"}]
    found = [list(play) for _, play in itertools.groupby(staged, key=lambda block: block.stage)]
    return [play for play in found if any(block.language == "console" for block in play)]


def matches(shown: str, said: str) -> bool:
    """Whether `said` is what the page shows, but for white space and what the page leaves out."""
    parts = re.sub(r"\s", "", shown).split("...")
    return re.fullmatch(".*".join(re.escape(part) for part in parts), re.sub(r"\s", "", said)) is not None


@pytest.fixture(scope="module", autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("the pages use curl: install it to run their commands")


@pytest.mark.parametrize("page", [page for page in pages() if plays(page)], ids=lambda page: page.stem)
async def test_the_commands_of_a_page_say_what_it_shows(page: Path) -> None:
    async with Shell() as shell:
        for play in plays(page):
            async with Stage(shell, *play[0].words) as stage:
                for block in play:
                    if block.language == "ini":
                        stage.settings(block.text)
                        continue
                    for command, shown in commands(block):
                        await check(stage, f"{block.name}: {command}", command, shown)


async def check(stage: Stage, what: str, command: str, shown: str) -> None:
    """Run one command: it says what is shown, or says nothing and succeeds."""
    said = await stage.run(command)
    if not shown:
        assert (said, stage.code) == ("", 0), what
        return

    async def holds() -> bool:
        nonlocal said
        said = await stage.run(command)
        return matches(shown, said)

    if not matches(shown, said) and WRITTEN_BEHIND.search(command):
        with contextlib.suppress(TimeoutError):
            await eventually(holds, timeout_s=20.0, every_s=0.2, what=command)
    assert matches(shown, said), f"{what}\nsaid:\n{said}\nshown:\n{shown}"


def test_stages_are_made_of_known_words() -> None:
    assert {word for block in blocks() for word in block.words} <= WORDS.keys()


def test_a_block_of_commands_that_is_not_run_is_of_programs_that_cannot_be() -> None:
    for block in blocks_of("console"):
        if block.stage is None and str(block.page.relative_to(ROOT)) not in ELSEWHERE:
            for command, _ in commands(block):
                assert OF_OTHERS & set(command.split()), f"{block.name}: {command}: give it a stage"


def test_pages_with_commands_elsewhere_still_have_some() -> None:
    assert {str(block.page.relative_to(ROOT)) for block in blocks_of("console")} >= ELSEWHERE.keys()
