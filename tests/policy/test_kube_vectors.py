"""The vectors of the specification of `robin kube`, section 5.3 (K1): what a request means, its tier, or the code that refuses it."""

from urllib.parse import quote

import pytest

from robin.policy.kube.judge import HeadFacts, KubePolicySettings, judge, read_content, read_request
from robin.policy.kube.rules import PolicyDocument
from robin.policy.kube.target import Malformed, parse_target, render_target

N, A = "/api/v1/namespaces/shop", "/apis/apps/v1/namespaces/shop"
LABELS_ONLY = (b'{"metadata":{"labels":{"a":"b"}}}', "application/merge-patch+json")
RBAC = "rbac.authorization.k8s.io"
ARGO = "/apis/argoproj.io/v1alpha1/namespaces/shop/applications"

# number, request, verb, resource[/subresource], group, namespace, name, tier
VECTORS = [
    (1, f"GET {N}/pods", "list", "pods", "", "shop", "", 0),
    (1, "HEAD /api/v1/pods", "list", "pods", "", "", "", 0),
    (2, f"GET {N}/pods/web-0", "get", "pods", "", "shop", "web-0", 0),
    (2, f"GET {N}/pods/web-0?watch=true", "get", "pods", "", "shop", "web-0", 0),
    (3, f"GET {N}", "get", "namespaces", "", "shop", "shop", 0),
    (3, f"GET {N}/status", "get", "namespaces/status", "", "shop", "shop", 0),
    (3, f"PUT {N}/finalize", "update", "namespaces/finalize", "", "shop", "shop", 4),
    (4, f"GET {N}/pods?watch", "watch", "pods", "", "shop", "", 0),
    (4, f"GET {N}/pods?watch=yes", "watch", "pods", "", "shop", "", 0),
    (4, f"GET {N}/pods?watch=TRUE", "watch", "pods", "", "shop", "", 0),
    (4, f"GET {N}/pods?watch=False", "list", "pods", "", "shop", "", 0),
    (4, f"GET {N}/pods?watch=0", "list", "pods", "", "shop", "", 0),
    (4, f"GET {N}/pods?watch=fal%C5%BFe", "list", "pods", "", "shop", "", 0),  # Go folds the long s to an s
    (4, f"GET {N}/pods?watch=fal%C5%BFe&limit=x", "watch", "pods", "", "shop", "", 0),  # unless the options do not decode
    (5, f"GET {N}/pods?limit=abc&watch=1&fieldSelector=metadata.name%3Dx", "watch", "pods", "", "shop", "", 0),
    (6, f"GET {N}/secrets?watch", "watch", "secrets", "", "shop", "", 3),
    (6, f"GET {N}/secrets?fieldSelector=metadata.name%3Ddb", "list", "secrets", "", "shop", "db", 3),
    (7, f"DELETE {A}/deployments", "deletecollection", "deployments", "apps", "shop", "", 4),
    (7, f"DELETE {A}/deployments/web", "delete", "deployments", "apps", "shop", "web", 3),
    (7, f"DELETE {N}/pods/p?dryRun=All", "delete", "pods", "", "shop", "p", 3),
    (8, f"PATCH {A}/deployments/web/scale", "patch", "deployments/scale", "apps", "shop", "web", 2),
    (8, f"PATCH {A}/deployments/web?dryRun=All", "patch", "deployments", "apps", "shop", "web", 1),
    (9, f"GET {N}/pods/web-0/exec?command=id", "get", "pods/exec", "", "shop", "web-0", 4),
    (9, f"POST {N}/pods/web-0/portforward", "create", "pods/portforward", "", "shop", "web-0", 4),
    (10, "GET /api/v1/nodes/n1/proxy/runningpods/", "get", "nodes/proxy", "", "", "n1", 4),
    (10, f"GET {N}/services/https:web:443/proxy/admin/", "get", "services/proxy", "", "shop", "https:web:443", 4),
    (11, f"GET {N}/pods/web-0/log?follow=true", "get", "pods/log", "", "shop", "web-0", 0),
    (
        12,
        "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "create",
        "selfsubjectaccessreviews",
        "authorization.k8s.io",
        "",
        "",
        0,
    ),
    (
        13,
        "POST /apis/authorization.k8s.io/v1/namespaces/shop/localsubjectaccessreviews",
        "create",
        "localsubjectaccessreviews",
        "authorization.k8s.io",
        "shop",
        "",
        3,
    ),
    (14, f"POST {N}/serviceaccounts/ci/token?dryRun=All", "create", "serviceaccounts/token", "", "shop", "ci", 4),
    (15, f"POST {N}/pods/web-0/eviction", "create", "pods/eviction", "", "shop", "web-0", 3),
    (15, f"PATCH {N}/pods/web-0/ephemeralcontainers", "patch", "pods/ephemeralcontainers", "", "shop", "web-0", 4),
    (16, f"PUT /apis/{RBAC}/v1/clusterroles/system%3Anode", "update", "clusterroles", RBAC, "", "system:node", 4),
    (17, f"GET {ARGO}", "list", "applications", "argoproj.io", "shop", "", 2),
    (17, f"GET {ARGO}/x/status", "get", "applications/status", "argoproj.io", "shop", "x", 2),
    (18, "GET /apis/g.example/v1/namespaces/shop/secrets", "list", "secrets", "g.example", "shop", "", 3),
    (19, "GET /apis/batch/v1/namespaces/shop/jobs/j/x/y", "get", "jobs/x", "batch", "shop", "j", 4),
]
PATHS = [
    (20, "GET /apis/apps/v1", 0),
    (20, "GET /api", 0),
    (20, "GET /version", 0),
    (20, "GET /openapi/v3/apis/apps/v1?hash=AB", 0),
    (20, "GET /metrics", 3),
    (20, "GET /logs/x", 4),
    (20, "POST /version", 4),
]
REFUSED = [
    ("path_segment", "GET //api/v1/secrets"),
    ("path_segment", "GET /api/v1/namespaces//secrets"),
    ("path_segment", "GET /apis/apps/v1/"),
    ("path_segment", f"GET {N}/pods/../secrets"),
    ("path_segment", f"GET {N}/pods/%2e%2E/x"),
    ("path_segment", f"GET {N}/services/web/proxy/a/../b"),
    ("path_char", "GET /api/v1/namespaces/shop%2Fsecrets"),
    ("path_char", f"GET {N}/%252e"),
    ("path_char", f"GET {N}/pods%5c"),
    ("path_char", "GET /api/v1/%73ecrets"),
    ("path_char", "GET /api/v1/sh%C3%B6p"),
    ("path_char", "GET /api/v1/pods%00"),
    ("path_char", "GET /api/v1/pods;x"),
    ("path_char", "GET /api/v1/pods%zz"),
    ("path_char", f"GET {N}/services/web/proxy/a%2fb"),
    ("path_legacy", "GET /api/v1/watch/secrets"),
    ("path_legacy", "GET /apis/apps/v1/watch/x"),
    ("path_legacy", "GET /api/v1/proxy/pods/p"),
    ("path_legacy", "GET /api/v1/watch"),
    ("path_name", "GET /api/v1/Secrets"),
    ("path_name", "GET /api/v1/namespaces/Shop/pods"),
    ("path_name", f"GET {N}/pods/{'n' * 254}"),
    ("query", f"GET {N}/pods?watch=0&watch=1"),
    ("query", f"GET {N}/pods?watch=1;x=1"),
    ("query", f"GET {N}/pods?watch=%zz"),
    ("query", f"GET {N}/pods?x=%ff"),
    ("query", f"GET {N}/pods?x=%0a"),
    ("query", f"GET {N}/pods/p/exec?command=%00"),
    ("query", f"GET {N}/pods?{'&'.join(f'k{n}=1' for n in range(257))}"),
    ("target_form", "GET https://k/api/v1/secrets"),
    ("target_form", "GET /api/v1/secrets#x"),
    ("target_form", "GET *"),
    ("target_form", "GET /" + "a" * 8192),
    ("method", f"OPTIONS {N}/pods"),
]


