"""The cluster of the session, and the upstreams that its pods call. `make test` leaves these tests out and reports that."""

import asyncio
import gc
import os
import secrets
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.cluster.parts import images, rotation
from tests.cluster.parts.cluster import NodeCluster, node_cluster
from tests.cluster.parts.machine import CannotRun
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.kube_judges import DiscoveryJudge
from tests.real.parts.missing import MissingPart

from robin.testing.certificates import CertificateAuthority

LIMIT_S = 300


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests to `make cluster-test`, unless they are asked for by name; loudly, by a mark."""
    asked = os.environ.get("ROBIN_CLUSTER") == "1" or any("tests/cluster" in argument for argument in config.args)
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        item.add_marker(pytest.mark.cluster)
        # A pod that is deleted leaves its connection to an upstream of ours half open; which test the collector meets it in is chance.
        item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
        if not asked:
            item.add_marker(pytest.mark.skip(reason="NOT RUN: needs a Kubernetes cluster; `make cluster-test` makes one"))
    items.sort(key=lambda item: (_rotates(item), not _breaks(item)))


def pytest_sessionfinish() -> None:
    """What such connections left is collected here: pytest would take it for a failure of the run when all its tests have passed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _rotates(item: pytest.Item) -> bool:
    """Waits for a rotation: run last, since it waits for minutes."""
    return "rotating" in getattr(item, "fixturenames", ())


def _breaks(item: pytest.Item) -> bool:
    """Breaks parts of the node: run first, since a kubelet that restarts mints new tokens."""
    return item.path.name == "test_chaos.py"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    """What upstreams show, and what Robin's image trusts beside the public ones."""
    return CertificateAuthority(Path(tmp_path_factory.mktemp("authority")))


@pytest.fixture(scope="session")
def cluster(authority: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """One cluster for the whole run: make your own namespace in it, see `namespace`."""
    folder = tmp_path_factory.mktemp("images")
    try:
        robin = images.robin()
        trusting = images.with_certificate(robin, folder / "robin.tar", authority.ca_pem, names=[images.ROBIN_IMAGE])
        with node_cluster(trusting, *images.apps(robin)) as made:
            yield made
    except (CannotRun, MissingPart) as lacking:
        judge = pytest.fail if os.environ.get("ROBIN_CLUSTER") == "1" else pytest.skip
        judge(f"no cluster: {lacking}")


@pytest.fixture(scope="session")
def rotating(cluster: NodeCluster) -> tuple[float, float]:
    """When the first token in the pod of `parts/rotation.py` was minted, and when it expires."""
    rotation.begin(cluster)
    return rotation.times(cluster)


@pytest.fixture(autouse=True)
def _begin_early(request: pytest.FixtureRequest) -> None:
    """Where a test of this session waits for a rotation, the wait begins with the first test that breaks nothing."""
    waits = any(_rotates(item) and item.get_closest_marker("skip") is None for item in request.session.items)
    if waits and not _breaks(request.node):
        request.getfixturevalue("rotating")


@pytest.fixture
def namespace(cluster: NodeCluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, with its default account; deleted after."""
    name = f"{request.node.originalname.removeprefix('test_').replace('_', '-')[:50].strip('-')}-{secrets.token_hex(3)}"
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    cluster.has_account("default", namespace=name)
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
async def broker(cluster: NodeCluster, authority: CertificateAuthority, namespace: str) -> AsyncIterator[ClusterUpstream]:
    """https://broker.example:8443 as pods of the cluster reach it: verifies the token of each request by the cluster's own keys."""
    judge = await asyncio.to_thread(DiscoveryJudge, cluster, audience="broker.example")
    tls = authority.issue("broker.example", ends_in_s=86400.0).server_context()
    async with ClusterUpstream(cluster, judge, tls=tls, port=8443) as upstream:
        yield upstream
        await asyncio.to_thread(cluster.delete, "all", "--all", namespace=namespace)  # its callers, before it goes
