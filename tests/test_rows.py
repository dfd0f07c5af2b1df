"""A table in one test hides no row: all are run, and each failure has the name of its row."""

import pytest
from tests.rows import every_row


def run(done: list[str]) -> None:
    with every_row() as row:
        for name in ("first", "second", "third"):
            with row(name):
                done.append(name)
                assert name == "second"


def test_every_row_is_run_and_each_that_fails_is_named() -> None:
    done: list[str] = []
    with pytest.raises(BaseExceptionGroup, match="rows that failed: first, third") as caught:
        run(done)
    assert done == ["first", "second", "third"]
    assert [error.__notes__ for error in caught.value.exceptions] == [["in the row first"], ["in the row third"]]
