"""Real parts as fixtures. `make test` leaves their tests out.

A part that is missing skips a test that is asked for by name, and fails it under ROBIN_REAL=1 (make real, CI).
"""

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pluggy
import pytest
from tests.real.parts.keycloak import Keycloak, keycloak_server
from tests.real.parts.kube import Cluster, kube_cluster
from tests.real.parts.missing import MissingPart
from tests.real.parts.platform import PLATFORMS, on_platform, spiffe_domain
from tests.real.parts.spiffe import SpiffeDomain

LIMIT_S = 400


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests to `make real`, and the slow ones to CI, unless they are asked for by name; loudly, by a mark.

    Each gets more time than other tests have: it may start a cluster, and a timed one may be run three times.
    """
    asked = os.environ.get("ROBIN_REAL") == "1" or any("tests/real" in argument for argument in config.args)
    slow = bool(os.environ.get("CI")) or "slow" in config.option.markexpr
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        if not asked and item.get_closest_marker("real") is not None:
            item.add_marker(pytest.mark.skip(reason="NOT RUN: needs software of others; `make real` runs it"))
        elif not slow and item.get_closest_marker("slow") is not None:
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


@pytest.fixture(scope="session")
def keycloak() -> Iterator[Keycloak]:
    """One authorization server for the whole run: make a realm of your own in it."""
    with keycloak_server() as server:
        yield server
