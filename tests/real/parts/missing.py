"""A real part that is not here: the error says which one, and the one thing to do about it."""

import contextlib
from collections.abc import Iterator


class MissingPart(Exception):
    """`name` cannot be used on this machine; `remedy` is a full sentence naming what to install or run."""

    def __init__(self, *, name: str, remedy: str) -> None:
        super().__init__(f"{name}: {remedy}")
        self.name = name
        self.remedy = remedy


@contextlib.contextmanager
def as_missing(name: str, failure: type[Exception]) -> Iterator[None]:
    """Raise MissingPart for this failure, whose text is the remedy."""
    try:
        yield
    except failure as raised:
        raise MissingPart(name=name, remedy=str(raised)) from None
