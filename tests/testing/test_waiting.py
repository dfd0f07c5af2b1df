"""eventually: it returns what it waited for, and a failure says what that was."""

import pytest

from robin.testing.waiting import eventually


async def test_it_returns_the_first_true_value_of_the_probe():
    values = iter([None, 0, [], "there", "later"])
    assert await eventually(lambda: next(values), every_s=0) == "there"


async def test_it_awaits_an_async_probe():
    answers = iter([False, 7])

    async def probe() -> int:
        return next(answers)

    assert await eventually(probe, every_s=0) == 7


async def test_the_failure_names_what_was_waited_for_and_what_was_last_seen():
    with pytest.raises(TimeoutError, match=r"waited 0 s for the moon; last seen: \[\]"):
        await eventually(list, timeout_s=0, what="the moon")
