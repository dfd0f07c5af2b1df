"""The kubelet itself rotates a projected token. This test is run last, so that the wait overlaps with the other tests."""

import pytest
from tests.cluster.parts import rotation
from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import aside, states
from tests.cluster.parts.upstream import ClusterUpstream
from tests.real.parts.process import poll

CALL = "import openai; print(openai.OpenAI(max_retries=0).get('/models', cast_to=object)['sub'])"


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_kubelet_rotates_the_token_and_robin_uses_the_new_one(
    cluster: NodeCluster, rotating: tuple[float, float], broker: ClusterUpstream
):
    issued_at, expires_at = rotating
    assert expires_at - issued_at == rotation.SHORTEST_S
    renewed_at, _ = await aside(
        poll,
        lambda: found if (found := rotation.times(cluster))[0] > issued_at else None,
        timeout_s=rotation.SHORTEST_S,
        every_s=1.0,
        what="the kubelet to rotate the token",
    )
    assert issued_at + 0.75 * rotation.SHORTEST_S < renewed_at < expires_at, "for its age, and before it has expired"
    code, text = await aside(cluster.execute, "app", "app", "/usr/bin/python3", "-c", CALL, namespace=rotation.NAMESPACE)
    assert (code, text.strip()) == (0, f"system:serviceaccount:{rotation.NAMESPACE}:default")
    (seen,) = broker.judgements
    assert (seen.verdict.reason, seen.verdict.claims["iat"]) == ("", renewed_at)
    found = states(await aside(cluster.get, "pod", "app", namespace=rotation.NAMESPACE))
    assert (found["robin"]["restartCount"], found["robin"]["ready"]) == (0, True)
