"""The gateway's chart and kustomizations: rendered by the real helm and kustomize, and judged by a real API server with the real kinds."""

import json
import os
from typing import Any

import pytest
from tests.deploy import renders
from tests.real.parts import crds
from tests.real.parts.kube import Cluster
from tests.real.parts.renders import RenderRefused, apply, helm, kustomize, lint
from tests.real.test_kubernetes_journeys import prepare

pytestmark = pytest.mark.real

ANEW = os.environ.get("ROBIN_RENDER") == "1"


def test_the_kept_renders_are_those_of_helm():
    for name, (release, values) in renders.VARIANTS.items():
        objects = helm(release, values)
        if ANEW:
            renders.keep(name, objects)
        assert objects == renders.kept(name), name
    assert renders.digest() == renders.rendered_from()


@pytest.mark.parametrize("name", renders.VARIANTS)
def test_the_strict_linter_of_helm_has_nothing_against_the_chart(name: str):
    assert "1 chart(s) linted, 0 chart(s) failed" in lint(renders.VARIANTS[name][1])


@pytest.mark.parametrize("name", renders.KUSTOMIZATIONS)
def test_kustomize_renders_the_same_objects_as_helm(name: str):
    objects = kustomize(name)
    if ANEW and name not in renders.VARIANTS:
        renders.keep(name, objects)
    assert objects == renders.of_kustomize(renders.kept(name))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replica": 3}, "replica"),
        ({"auth": {"mode": "none"}}, "auth.mode"),
        ({"auth": {"mode": "open"}}, "topology"),
        ({"auth": {"mode": "open"}, "topology": "per-agent", "config": {"providers": [{"profile": "x"}]}}, "providers"),
        ({"networkPolicy": {"apiServerCidrs": []}}, "apiServerCidrs is empty"),
        ({"ca": {"mode": "none"}}, "listenerSecret"),
        ({"ca": {"signWith": "c"}}, "signWith"),
        ({"auth": {"jwks": "url"}}, "jwksUrl"),
        ({"config": {"routes": [{}]}, "reverse": {"audience": "robin-gateway"}}, "audience"),
        ({"config": {"policy": {"ruls": []}}}, "ruls"),
        ({"pdb": {"minAvailable": 2}}, "minAvailable"),
        ({"pdb": {"minAvailable": "51%"}}, "minAvailable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_helm_refuses_values_that_mean_nothing_or_too_much(values: dict[str, Any], words: str):
    with pytest.raises(RenderRefused, match=words):
        helm("robin-gateway", {**renders.VARIANTS["shared"][1], **values})


@pytest.fixture(scope="module")
def with_kinds(kube: Cluster) -> Cluster:
    """The API server with the kinds of cert-manager and trust-manager."""
    for words in (["apply", "--server-side", "-f", str(crds.obtain())], ["wait", "--for=condition=established", "crd", "--all"]):
        asked = kube.kubectl(*words)
        assert asked.returncode == 0, asked.stderr
    return kube


def test_a_real_api_server_takes_every_render(with_kinds: Cluster):
    kube = with_kinds
    for name in (*renders.VARIANTS, *renders.AGENTS):
        objects = list(renders.kept(name).values())
        prepare(kube, [one for one in objects if one["metadata"].get("namespace")])
        known = [
            renders.as_text(one) for one in objects if one["kind"] != "ServiceMonitor"
        ]  # of the Prometheus operator, which is not here
        told = kube.dry_run("---\n".join(known))
        assert len(told) == len(known), name
        assert all(line.endswith("serverside-applied (server dry run)") for line in told), json.dumps(told)


def test_helm_upgrades_a_release_whose_trust_job_is_still_there_and_changes(with_kinds: Cluster):
    values = {**renders.VARIANTS["shared"][1], "agents": [{"namespace": "upgraded-agents", "podLabels": {"robin": "agent"}}]}
    for name in ("upgraded", "upgraded-agents"):
        with_kinds.create_namespace(name)
    found = []
    for word, tag in (("install", "1"), ("upgrade", "1"), ("upgrade", "2")):
        apply(with_kinds.kubeconfig, word, "robin-gateway", "upgraded", {**values, "image": {"tag": tag}})
        jobs = with_kinds.request("GET", "/apis/batch/v1/namespaces/upgraded/jobs")["items"]
        found.append([(job["metadata"]["uid"], job["spec"]["template"]["spec"]["containers"][0]["image"]) for job in jobs])
    (first,), again, (last,) = found
    assert (again, first[1], last[1]) == ([first], "registry.example/robin:1", "registry.example/robin:2")
