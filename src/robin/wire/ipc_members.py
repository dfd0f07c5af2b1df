"""The members of one JSON object of the broker's protocol: all of them, no others, each of its type, or `ipc_malformed`.

What a refusal names for the client are names of the protocol and numbers, never a byte that was sent: the name of an unknown member could
be a bearer in the wrong place.
"""

import re
from collections.abc import Mapping
from typing import Final, NoReturn

from robin.model.passport import CTX_NAMES
from robin.model.passport_reasons import Refused
from robin.wire.transcript import is_digest

LIST_MAX: Final = 32
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_NONCE: Final = re.compile(r"[\x21-\x7e]{8,128}")
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_DIGEST: Final = "64 lower-case hexadecimal digits"


class Members:
    """The members of one object. `at` is where it stands: `envelope`, `request` and below it such as `request.http`."""

    __slots__ = ("_at", "_values")

    def __init__(self, values: object, names: str, at: str) -> None:
        if not isinstance(values, dict):
            refuse_value(at, "an object")
        known = names.split()
        missing = [name for name in known if name not in values]
        unknown = len(values) - len(known) + len(missing)
        if missing or unknown:
            raise Refused("ipc_malformed", "members", extra={"problem": "members", "of": at, "missing": missing, "unknown": unknown})
        self._at = at
        self._values: Mapping[str, object] = values

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def nested(self, name: str, names: str) -> "Members":
        """An object with exactly these members."""
        return Members(self._values[name], names, f"{self._at}.{name}")

    def items(self, name: str) -> list[object]:
        """A list of at most 32."""
        value = self._values[name]
        if not isinstance(value, list) or len(value) > LIST_MAX:
            self.refuse(name, f"a list of at most {LIST_MAX}")
        return value

    def text(self, name: str, *, empty: bool = False) -> str:
        """A string."""
        value = self._values[name]
        if not isinstance(value, str) or not (value or empty):
            self.refuse(name, "a string" if empty else "a string that is not empty")
        return value

    def word(self, name: str, *words: str) -> str:
        """One of these words."""
        value = self._values[name]
        if not isinstance(value, str) or value not in words:
            self.refuse(name, f"one of: {', '.join(words)}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean."""
        value = self._values[name]
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def digest(self, name: str) -> str:
        """A SHA-256."""
        value = self._values[name]
        if not isinstance(value, str) or not is_digest(value):
            self.refuse(name, _DIGEST)
        return value

    def request_id(self, name: str) -> str:
        """An identifier of the client's."""
        value = self._values[name]
        if not is_id(value):
            self.refuse(name, "1 to 128 visible ASCII characters")
        return str(value)

    def nonce(self, name: str) -> str:
        """A nonce."""
        value = self._values[name]
        if not isinstance(value, str) or _NONCE.fullmatch(value) is None:
            self.refuse(name, "8 to 128 visible ASCII characters")
        return value

    def names(self, name: str) -> list[str]:
        """A list of field names in lower case."""
        found = self.items(name)
        if not all(map(is_field_name, found)):
            self.refuse(name, "a list of field names in lower case")
        return [str(one) for one in found]

    def hashed(self, name: str) -> list[tuple[str, str]]:
        """A list of field names with the hash of each value."""
        ones = [Members(one, "name value_sha256", f"{self._at}.{name}[]") for one in self.items(name)]
        if not all(is_field_name(one["name"]) for one in ones):
            self.refuse(name, "names of fields in lower case")
        return [(str(one["name"]), one.digest("value_sha256")) for one in ones]

    def fields(self, name: str) -> list[tuple[str, str]]:
        """A list of pairs of field name, in lower case from here on, and value."""
        found = []
        for pair in self.items(name):
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                self.refuse(name, "a list of pairs of field name and value")
            if not is_field_name(pair[0].lower()):
                self.refuse(name, "pairs whose first is a field name")
            found.append((pair[0].lower(), pair[1].strip(" \t")))
        return found

    def context(self, name: str) -> Mapping[str, str]:
        """An object of context values, in which nothing is required."""
        values = self._values[name]
        if not isinstance(values, dict) or not all(
            known in CTX_NAMES and isinstance(value, str) and len(value) <= 256 for known, value in values.items()
        ):
            self.refuse(name, f"an object of strings of at most 256 characters, with names among: {', '.join(sorted(CTX_NAMES))}")
        return {known: str(value) for known, value in values.items()}

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raise the refusal of the value of this member."""
        refuse_value(f"{self._at}.{name}", expected)


def is_id(value: object) -> bool:
    """Whether a request_id has its form."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_field_name(value: object) -> bool:
    """Whether this is the name of a field in lower case."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def refuse_value(member: str, expected: str) -> NoReturn:
    """Raise the refusal of a value: which member, and what it has to be."""
    word = member.rpartition(".")[2].removesuffix("[]")
    raise Refused("ipc_malformed", word, extra={"problem": "value", "member": member, "expected": expected})


def refuse_line(problem: str) -> NoReturn:
    """Raise the refusal of a line that cannot be read as one JSON object of the protocol."""
    raise Refused("ipc_malformed", problem, extra={"problem": problem}) from None
