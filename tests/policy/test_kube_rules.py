"""The rules of a policy of `robin kube` (section 7): what an allow covers, what a deny touches, runbooks, what no policy can lift."""

import dataclasses
import json
import tracemalloc
from collections.abc import Iterator

import pytest

from robin.policy.kube.body import Members, changed_paths, read_body
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, judge, read_content, read_request
from robin.policy.kube.rules import Agent, Operation, PolicyDocument, Rule, Runbook, matches_glob

N = "/api/v1/namespaces/shop"
RESTARTED = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt"
RUNBOOKS = {
    "restart": Runbook(operations=(Operation(verbs=("patch",), groups=("apps",), resources=("deployments",), only_paths=(RESTARTED,)),)),
    "scale": Runbook(operations=(Operation(verbs=("patch", "update"), resources=("deployments/scale",), only_paths=("/spec/replicas",)),)),
}


def decide(
    line: str,
    *rules: Rule,
    body: bytes | None = None,
    kind: str = "application/json",
    agent: str = "a",
    protected: str = "",
    now: float = 0.0,
):
    method, _, target = line.partition(" ")
    settings = KubePolicySettings(protected=protected)
    policy = PolicyDocument(agents={"a": Agent(name="a", rules=rules)}, runbooks=RUNBOOKS)
    head = HeadFacts(method=method, target=target.encode(), content_type=kind, has_body=body is not None)
    request = read_request(head, settings)
    return judge(request, read_content(request, body), agent, policy, settings, now=now)


def allow(tier: int = 0, **fields: object) -> Rule:
    return Rule(name="allow", tiers={tier: "allow"}, **{"namespaces": ("*",), **fields})  # type: ignore[arg-type]


def deny(tier: int = 0, **fields: object) -> Rule:
    return Rule(name="deny", tiers={tier: "deny"}, **{"namespaces": ("*",), **fields})  # type: ignore[arg-type]


CASES = [
    ("an allow of the namespace", f"GET {N}/pods", [allow(namespaces=("sh?p",))], "allow"),
    ("another namespace", f"GET {N}/pods", [allow(namespaces=("dev",))], "deny"),
    ("an exception of the namespaces", f"GET {N}/pods", [allow(except_namespaces=("shop",))], "deny"),
    ("a tier that no rule names", f"GET {N}/secrets", [allow(0)], "deny"),
    ("everything, with namespaces only", "GET /api/v1/pods", [allow()], "deny"),
    ("everything, with the cluster scope", "GET /api/v1/pods", [allow(cluster_scope=True)], "allow"),
    ("everything, and a deny of one namespace", "GET /api/v1/pods", [allow(cluster_scope=True), deny(namespaces=("x-prod",))], "deny"),
    ("the same rules reversed", "GET /api/v1/pods", [deny(namespaces=("x-prod",)), allow(cluster_scope=True)], "deny"),
    (
        "cluster-scoped, and a deny of one namespace",
        "GET /api/v1/nodes",
        [allow(cluster_scope=True), deny(namespaces=("x-prod",))],
        "allow",
    ),
    ("a path", "GET /metrics", [allow(3, namespaces=(), nonresource=("/metrics*",))], "allow"),
    ("a path, with namespaces only", "GET /version", [allow()], "deny"),
    ("a verb", f"GET {N}/pods", [allow(verbs=("get",))], "deny"),
    ("the core group", f"GET {N}/pods", [allow(groups=("",))], "allow"),
    ("another group", f"GET {N}/pods", [allow(groups=("apps",))], "deny"),
    ("a resource", f"GET {N}/pods", [allow(resources=("pods",))], "allow"),
    ("a resource is not its subresources", f"GET {N}/pods/p/log", [allow(resources=("pods",))], "deny"),
    ("any subresource", f"GET {N}/pods/p/log", [allow(resources=("pods/*",))], "allow"),
    ("subresources are not the resource", f"GET {N}/pods/p", [allow(resources=("pods/*",))], "deny"),
    ("everything", f"GET {N}/pods/p/log", [allow(resources=("*",))], "allow"),
    ("a name", f"GET {N}/pods/web", [allow(names=("web*",))], "allow"),
    ("no name, and an allow with names", f"GET {N}/pods", [allow(names=("web*",))], "deny"),
    ("no name, and a deny with names", f"GET {N}/secrets", [allow(3), deny(3, names=("db",))], "deny"),
    ("another name, and a deny with names", f"GET {N}/secrets/x", [allow(3), deny(3, names=("db",))], "allow"),
    ("a name by a field selector", f"GET {N}/pods?fieldSelector=metadata.name%3Dweb", [allow(names=("web",))], "allow"),
]


@pytest.mark.parametrize(("what", "line", "rules", "decision"), CASES, ids=[case[0] for case in CASES])
def test_an_allow_covers_all_and_a_deny_touches_any(what: str, line: str, rules: list[Rule], decision: str):
    assert decide(line, *rules).decision == decision
    assert decide(line, *reversed(rules)).decision == decision


@pytest.mark.parametrize(("name", "decision"), [("other", "allow"), ("db", "deny"), (None, "deny")])
def test_a_create_takes_its_name_from_a_body_that_is_readable(name: str | None, decision: str):
    body = json.dumps({"metadata": {"name": name} if name else {"generateName": "db"}}).encode()
    rules = [allow(2), deny(2, resources=("configmaps",), names=("db",))]
    assert decide(f"POST {N}/configmaps", *rules, body=body).decision == decision


