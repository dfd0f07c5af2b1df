"""Invariant: any bytes as a request of an agent are refused by a known code, or mean the same rendered anew, and are judged with a tier."""

# ruff: noqa: PT017 - a check asserts on what was raised, outside of pytest too

import re

from robin.model.kube_faults import KUBE_FAULTS
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, judge, read_content, read_request
from robin.policy.kube.request_info import read_request_info
from robin.policy.kube.rules import Agent, Operation, PolicyDocument, Rule, Runbook
from robin.policy.kube.target import Malformed, parse_target, render_target

N = b"/api/v1/namespaces/shop"
SEEDS = (
    b"GET " + N + b"/pods?fieldSelector=metadata.name%3Dx&labelSelector=a+in+(b,c),!d&limit=5\napplication/json\n",
    b"GET " + N + b"/pods/web-0/exec?command=sh&command=-c&stdin=true\n\n",
    b"GET " + N + b"/services/https:web:443/proxy/a//b/%41/?watch=1&watch=2\n\n",
    b"PUT /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode\napplication/json\n{}",
    b"POST "
    + N
    + b'/pods\napplication/json\n{"metadata":{"name":"p"},"spec":{"hostNetwork":true,"containers":[{"ports":[{"hostPort":1}]}]}}',
    b'PATCH /apis/apps/v1/namespaces/shop/deployments/web\napplication/json-patch+json\n[{"op":"add","path":"/spec/a~1b/0/-","value":{}}]',
    b'PATCH /apis/apps/v1/namespaces/shop/deployments/web/scale\napplication/merge-patch+json\n{"spec":{"replicas":3}}',
    b"PATCH " + N + b"/pods/p\napplication/apply-patch+yaml\nspec:\n  hostNetwork: yes\n  a: [1, ~, {b: 'c'}]\n",
    b"POST " + N + b"/configmaps?dryRun=All\napplication/yaml\nmetadata: {name: x}\n---\n",
    b"DELETE /api/v1/nodes/n1/proxy/run/..;/x\n\n",
    b"GET /api/v1/watch/secrets?watch=fal%C5%BFe\n\n",
)
WORDS = (
    *(
        b"%2f",
        b"%2E",
        b"..",
        b"//",
        b";",
        b"%00",
        b"%c5%bf",
        b"proxy",
        b"watch",
        b"namespaces",
        b"status",
        b"metadata.name=",
        b"\\,",
        b"!=",
    ),
    *(
        b"hostPath",
        b'"op":"copy"',
        b"privileged",
        b"&a",
        b"*a",
        b"<<: ",
        b"!!str",
        b"[" * 200,
        b"{" * 200,
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"1e999",
    ),
)
EVERYWHERE = Rule(
    name="r",
    namespaces=("*",),
    cluster_scope=True,
    nonresource=("*",),
    names=("w*",),
    tiers={0: "allow", 1: "allow", 3: "deny"},
    runbooks=("b",),
)
POLICY = PolicyDocument(
    agents={"a": Agent(name="a", rules=(EVERYWHERE,))}, runbooks={"b": Runbook(operations=(Operation(only_paths=("/spec/replicas",)),))}
)
SETTINGS = KubePolicySettings(protected="robin-system")


def check(data: bytes) -> None:
    """Raise when the invariant does not hold for `data`: method and target, content type, body."""
    line, _, rest = data.partition(b"\n")
    kind, _, body = rest.partition(b"\n")
    method, _, target = line.partition(b" ")
    head = HeadFacts(method=method.decode("latin-1"), target=target, content_type=kind.decode("latin-1"), has_body=bool(body))
    try:
        request = read_request(head, SETTINGS)
    except Malformed as refused:
        assert refused.code in KUBE_FAULTS, refused.code
        assert refused.detail.isascii()
        return
    outbound = render_target(request.target)
    assert re.fullmatch(rb"/[!-~]*", outbound), outbound
    assert re.search(rb"(?:/|%2f)(?:\.|%2e){1,2}(?:/|%2f|$)", outbound.partition(b"?")[0], re.IGNORECASE) is None, outbound
    assert b"#" not in outbound
    again = parse_target(outbound, max_bytes=1 << 20)
    assert again == request.target
    assert read_request_info(request.method, again) == request.info
    for _, octets in ((True, body), (False, None)):
        decision = judge(request, read_content(request, octets if request.reads_body else None), "a", POLICY, SETTINGS, now=0.0)
        assert 0 <= decision.tier <= 4
        assert decision.base_tier <= 4
        assert (decision.code == "") is (decision.decision == "allow")
        if decision.tier == 4:
            assert decision.code, "no rule of this policy allows tier 4"
