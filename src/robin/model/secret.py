"""A value that must never be seen: inert in repr, str, format, pickle and comparison; `.reveal()` only where bytes are built."""

from typing import NoReturn


class Secret:
    """Bytes that stay hidden. Only the modules that tests/test_layers.py lists may call `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The bytes themselves, for the one place that writes them to the wire."""
        return self._value

    def wrapped(self, before: bytes, after: bytes) -> "Secret":
        """The same between other bytes, as hidden as before: a value becomes a header line."""
        return Secret(before + self._value + after)

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied out")
