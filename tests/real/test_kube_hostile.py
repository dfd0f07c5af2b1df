"""An agent with a small policy whose account may do everything: whatever it sends, the cluster sees reads of its namespace only.

RBAC hides nothing here, so the cluster's audit log shows each request that slipped through Robin.
"""

import asyncio
import json

import pytest
import yaml
from tests.real.parts.kube import Cluster
from tests.real.parts.kube_plane import Bed, bind, kube_plane
from tests.real.parts.raw_agent import ask_all, context_of
from tests.real.test_kube_request_info import COUNT, Asked, N, generated, table

pytestmark = pytest.mark.real

LOOK = {"name": "look", "namespaces": ["shop"], "verbs": ["get", "list"], "tiers": {"0": "allow"}}
ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]
SECRETS = "GET /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = "GET /version HTTP/1.1\r\nHost: robin\r\nConnection: close\r\n\r\n"
EXEC = f"{N}/pods/web-0/exec?command=id"
SWITCH = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
IMPERSONATIONS = ("Impersonate-Group", "impersonate_user", "IMPERSONATE-UID", "Impersonate-Extra-scopes")

RAW = [
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SECRETS)}\r\n\r\n{SECRETS}",
    f"POST {N}/pods HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: {len(SECRETS)}\r\n\r\n{SECRETS}",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{SECRETS}",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{SECRETS}",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nX: a\nAuthorization: y\r\n\r\n",
    f"GET {N}/pods\tHTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET {N}/pods HTTP/1.1 \r\nHost: x\r\n\r\n",
    f"GET {N}/pods /api/v1/secrets HTTP/1.1\r\nHost: x\r\n\r\n",
    f"GET http://kubernetes{N}/pods/../secrets HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT kubernetes:443 HTTP/1.1\r\nHost: kubernetes:443\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\n{SWITCH}\r\n{SECRETS}",
    f"GET {EXEC} HTTP/1.1\r\nHost: x\r\n{SWITCH}\r\n{SECRETS}",
    f"GET {EXEC} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n{SECRETS}",
    f"DELETE {N}/pods HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\nX-Method-Override: DELETE\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nX-Original-URL: /api/v1/secrets\r\nX-Rewrite-URL: /api/v1/secrets\r\n\r\n",
    *(
        f"GET {N}/pods HTTP/1.1\r\nHost: x\r\n{name}: system:masters\r\n\r\n"
        for name in ("Impersonate-Group", "impersonate_user", "IMPERSONATE-UID")
    ),
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nX-Remote-User: admin\r\nX-Remote-Group: system:masters\r\nX_Remote_Extra-a: b\r\n\r\n",
    f"GET {N}/pods HTTP/1.1\r\nHost: x\r\nConnection: authorization, audit-id, host, close-not\r\n\r\n",
]
TARGETS = [
    f"{N}/pods/../secrets",
    f"{N}/pods/%2e%2e/secrets",
    f"{N}/pods/..%2fsecrets",
    f"{N}/pods%2f..%2fsecrets",
    f"{N}//secrets",
    "//api/v1/secrets",
    f"{N}/secrets/",
    f"{N}/pods;/../secrets",
    f"{N}/pods/x;/exec",
    "/api/v1/namespaces/shop/../../secrets",
    "/api/v1/namespaces/shop%2f..%2f..%2fsecrets",
    f"{N}/pods?x=1;watch=1",
    f"{N}/pods?watch=0&watch=1",
    f"{N}/pods?watch=false&%77atch=true",
    f"{N}/pods?limit=x&watch=1",
    f"{N}/pods/web-0/exec",
    f"{N}/pods/web-0/attach",
    f"{N}/pods/web-0/portforward",
    f"{N}/pods/web-0/proxy/",
    f"{N}/services/web/proxy/",
    "/api/v1/nodes/n1/proxy/exec",
    "/api/v1/nodes/n1/proxy/run",
    "/api/v1/proxy/namespaces/shop/pods/x",
    "/api/v1/watch/namespaces/shop/pods",
    "/logs/",
    "/debug/pprof/",
    "/metrics",
    "/configz",
    "/apis/x/v1/namespaces/shop/secrets",
    f"{N}/serviceaccounts/default/token",
]


def writes() -> list[Asked]:
    """Every write on what is in the namespace, as an agent might try it."""
    paths = [
        f"{N}/{kind}{name}"
        for kind in ("pods", "configmaps", "serviceaccounts/default/token", "bindings", "secrets")
        for name in ("", "/x")
    ]
    paths += [f"{N}/pods/x/{one}" for one in "exec attach eviction binding ephemeralcontainers status resize".split()]
    paths += [
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval",
    ]
    paths += ["/api/v1/namespaces", "/api/v1/nodes/n1/status", f"/apis/apps/v1{N[7:]}/deployments/web/scale", f"{N}/finalize", N]
    return [
        (method, f"{path}{query}", ()) for method in ("POST", "PUT", "PATCH", "DELETE") for path in paths for query in ("", "?dryRun=All")
    ]


