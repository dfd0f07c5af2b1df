"""A Dockerfile as values: instructions by stage, arguments put in; enough of the grammar to hold a file of ours to its rules."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

DOCKERFILE = Path(__file__).parents[2] / "deploy" / "docker" / "Dockerfile"
KNOWN = frozenset("ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN SHELL STOPSIGNAL USER VOLUME WORKDIR".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction: its word and the rest of the line, continuations joined. `line` is where it begins."""

    line: int
    word: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest, by blanks, flags left out."""
        return [word for word in self.rest.split() if not word.startswith("--")]

    @property
    def exec_form(self) -> list[str] | None:
        """The rest as a JSON list of strings; None for the shell form."""
        if not self.rest.startswith("["):
            return None
        found = json.loads(self.rest)
        assert all(isinstance(word, str) for word in found)
        return list(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From one FROM to the next."""

    image: str
    name: str
    instructions: tuple[Instruction, ...]

    def of(self, word: str) -> list[Instruction]:
        """The instructions of one kind, in order."""
        return [one for one in self.instructions if one.word == word]

    def one(self, word: str) -> Instruction:
        """The one instruction of its kind."""
        (found,) = self.of(word)
        return found


def instructions(text: str) -> list[Instruction]:
    """All of a Dockerfile. Raises ValueError for a line that is none."""
    found, lines, at = [], text.splitlines(), 0
    while at < len(lines):
        began, line = at + 1, lines[at]
        at += 1
        if not line.strip() or line.startswith("#"):
            continue
        while line.endswith("\\"):
            line = line[:-1] + lines[at].lstrip()
            at += 1
        match = re.fullmatch(r"([A-Z]+) (\S.*)", line)
        if match is None or match[1] not in KNOWN:
            raise ValueError(f"line {began}: {line!r} is no instruction")
        found.append(Instruction(line=began, word=match[1], rest=match[2]))
    return found


def stages(text: str) -> list[Stage]:
    """The stages, in order; ARGs before the first FROM are put into the FROMs."""
    arguments: dict[str, str] = {}
    made: list[tuple[str, str, list[Instruction]]] = []
    for one in instructions(text):
        if one.word == "FROM":
            image, *named = one.words
            image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], image)
            assert not named or (len(named) == 2 and named[0] == "AS"), one
            made.append((image, named[1] if named else "", []))
        elif made:
            made[-1][2].append(one)
        elif one.word == "ARG":
            name, _, value = one.rest.partition("=")
            arguments[name] = value
        else:
            raise ValueError(f"line {one.line}: {one.word} before the first FROM")
    return [Stage(image=image, name=name, instructions=tuple(found)) for image, name, found in made]