def settled(line: str, body: bytes | None = None, content_type: str = ""):
    method, _, target = line.partition(" ")
    head = HeadFacts(method=method, target=target.encode(), content_type=content_type, has_body=body is not None)
    settings = KubePolicySettings()
    request = read_request(head, settings)
    return request, judge(request, read_content(request, body), "a", PolicyDocument(), settings, now=0.0)


@pytest.mark.parametrize(
    ("number", "line", "verb", "resource", "group", "namespace", "name", "tier"), VECTORS, ids=lambda value: str(value)[:60]
)
def test_a_request_means_what_the_api_server_takes_it_to_mean(number, line, verb, resource, group, namespace, name, tier):
    body = LABELS_ONLY if number == 8 and "dryRun" in line else (None, "")
    request, decision = settled(line, *body)
    info = request.info
    assert (info.verb, info.full_resource, info.group, info.namespace, info.name) == (verb, resource, group, namespace, name)
    assert info.is_resource
    assert decision.tier == tier, decision.tier_reason


@pytest.mark.parametrize(("number", "line", "tier"), PATHS, ids=str)
def test_what_is_no_resource_has_the_tier_of_its_path(number, line, tier):
    request, decision = settled(line)
    assert (request.info.is_resource, request.info.verb) == (False, line.partition(" ")[0].lower())
    assert decision.tier == tier