async def test_an_agent_that_may_look_at_one_namespace_does_nothing_else_whatever_it_sends(kube: Cluster):
    async with kube_plane(kube, rules=(LOOK,), rights=[]) as bed:
        await asyncio.to_thread(bind, kube, "", f"all-{bed.shop}", f"{bed.system}:robin-agent", ALL)
        replies = await ask_all(bed, [*table(), *generated(COUNT // 3), *(("GET", one, ()) for one in TARGETS), *writes()])
        raw = [await _send(bed, text) for text in RAW]
        assert all(answer.startswith(b"HTTP/1.1 ") for answer in raw)
        assert {200, 400, 403} <= {reply.status for reply in replies}
        slipped = [one["requestURI"] for one in bed.seen() if one["user"]["username"] == bed.account and not _may(one)]
        assert slipped == []
        assert bed.cluster.request("GET", "/api/v1/namespaces/default")["metadata"]["name"] == "default"
        check_secrets(bed, replies)


DEPLOYMENTS = "/apis/apps/v1/namespaces/{shop}/deployments"
ROOT = {"securityContext": {"privileged": True}}
GRAVE_YAML = [  # what stands in a container, each a way to write capabilities or privileges
    "securityContext: {capabilities: {<<: {add: [SYS_ADMIN]}}}",
    "securityContext: {<<: {privileged: true}}",
    "<<: {securityContext: {privileged: true}}",
    "<<: [{securityContext: {privileged: true}}]",
    "securityContext: {privileged: yes}",
    "securityContext: {? privileged : true}",
    'securityContext: {"privile\\x67ed": true}',
    "securityContext: {capabilities: &x {add: [SYS_ADMIN]}}",
    "securityContext: !!map {privileged: true}",
    "securityContext: {capabilities: {? !!str add : [SYS_ADMIN]}}",
]


def _deployment(container: str) -> bytes:
    pod = f"{{containers: [{{name: c, image: i, {container}}}]}}"
    spec = f"selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {pod}}}"
    return f"{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: NAME}}, spec: {{{spec}}}}}".encode()


async def test_no_body_makes_the_cluster_run_what_a_higher_tier_guards(kube: Cluster):
    rule = {"name": "work", "namespaces": ["*"], "tiers": {"0": "allow", "1": "allow", "2": "allow"}}
    async with kube_plane(kube, rules=(rule,), rights=ALL[:1]) as bed:
        at = DEPLOYMENTS.format(shop=bed.shop)
        json_type, yaml_type, apply = "application/json", "application/yaml", "application/apply-patch+yaml"
        base = _deployment("ports: []")
        assert (await _post(bed, "POST", at, json_type, _as_json(base, "plain"))).startswith(b"HTTP/1.1 201 ")
        assert (await _post(bed, "POST", at, yaml_type, base.replace(b"NAME", b"plain-y"))).startswith(b"HTTP/1.1 201 ")
        for number, text in enumerate(GRAVE_YAML):
            name = f"d{number}".encode()
            body = _deployment(text).replace(b"NAME", name)
            answers = [
                await _post(bed, "POST", at, yaml_type, body),
                await _post(bed, "PATCH", f"{at}/{name.decode()}?fieldManager=x&force=true", apply, body),
            ]
            assert [one[9:12] for one in answers] == [b"403", b"403"], text
        patches = [
            ("application/json-patch+json", [{"op": "add", "path": f"{CONTAINER}/securityContext", "value": ROOT["securityContext"]}]),
            ("application/json-patch+json", [{"op": "add", "path": f"x{CONTAINER}/securityContext", "value": ROOT["securityContext"]}]),
            ("application/json-patch+json", [{"op": "add", "path": "", "value": {"spec": {"template": {"spec": {"hostPID": True}}}}}]),
            ("application/merge-patch+json", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", **ROOT}]}}}}),
            ("application/strategic-merge-patch+json", {"spec": {"template": {"spec": {"$patch": "replace", "hostPID": True}}}}),
        ]
        for kind, patch in patches:
            assert (await _post(bed, "PATCH", f"{at}/plain", kind, json.dumps(patch).encode()))[9:12] == b"403", patch
        secrets = [
            {"type": "kubernetes.io/service-account-token", "metadata": {"name": "s"}},
            {"type": "Opaque", "metadata": {"name": "s"}},
        ]
        for secret in secrets:
            assert (await _post(bed, "POST", f"/api/v1/namespaces/{bed.shop}/secrets", json_type, json.dumps(secret).encode()))[
                9:12
            ] == b"403"
        made = json.dumps(await asyncio.to_thread(kube.request, "GET", at))
        assert '"name": "plain-y"' in made
        assert not [word for word in ("privileged", "SYS_ADMIN", "hostPID") if word in made.replace("allowPrivilegeEscalation", "")]


CONTAINER = "/spec/template/spec/containers/0"


def _as_json(body: bytes, name: str) -> bytes:
    return json.dumps(yaml.safe_load(body.replace(b"NAME", name.encode()))).encode()


async def _post(bed: Bed, method: str, target: str, content_type: str, body: bytes) -> bytes:
    """The response to a request with a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.port, ssl=context_of(bed))
    head = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "Connection: close"]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    octets = await asyncio.wait_for(reader.read(-1), 60)
    writer.close()
    return octets


def _may(event: dict[str, object]) -> bool:
    about = event.get("objectRef") or {}
    assert isinstance(about, dict)
    own = about.get("resource") == "selfsubjectaccessreviews"  # of Robin's own check at the start
    tame = (
        about.get("namespace") == "shop"
        and about.get("resource") != "secrets"
        and about.get("subresource") in (None, "status", "log", "scale")
    )
    return own or (event["verb"] in ("get", "list") and tame)


def check_secrets(bed: Bed, replies: list[object]) -> None:
    """No token stands in what the agent got, in the log or in the audit."""
    texts = [str(reply) for reply in replies] + bed.robin.stdout + bed.robin.stderr + [json.dumps(one) for one in bed.records()]
    bootstrap = (bed.folder / "bootstrap").read_text()
    assert not [text for text in texts if bootstrap in text or "Bearer ey" in text or "eyJ" in text]


async def _send(bed: Bed, text: str) -> bytes:
    """What comes back for these bytes, and a last request behind them, until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bed.port, ssl=context_of(bed))
    writer.write((text + LAST).encode("latin-1"))
    octets = await asyncio.wait_for(reader.read(-1), 60)
    writer.close()
    return octets
