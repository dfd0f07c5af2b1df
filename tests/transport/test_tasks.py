"""The owner of tasks: it keeps them, tells their failures by name, and ends them all."""

import asyncio
import gc

import pytest

from robin.transport.tasks import TaskOwner


@pytest.fixture
def failures() -> list[tuple[str, BaseException]]:
    return []


@pytest.fixture
def owner(failures: list[tuple[str, BaseException]]) -> TaskOwner:
    return TaskOwner(lambda name, error: failures.append((name, error)))


async def test_a_task_that_nobody_holds_lives_to_its_end(owner: TaskOwner):
    ended = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        ended.set()

    owner.start(work(), "work")
    gc.collect()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)
    assert len(owner) == 0


async def test_a_failure_is_told_with_the_tasks_name_and_the_task_is_forgotten(owner: TaskOwner, failures: list[tuple[str, BaseException]]):
    error = ValueError("x")

    async def fail() -> None:
        raise error

    task = owner.start(fail(), "upload")
    await asyncio.wait([task])
    assert failures == [("upload", error)]
    assert len(owner) == 0


async def test_close_cancels_awaits_and_tells_nothing(owner: TaskOwner, failures: list[tuple[str, BaseException]]):
    tidied = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # tidying may await
            tidied.append(name)

    for name in ("one", "two"):
        owner.start(wait(name), name)
    await asyncio.sleep(0)
    await owner.close()
    assert sorted(tidied) == ["one", "two"]
    assert len(owner) == 0
    assert failures == []


async def test_a_failure_while_closing_is_told(owner: TaskOwner, failures: list[tuple[str, BaseException]]):
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("while tidying")

    owner.start(stubborn(), "stubborn")
    await asyncio.sleep(0)
    await owner.close()
    assert [(name, type(error)) for name, error in failures] == [("stubborn", OSError)]
