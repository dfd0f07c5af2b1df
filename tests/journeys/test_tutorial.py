"""The tutorial tells the truth: what it shows is what `robin up` and curl say, but for ports, times and fingerprints."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.journeys.test_up import Up, running
from tests.rows import every_row

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "first-five-minutes.md"
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    """Each curl command of the page, with the output that the page shows."""
    found = []
    for block in BLOCKS:
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith("curl"):
                found.append((command, output))
    return found


def without_chance(text: str) -> str:
    """Times, lifetimes, addresses and fingerprints as letters."""
    for pattern, letter in (
        (r"\d\d:\d\d:\d\d", "T"),
        (r"valid for \d+ s", "valid for L s"),
        (r"127\.0\.0\.1:\d+", "A"),
        (r"\b[0-9a-f]{12}\b", "F"),
        (r"=/\S*/robin-up-\w+/", "=D/"),
    ):
        text = re.sub(pattern, letter, text)
    return text


@pytest.fixture(scope="module", autouse=True)
def _curl() -> None:
    if shutil.which("curl") is None:
        pytest.skip("the tutorial needs curl: install it to run its commands")


@pytest.fixture
async def up() -> AsyncIterator[Up]:
    with tempfile.TemporaryDirectory(prefix="up") as folder:
        async with running(Path(folder)) as started:
            await started.line("new identity token")
            yield started


async def run(command: str, up: Up) -> str:
    """The command against this `robin up`, whatever its ports are."""
    admin = re.search(r"health: http://127\.0\.0\.1:(\d+)/", "\n".join(up.stdout))[1]
    command = command.replace("127.0.0.1:4000", f"127.0.0.1:{up.port}").replace("127.0.0.1:4001", f"127.0.0.1:{admin}")
    process = await asyncio.create_subprocess_shell(command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return output.decode()


async def test_the_first_screen_is_what_the_page_shows(up):
    _command, _, shown = BLOCKS[0].partition("\n")
    lines = shown.splitlines()
    assert [without_chance(line) for line in up.stdout[: len(lines)]] == [without_chance(line) for line in lines]


def test_the_page_has_its_examples():
    assert len(examples()) == 7


async def test_each_command_says_what_the_page_shows(up):
    with every_row() as row:
        for command, shown in examples():
            with row(command):
                said = re.sub(r"\s", "", await run(command, up))
                pattern = ".*".join(re.escape(part) for part in re.sub(r"\s", "", shown).split("..."))
                assert re.fullmatch(pattern, said), f"said {said}\nnot  {shown}"


async def test_a_refusal_by_the_sidecar_is_on_the_first_screen(up):
    await run("curl -s -H 'Host: evil.example' http://127.0.0.1:4000/hello", up)
    await up.line("ended by the sidecar: host_not_allowed")


async def test_the_broker_itself_refuses_who_has_no_identity(up):
    broker = re.search(r"broker +(http://\S+)", "\n".join(up.stdout))[1]
    assert re.sub(r"\s", "", await run(f"curl -s {broker}/hello", up)) == '{"error":"invalid_token","reason":"missing"}'