@pytest.mark.parametrize(("code", "line"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_readers_could_take_differently_is_refused(code, line):
    with pytest.raises(Malformed) as refusal:
        settled(line)
    assert refusal.value.code == f"kube.{code}"


@pytest.mark.parametrize(
    ("target", "outbound"),
    [
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node"),
        (f"{N}/pods?watch", f"{N}/pods?watch="),
        (f"{N}/pods?labelSelector=a%3Db&limit=+5", f"{N}/pods?labelSelector=a%3Db&limit=%205"),
        (f"{N}/pods/a%22b", f"{N}/pods/a%22b"),
        (f"{N}/services/web/proxy/a//b%C3%B6/?x=1&x=2", f"{N}/services/web/proxy/a//b%C3%B6/?x=1&x=2"),
        ("/", "/"),
    ],
)
def test_the_outbound_target_is_made_anew_and_means_the_same(target: str, outbound: str):
    parsed = parse_target(target.encode())
    assert render_target(parsed, prefix=b"/k8s") == b"/k8s" + outbound.encode()
    assert parse_target(outbound.encode()) == parsed


@pytest.mark.parametrize(
    ("selector", "name"),
    [
        ("metadata.name=x", "x"),
        ("metadata.name==x", "x"),
        ("metadata.name!=x", ""),
        ("spec.nodeName=n,metadata.name=x", "x"),
        ("metadata.name=b,metadata.name=a", "a"),
        ("metadata.name==b,metadata.name=a", "b"),
        ("metadata.name=,metadata.name=x", ""),
        (r"metadata.name=a\,b", "a,b"),
        ("metadata.name", ""),
        ("metadata.name=a=b", ""),
        ("metadata.name=..", ""),
        ("metadata.name=a/b", ""),
        ("metadata.name=a%25b", ""),
    ],
)
def test_a_field_selector_gives_a_name_only_as_the_api_server_reads_it(selector: str, name: str):
    request, _ = settled(f"GET {N}/pods?fieldSelector={selector.replace('%25', '%2525')}")
    assert request.info.name == name


LABELS = [
    "a=b",
    "a in (b,c)",
    "!a",
    "a notin (x)",
    "x.example/a!=b",
    "a",
    "a in ()",
    "a in (,b,,)",
    "in",
    "notin in (in)",
    "a>1",
    "a=,b",
    "a = b",
    "",
]
NO_LABELS = [
    "a=b=c",
    "a in b",
    "a in (",
    "-a=b",
    "a=-b",
    "a>",
    "a>x",
    "a,",
    "a,,b",
    "!",
    "!!a",
    "a in (b c)",
    "a(b)",
    "a/b/c",
    "A..b/c",
    "=b",
    "a b",
    "a=b\u00f6",
]


@pytest.mark.parametrize("selector", LABELS)
def test_a_label_selector_that_parses_keeps_the_name(selector: str):
    request, _ = settled(f"GET {N}/pods?fieldSelector=metadata.name%3Dx&labelSelector={quote(selector)}")
    assert request.info.name == "x"


@pytest.mark.parametrize("selector", NO_LABELS)
def test_a_label_selector_that_does_not_parse_drops_the_name(selector: str):
    request, _ = settled(f"GET {N}/pods?fieldSelector=metadata.name%3Dx&labelSelector={quote(selector)}")
    assert request.info.name == ""


@pytest.mark.parametrize(
    ("number", "name"), [("5", "x"), ("%2B5", "x"), ("0" * 50 + "5", "x"), ("", ""), ("9" * 19, ""), ("1_0", ""), ("9" * 5000, "")]
)
def test_a_limit_that_is_no_number_of_64_bits_drops_the_name(number: str, name: str):
    assert settled(f"GET {N}/pods?fieldSelector=metadata.name%3Dx&limit={number}")[0].info.name == name


UPGRADES = [
    ({"method": "GET", "target": f"{N}/pods", "upgrade": "websocket"}, "kube.upgrade"),
    ({"method": "GET", "target": f"{N}/pods/p/exec", "upgrade": "h3"}, "kube.upgrade"),
    ({"method": "POST", "target": f"{N}/pods/p/exec", "upgrade": "websocket"}, "kube.upgrade"),
    (
        {"method": "GET", "target": f"{N}/pods/p/exec", "upgrade": "websocket", "protocols": ("base64url.bearer.authorization.k8s.io.x",)},
        "kube.upgrade",
    ),
    ({"method": "GET", "target": f"{N}/pods", "has_body": True}, "kube.body_unexpected"),
    ({"method": "POST", "target": f"{N}/pods", "has_body": True, "content_encoding": "gzip"}, "kube.body_encoding"),
    ({"method": "GET", "target": f"{N}/pods", "names": ("impersonate-extra-scopes",)}, "kube.impersonation"),
]


@pytest.mark.parametrize(("facts", "code"), UPGRADES, ids=lambda value: str(value)[:70])
def test_a_head_that_asks_for_too_much_is_refused(facts, code):
    head = HeadFacts(**{**facts, "target": facts["target"].encode(), "asks_upgrade": "upgrade" in facts})
    with pytest.raises(Malformed) as refusal:
        read_request(head, KubePolicySettings())
    assert refusal.value.code == code


def test_a_login_among_the_subprotocols_is_taken_out():
    protocols = ("base64url.bearer.authorization.k8s.io.x, v5.channel.k8s.io",)
    head = HeadFacts(method="GET", target=f"{N}/pods/p/exec".encode(), upgrade="websocket", asks_upgrade=True, protocols=protocols)
    assert read_request(head, KubePolicySettings()).subprotocols == ("v5.channel.k8s.io",)
