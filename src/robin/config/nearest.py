"""What was meant by a word that nobody knows: the closest known one, or none where none is close, since silly advice misleads."""

from collections.abc import Iterable

_CLOSE = 0.8  # of difflib: about one wrong letter in five
_LENGTH = 80


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that differs from `word` in a few letters only; None where there is none."""
    import difflib  # noqa: PLC0415 - only a mistake pays for it

    found = difflib.get_close_matches(word[:_LENGTH], list(known), n=1, cutoff=_CLOSE)
    return found[0] if found else None
