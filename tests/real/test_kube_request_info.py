"""What Robin takes a request to mean is what kube-apiserver takes it to mean (K2, K3): the cluster's own audit log is the oracle.

The minted account has no rights, so nothing happens in the cluster; the event of a refused request has its verb and object all the same.
"""

import os
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from tests.policy.test_kube_vectors import PATHS, REFUSED, VECTORS
from tests.real.parts.kube import Cluster
from tests.real.parts.kube_plane import Bed, kube_plane
from tests.real.parts.raw_agent import ask_all

from robin.policy.kube.request_info import RequestInfo
from robin.policy.kube.tiers import CLUSTER_SCOPED, GROUPS, RESOURCES, TierSettings, base_tier

pytestmark = pytest.mark.real

COUNT = int(os.environ.get("ROBIN_TARGETS", "1500"))
SEED = 20261130
Asked = tuple[str, str, tuple[str, ...]]
SWITCH = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
N = "/api/v1/namespaces/shop"

WORDS = (
    "namespaces namespaces namespaces pods pods secrets configmaps deployments nodes services serviceaccounts status finalize scale exec"
    " attach portforward proxy log token eviction binding watch shop kube-system web-0 x:y:80 api apis v1 a.b"
).split()
ODD = [
    "A",
    "a%22b",
    "system%3Anode",
    "%7Cx",
    "a+b",
    "a%2Bb",
    "~x",
    "a..b",
    "...",
    "-",
    "a%2Fb",
    "..",
    ".",
    "%2e",
    "%C3%B6",
    "a;b",
    "%20",
    "",
    "a@b",
    "%3f",
]
PLACES = f"/api/v1 /api/v1 {N} {N} /apis/apps/v1 /apis/apps/v1/namespaces/shop /apis/batch/v1 /apis/x.example/v1beta1 /apis /api /healthz"
ROOTS = [*PLACES.split(" "), "/logs", ""]
FIELD_SELECTORS = """
metadata.name=x metadata.name==x metadata.name!=x metadata.name=b,metadata.name=a metadata.name==b,metadata.name=a metadata.name=
metadata.name=,metadata.name=x spec.nodeName=n,metadata.name=x metadata.name=a\\,b metadata.name=a\\=b metadata.name=a\\b
metadata.name metadata.name=.. metadata.name=a/b metadata.name=a%25b =x = , ,metadata.name=x a!b=c,metadata.name=x
metadata.name=a=b metadata.name=%C3%B6 metadata.name=x+y metadata.name=x\\ metadata.namespace=y
""".split()
LABEL_SELECTORS = """
a=b a a,b !a a!=b a==b a+in+(b,c) a+in+() a+in+(,) a+in+(b,,c) a+notin+(b) in notin=in a=in in+in+(in) a+in+(b+c) a+in+b a+in+(
a+in+(b a=b=c a+b a> a>1 a<x a>-1 a>1.5 -a=b a=-b a=b- x.example/a=b X.example/a=b /a=b a/=b a/b/c=d a,,b a, ,a a=,b !a=b !!a !
a!b = =b () a() a(b) + a+=+b %09a a=b%09 a=%C3%B6 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=b
a=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a..b/c=d a.b-/c=d
""".split()
PAIRS = [
    *(
        f"watch{value}"
        for value in ["", "=", "=1", "=true", "=false", "=FALSE", "=0", "=00", "=no", "=fal%C5%BFe", "=%46alse", "=+0", "=%30"]
    ),
    *(
        f"limit={value}"
        for value in ["5", "abc", "", "%2B5", "+5", "-1", "007", "9223372036854775807", "9223372036854775808", "1_0", "0x1", "1e1"]
    ),
    *("timeoutSeconds=1", "timeoutSeconds=x", "resourceVersion=0", "sendInitialEvents=true", "continue=x", "shardSelector=x", "dryRun=All"),
    *(
        "allowWatchBookmarks=x",
        "Watch=1",
        "watch%20=1",
        "%77atch=1",
        "pretty=true",
        "x",
        "=y",
        "command=id&command=-u",
        "watch=1;x=1",
        "x=%zz",
    ),
    *(f"fieldSelector={one}" for one in FIELD_SELECTORS),
    *(f"labelSelector={one}" for one in LABEL_SELECTORS),
]


def table() -> Iterator[Asked]:
    """The vectors of the specification, and every selector in the places where it decides."""
    for line in [row[1] for row in VECTORS] + [row[1] for row in PATHS]:
        yield *line.split(" ", 1), ()
    for pair in PAIRS:
        for method in ("GET", "HEAD", "DELETE"):
            yield method, f"{N}/pods?{pair}", ()
        yield "GET", f"/api/v1/secrets?{pair}&watch=1", ()
        yield "GET", f"{N}/pods?fieldSelector=metadata.name%3Dx&{pair}", ()
    for subresource in ("exec", "attach", "portforward", "proxy"):
        yield "GET", f"{N}/pods/web-0/{subresource}?command=id", SWITCH
    yield "GET", f"{N}/services/web/proxy/a//b/%41/?watch=1&watch=2", ()
    yield "GET", "/api/v1/nodes/n1/proxy", ()
    yield "POST", f"{N}/pods/web-0/proxy/x", ()


