"""Where the text of each setting came from (flag > environment > file > default), and how an error about it is written."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from robin.config.diagnostic import Diagnostic, Position
from robin.config.table import in_yaml

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_]{1,80}")


class Layer(StrEnum):
    """The origin of a value, strongest first."""

    FLAG = "flag"
    ENV = "env"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedValue:
    """The text that won for one key, and its layer.

    `text` None: unset. `line` is the line of the file, `at` its exact position in robin.yaml; `via` the foreign variable it was taken from;
    `note` what people should know.
    """

    key: str
    text: str | None = field(repr=False)  # ROBIN_REQUIRE_HEADER holds a shared secret in effect
    layer: Layer
    line: int | None = None
    at: Position | None = None
    via: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingError:
    """One thing wrong with the settings. `unset`: no layer gave a value, so none is at fault. `at`: the place in robin.yaml to look at."""

    key: str
    layer: Layer
    what: str
    fix: str
    unset: bool = False
    at: Position | None = None

    @classmethod
    def missing(cls, key: str, what: str, fix: str, at: Position | None = None) -> "SettingError":
        """`key` has no value and must have one."""
        return cls(key=key, layer=Layer.DEFAULT, what=what, fix=fix, unset=True, at=at)

    @property
    def diagnostic(self) -> Diagnostic | None:
        """The same about a place in robin.yaml; None when the value came from elsewhere."""
        if self.at is None:
            return None
        code, between = ("key_missing", " ") if self.unset else ("settings_conflict", ": ")
        return Diagnostic(at=self.at, code=code, message=in_yaml(f"{self.key}{between}{self.what}"), fix=in_yaml(self.fix))

    def __str__(self) -> str:
        if (diagnostic := self.diagnostic) is not None:
            return str(diagnostic)
        key = self.key if _PLAIN_KEY.fullmatch(self.key) else ascii(self.key[:80])
        if self.unset:
            return f"robin: {key} {self.what}: {self.fix}"
        return f"robin: {key} (from {self.layer}): {self.what}; {self.fix}"