def test_the_name_of_a_yaml_body_with_a_merge_key_is_not_known():
    body = b"metadata: {name: other, <<: {name: db}}"  # the API server's reader takes `db`
    assert decide(f"POST {N}/configmaps", allow(2, names=("other",)), body=body, kind="application/yaml").decision == "deny"
    assert decide(f"POST {N}/configmaps", allow(2), deny(2, names=("db",)), body=body, kind="application/yaml").decision == "deny"


def test_a_body_with_long_names_far_down_takes_no_memory_to_match_a_runbook():
    depth, name = 200, b'{"' + b"k" * 10_000 + b'":'
    body = read_body(name * depth + b"1" + b"}" * depth, "application/merge-patch+json")
    tracemalloc.start()
    try:
        assert changed_paths(body) is None
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_rule_that_has_expired_says_nothing():
    rule = allow(expires_at=10.0)
    assert (decide(f"GET {N}/pods", rule, now=9.0).decision, decide(f"GET {N}/pods", rule, now=10.0).decision) == ("allow", "deny")


RESTART = {"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}
IMAGE = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}}
PATCHES = [
    (RESTART, "application/strategic-merge-patch+json", "allow"),
    (RESTART, "application/apply-patch+yaml", "deny"),
    (IMAGE, "application/strategic-merge-patch+json", "deny"),
    (RESTART | {"metadata": {"labels": {"a": "b"}}}, "application/merge-patch+json", "deny"),
    ([{"op": "add", "path": RESTARTED, "value": "now"}], "application/json-patch+json", "allow"),
    ([{"op": "remove", "path": RESTARTED}], "application/json-patch+json", "deny"),
]


@pytest.mark.parametrize(("patch", "kind", "decision"), PATCHES, ids=lambda value: str(value)[:60])
def test_a_runbook_lowers_exactly_its_operation(patch: object, kind: str, decision: str):
    line = "PATCH /apis/apps/v1/namespaces/shop/deployments/web"
    found = decide(line, allow(1, runbooks=("restart", "scale")), body=json.dumps(patch).encode(), kind=kind)
    assert (found.decision, found.tier) == (decision, 1 if decision == "allow" else 2)


class CountedMembers(Members):
    """Counts how often it is looked through."""

    looks = 0

    def __iter__(self) -> Iterator[tuple[str, object]]:
        CountedMembers.looks += 1
        return super().__iter__()


def test_a_body_is_flattened_once_however_many_rules_have_a_runbook():
    settings = KubePolicySettings()
    request = read_request(HeadFacts(method="PATCH", target=b"/apis/apps/v1/namespaces/shop/deployments/web", has_body=True), settings)
    body = read_body(json.dumps(RESTART).encode(), "application/merge-patch+json")
    assert isinstance(body.content, Members)
    body = dataclasses.replace(body, content=CountedMembers(body.content))
    looks = []
    for count in (1, 9):
        rules = tuple(Rule(name=f"r{n}", namespaces=("*",), tiers={0: "allow"}, runbooks=("none", "none")) for n in range(count))
        none = Runbook(operations=(Operation(only_paths=("/a",)), Operation(only_paths=("/b",))))
        CountedMembers.looks = 0
        policy = PolicyDocument(agents={"a": Agent(name="a", rules=rules)}, runbooks={"none": none})
        assert judge(request, body, "a", policy, settings, now=0.0).code == "kube.denied"
        looks.append(CountedMembers.looks)
    assert looks[0] == looks[1]


def test_a_runbook_never_gets_past_a_deny_of_the_tier_it_lowered():
    rules = [allow(1, runbooks=("restart",)), deny(2)]
    body = json.dumps(RESTART).encode()
    line = "PATCH /apis/apps/v1/namespaces/shop/deployments/web"
    assert decide(line, *rules, body=body, kind="application/merge-patch+json").decision == "deny"


def test_an_update_of_a_scale_may_name_its_object():
    body = json.dumps({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 3}}).encode()
    assert decide("PUT /apis/apps/v1/namespaces/shop/deployments/web/scale", allow(1, runbooks=("scale",)), body=body).decision == "allow"


EVERYTHING = Rule(name="all", namespaces=("*",), cluster_scope=True, nonresource=("*",), tiers=dict.fromkeys(range(5), "allow"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("GET /api/v1/namespaces/robin-system/pods", ""),
        ("GET /api/v1/namespaces/robin-system/secrets", "kube.protected"),
        ("GET /api/v1/namespaces/robin-system/pods/p/exec", "kube.protected"),
        ("DELETE /api/v1/namespaces/robin-system", "kube.protected"),
        ("POST /api/v1/namespaces/robin-system/serviceaccounts/robin-agent/token", "kube.protected"),
        ("DELETE /api/v1/pods", "kube.protected"),
        ("GET /api/v1/secrets", "kube.protected"),
        ("GET /api/v1/namespaces/shop/secrets", ""),
    ],
)
def test_no_policy_opens_the_namespace_of_robins_accounts(line: str, code: str):
    assert decide(line, EVERYTHING, protected="robin-system").code == code


def test_an_agent_that_is_not_in_the_policy_is_denied():
    assert decide(f"GET {N}/pods", EVERYTHING, agent="b").code == "kube.unknown_agent"


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        ("*", "", True),
        ("a*c", "abbc", True),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        ("A", "a", False),
        ("a.c", "abc", False),
        ("*-prod", "x-prod", True),
    ],
)
def test_a_glob_is_the_whole_string(glob: str, text: str, matches: bool):
    assert matches_glob(glob, text) is matches
