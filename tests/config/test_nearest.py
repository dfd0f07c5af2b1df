"""A suggestion is made only where it is most likely what was meant."""

import pytest

from robin.config.nearest import nearest

KNOWN = ("TOKEN_FILE", "TOKEN_FORMAT", "MAX_HEAD_SIZE", "WORKERS")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("TOKENFILE", "TOKEN_FILE"),
        ("TOKEN_FIEL", "TOKEN_FILE"),
        ("WORKER", "WORKERS"),
        ("TOKEN_PATH", None),
        ("MAX_BODY_SIZE", None),
        ("X", None),
        ("", None),
    ],
)
def test_only_a_close_word_is_named(word: str, meant: str | None) -> None:
    assert nearest(word, KNOWN) == meant


def test_a_long_word_is_cut_before_it_is_compared() -> None:
    assert nearest("WORKERS" + "S" * 1_000_000, KNOWN) is None
