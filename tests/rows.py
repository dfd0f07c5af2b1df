"""A table of many small cases in one test: every row is run, and the failure names each row that failed.

A test of its own for each row costs more in pytest than in work where the rows are thousands and each takes a millisecond.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Row = Callable[[str], AbstractContextManager[None]]


@contextmanager
def every_row() -> Iterator[Row]:
    """Run each row as `with row(name):`. At the end, raise a group of all that failed, each with its row's name as a note."""
    failures: list[BaseException] = []
    names: list[str] = []

    @contextmanager
    def row(name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            error.add_note(f"in the row {name}")
            failures.append(error)
            names.append(name)

    yield row
    if failures:
        raise BaseExceptionGroup(f"rows that failed: {', '.join(names)}", failures)
