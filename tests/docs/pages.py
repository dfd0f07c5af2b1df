"""The documentation as values: pages, their fenced blocks with the stage they play on, links, and anchors as GitHub makes them.

A hidden comment `<!-- stage: file, expired -->` opens a stage (tests/docs/stages.py): the `ini` blocks behind it are its settings, the
`console` blocks behind it are run on it, until the next such comment. `<!-- no stage -->` ends it.
"""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FRONT = ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md")

_FENCE = re.compile(r"( *)(```+)(\w*)$")
_STAGE = re.compile(r"<!-- stage: ([a-z, -]+) -->$")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. `line` is where its text begins; `stage` numbers the stages of the page, `words` are what the stage asks for."""

    page: Path
    line: int
    language: str
    text: str
    stage: int | None
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """`page:line`, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Every page, the front ones first."""
    return (*(ROOT / name for name in FRONT), *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md")))


@cache
def blocks() -> tuple[Block, ...]:
    """Every fenced block of every page, in order."""
    return tuple(block for page in pages() for block in _read(page))


def blocks_of(*languages: str) -> list[Block]:
    """The blocks in one of these languages."""
    return [block for block in blocks() if block.language in languages]


def _read(page: Path) -> Iterator[Block]:
    stage, words, number = None, (), 0
    fence, language, began, lines = "", "", 0, []
    for at, line in enumerate(page.read_text().splitlines(), 1):
        found = _FENCE.match(line)
        if fence:
            if found and found[2] == fence and not found[3]:
                text = textwrap.dedent("".join(f"{one}\n" for one in lines))
                yield Block(page=page, line=began, language=language, text=text, stage=stage, words=words)
                fence = ""
            else:
                lines.append(line)
        elif found:
            fence, language, began, lines = found[2], found[3], at + 1, []
        elif opened := _STAGE.match(line):
            number += 1
            stage, words = number, tuple(word.strip() for word in opened[1].split(","))
        elif line == "<!-- no stage -->":
            stage, words = None, ()
    assert not fence, f"{page}: a block that begins at line {began} does not end"


@cache
def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    kept, fence = [], ""
    for line in page.read_text().splitlines():
        found = _FENCE.match(line)
        if found:
            fence = "" if fence == found[2] else fence or found[2]
        elif not fence:
            kept.append(line)
    return "\n".join(kept)


def links(page: Path) -> list[str]:
    """The target of each link, in prose and tables; code is no link."""
    return _LINK.findall(_CODE.sub("`code`", prose(page)))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What `#...` may name on this page."""
    made: list[str] = []
    for line in prose(page).splitlines():
        heading = re.match(r"#{1,6} (.+?)\s*$", line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            plain = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            made.append(plain if plain not in made else f"{plain}-{made.count(plain)}")
    return frozenset(made)


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with the output shown below it."""
    assert block.text.startswith("$ "), f"{block.name}: a console block begins with `$ `"
    found = []
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        count = 1
        while lines[count - 1].endswith("\\"):
            count += 1
        found.append(("\n".join(lines[:count]), "\n".join(lines[count:])))
    return found