def generated(count: int) -> Iterator[Asked]:
    """Targets of a grammar that is near the API's, with its odd ends."""
    dice = random.Random(SEED)
    for _ in range(count):
        words = [dice.choice(ODD) if dice.random() < 0.06 else dice.choice(WORDS) for _ in range(dice.randrange(7))]
        path = "/".join([dice.choice(ROOTS), *words]) or "/"
        query = "&".join(dice.choice(PAIRS) for _ in range(dice.choice([0, 0, 1, 1, 2, 3])))
        method = dice.choice(["GET", "GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        yield method, path + (f"?{query}" if query else ""), ()


async def compare(bed: Bed, asked: list[Asked]) -> tuple[int, list[str]]:
    """How many requests were forwarded, and the differences."""
    replies = await ask_all(bed, asked)
    decided = {one["id"]: one for one in bed.records("request.decided")}
    done = {one["id"] for one in bed.records("request.done")}
    events = {one["auditID"]: one for one in bed.seen() if one["user"]["username"] == bed.account}
    differences = []
    forwarded = 0
    for (method, target, _), reply in zip(asked, replies, strict=True):
        record, event = decided.get(reply.decision), events.pop(reply.decision, None)
        if record is None or record["decision"] != "allow":
            differences += [f"{method} {target}: refused, and the cluster saw it"] if event else []
            continue
        forwarded += 1
        if event is None or reply.decision not in done:
            differences.append(f"{method} {target}: forwarded ({reply.status}), and the cluster did not see it: {reply.body[:200]!r}")
        elif meant(record) != seen(event):
            differences.append(f"{method} {target}: Robin {meant(record)}, the cluster {seen(event)}")
    stray = [one["requestURI"] for one in events.values() if one.get("objectRef", {}).get("resource") != "selfsubjectaccessreviews"]
    return forwarded, [*differences, *(f"{one}: the cluster saw what Robin did not forward" for one in stray)]


def meant(record: dict[str, Any]) -> tuple[str, ...]:
    keys = ("verb", "group", "version", "resource", "subresource", "namespace", "name")
    return tuple(record[key] for key in keys) if record["resource"] else (record["verb"], record["path"])


def seen(event: dict[str, Any]) -> tuple[str, ...]:
    about = event.get("objectRef")
    if about is None:
        return event["verb"], unquote(event["requestURI"].partition("?")[0])
    keys = ("apiGroup", "apiVersion", "resource", "subresource", "namespace", "name")
    return event["verb"], *(about.get(key, "") for key in keys)


async def test_the_clusters_audit_log_agrees_with_every_request_of_the_table_and_of_the_grammar(kube: Cluster):
    async with kube_plane(kube, rights=[], flags=("--unsafe-self-minting",), tiers={"protect_namespace": False}) as bed:
        asked = [*table(), *generated(COUNT)]
        forwarded, differences = await compare(bed, asked)
        assert differences == []
        assert forwarded > len(asked) // 2, "most of the grammar is to reach the cluster"


UNKNOWN = {("storage.k8s.io", "csistoragecapacities")}
"""Built-in resources that no row of the specification's table names."""


def test_the_tier_table_knows_every_resource_that_the_api_server_serves_and_its_scope(kube: Cluster):
    served = {("", resource["name"]): resource["namespaced"] for resource in kube.request("GET", "/api/v1")["resources"]}
    for group in kube.request("GET", "/apis")["groups"]:
        if "." in group["name"] and not group["name"].endswith(".k8s.io"):
            continue  # of another test
        for version in group["versions"]:
            listed = kube.request("GET", f"/apis/{version['groupVersion']}")["resources"]
            served |= {(group["name"], resource["name"]): resource["namespaced"] for resource in listed}
    whole = {key: namespaced for key, namespaced in served.items() if "/" not in key[1]}
    assert {key for key in whole if key not in RESOURCES and key[0] not in GROUPS and key[1] != "secrets"} == UNKNOWN
    assert {key for key, namespaced in whole.items() if namespaced is (key in CLUSTER_SCOPED)} == set()
    for group_name, name in served.keys() - whole.keys():
        resource, _, subresource = name.partition("/")
        info = RequestInfo(is_resource=True, verb="get", path="", group=group_name, resource=resource, subresource=subresource, name="n")
        assert "unknown" not in base_tier(info, TierSettings()).reason, name


async def test_a_target_that_is_refused_leaves_no_line_in_the_clusters_audit_log(kube: Cluster):
    async with kube_plane(kube, rights=[]) as bed:
        before = len(bed.seen())
        asked: list[Asked] = [(*line.split(" ", 1), ()) for _, line in REFUSED]
        asked += [("GET", f"{N}/pods", SWITCH), ("GET", f"{N}/pods", ("Content-Length: 2", "", "{}"))]
        replies = await ask_all(bed, asked, connections=1)
        assert {reply.status for reply in replies} <= {400, 405}
        assert len(replies) == len(asked)
        assert len(bed.seen()) == before
