"""Real parts as fixtures. A part that is missing skips the test loudly; under ROBIN_REAL=1 (make real, CI) it fails it instead."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pluggy
import pytest
from tests.real.parts.kube import Cluster, kube_cluster
from tests.real.parts.missing import MissingPart
from tests.real.parts.platform import PLATFORMS, on_platform, spiffe_domain
from tests.real.parts.spiffe import SpiffeDomain

LIMIT_S = 400


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each real test more time than others have: it may start a cluster, and a timed one may be run three times.

    Leave the slow ones to CI and to whoever asks for them; by a mark, so that the set-up of the others is left alone.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
    if os.environ.get("CI") or "slow" in config.option.markexpr:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason='slow: CI runs it, and `make real ARGS="-m slow"` does'))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, pluggy.Result[None], None]:
    """Judge a MissingPart that a fixture raised."""
    outcome = yield
    _judge(outcome)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, pluggy.Result[None], None]:
    """Judge a MissingPart that the test raised."""
    outcome = yield
    _judge(outcome)


def _judge(outcome: pluggy.Result[None]) -> None:
    if outcome.excinfo is None or not isinstance(outcome.excinfo[1], MissingPart):
        return
    if os.environ.get("ROBIN_REAL") == "1":
        outcome.force_exception(pytest.fail.Exception(f"real part missing: {outcome.excinfo[1]}", pytrace=False))
    else:
        outcome.force_exception(pytest.skip.Exception(f"real part missing: {outcome.excinfo[1]}"))


@pytest.fixture(params=PLATFORMS)
def platform(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once for each software that can keep a trust domain."""
    with on_platform(request.param):
        yield request.param


@pytest.fixture
def spiffe() -> Iterator[SpiffeDomain]:
    """A trust domain of the test's own, authority and agent running."""
    with spiffe_domain() as domain:
        yield domain


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    """One control plane for the whole run: make your own namespace in it."""
    with kube_cluster() as cluster:
        yield cluster
