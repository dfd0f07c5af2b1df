"""What the readers of a profile share: the keys of one mapping with their places, and the findings."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, cast

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import shown

if TYPE_CHECKING:
    from robin.config.yaml_reader import Located

_PLAIN: Final = re.compile(r"[ -~]{1,2048}")


class Findings:
    """Errors and warnings, in the order in which they were found."""

    def __init__(self, found: Iterable[Diagnostic] = ()) -> None:
        self._found = list(found)

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(one.severity == "error" for one in self._found)

    def error(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note an error."""
        self.extend((Diagnostic(at=at, code=code, message=message, fix=fix),))

    def warn(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note a warning."""
        self.extend((Diagnostic(at=at, code=code, message=message, fix=fix, severity="warning"),))

    def extend(self, found: Iterable[Diagnostic]) -> None:
        """Note what was found elsewhere; each once."""
        self._found += [one for one in found if one not in self._found]

    def ordered(self) -> tuple[Diagnostic, ...]:
        """All of them by position."""
        return tuple(sorted(self._found, key=lambda one: one.at))


class Keys:
    """The keys of one mapping: values as the schema left them, and where they stand."""

    __slots__ = ("_located", "at")

    def __init__(self, located: "Located", parent: Position) -> None:
        self._located: dict[str, Located] = located.value
        self.at = located.at or parent

    def text(self, name: str) -> str:
        """A text."""
        return cast("str", self._located[name].value)

    def flag(self, name: str) -> bool:
        """A yes or no."""
        return cast("bool", self._located[name].value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(cast("str", item.value) for item in self._located[name].value)

    def number(self, name: str) -> float | None:
        """A number, None where it is left out."""
        return cast("float", self._located[name].value) if name in self._located else None

    def items(self, name: str) -> tuple["Keys", ...]:
        """A list of mappings."""
        return tuple(Keys(item, self.at) for item in self._located[name].value)

    def inner(self, name: str) -> "Keys | None":
        """A mapping, None where it is left out."""
        found = self._located.get(name)
        return None if found is None or found.at is None else Keys(found, self.at)

    def has(self, name: str) -> bool:
        """Whether it stands in the file."""
        found = self._located.get(name)
        return found is not None and found.at is not None

    def place(self, name: str) -> Position:
        """Where it stands, else where the mapping does."""
        found = self._located.get(name)
        return self.at if found is None or found.at is None else found.at

    def words(self) -> "dict[str, Located]":
        """All of a mapping with free names."""
        return self._located

    def plain(self, findings: Findings, name: str) -> str:
        """Printable ASCII, or nothing."""
        text = self.text(name)
        if text and _PLAIN.fullmatch(text) is None:
            findings.error(self.place(name), "value_invalid", f"{name} is not printable ASCII", "write it as the issuer does")
        return text

    def choice(self, findings: Findings, name: str, *values: str) -> str:
        """One of these words."""
        text = self.text(name)
        if text not in values:
            text_of = f"{name} {shown(text)} is not one of its values"
            findings.error(self.place(name), "value_invalid", text_of, f"use {', '.join(values)}")
        return text
