"""The tier table of `robin kube` (section 6): every row, the raises by body, the lowering."""

import json

import pytest

from robin.policy.kube.body import read_body
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, judge, read_content, read_request
from robin.policy.kube.request_info import RequestInfo
from robin.policy.kube.rules import PolicyDocument
from robin.policy.kube.tiers import Classification, TierSettings, base_tier

VERBS = ("get", "create", "delete", "deletecollection")
PROXY = ("", "nodes", "proxy")
ROWS = [
    (
        "4444",
        [
            ("", "nodes", "proxy"),
            ("x.example", "things", "proxy"),
            ("", "pods", "exec"),
            ("", "pods", "attach"),
            ("", "pods", "portforward"),
        ],
    ),
    (
        "4444",
        [
            ("", "serviceaccounts", "token"),
            ("", "pods", "binding"),
            ("", "bindings", ""),
            ("", "namespaces", "finalize"),
            ("x", "y", "finalizers"),
        ],
    ),
    (
        "4444",
        [("certificates.k8s.io", "certificatesigningrequests", "approval"), ("", "pods", "unheard"), ("apps", "deployments", "rollback")],
    ),
    ("0444", [("", "pods", "ephemeralcontainers"), ("", "nodes", "status"), ("", "namespaces", "status")]),
    ("0344", [("", "pods", "status"), ("apps", "deployments", "status")]),
    ("4344", [("", "pods", "eviction")]),
    ("0244", [("apps", "deployments", "scale"), ("", "pods", "resize")]),
    ("0444", [("", "pods", "log")]),
    ("3334", [("", "secrets", ""), ("g.example", "secrets", "")]),
    (
        "0234",
        [("", name, "") for name in "pods replicationcontrollers podtemplates configmaps services persistentvolumeclaims events".split()],
    ),
    ("0234", [("apps", name, "") for name in "deployments replicasets statefulsets daemonsets".split()]),
    (
        "0234",
        [
            ("batch", "jobs", ""),
            ("batch", "cronjobs", ""),
            ("networking.k8s.io", "ingresses", ""),
            ("autoscaling", "horizontalpodautoscalers", ""),
        ],
    ),
    (
        "0234",
        [("resource.k8s.io", "resourceclaims", ""), ("resource.k8s.io", "resourceclaimtemplates", ""), ("events.k8s.io", "events", "")],
    ),
    ("0334", [("", name, "") for name in "serviceaccounts resourcequotas limitranges endpoints".split()]),
    (
        "0334",
        [("networking.k8s.io", "networkpolicies", ""), ("policy", "poddisruptionbudgets", ""), ("discovery.k8s.io", "endpointslices", "")],
    ),
    ("0334", [("coordination.k8s.io", "leases", ""), ("apps", "controllerrevisions", "")]),
    ("0444", [("", name, "") for name in "namespaces nodes persistentvolumes componentstatuses".split()]),
    (
        "0444",
        [("storage.k8s.io", "storageclasses", ""), ("storage.k8s.io", "csidrivers", ""), ("scheduling.k8s.io", "priorityclasses", "")],
    ),
    ("0444", [("node.k8s.io", "runtimeclasses", ""), ("metrics.k8s.io", "pods", ""), ("custom.metrics.k8s.io", "x", "")]),
    (
        "0444",
        [(f"{g}.k8s.io", "x", "") for g in "rbac.authorization admissionregistration apiextensions apiregistration certificates".split()],
    ),
    ("0444", [(f"{g}.k8s.io", "x", "") for g in "flowcontrol.apiserver internal.apiserver storagemigration external.metrics".split()]),
    ("0444", [(f"{g}.openshift.io", "x", "") for g in "authorization oauth security user".split()]),
    ("4044", [("authorization.k8s.io", "selfsubjectaccessreviews", ""), ("authorization.k8s.io", "selfsubjectrulesreviews", "")]),
    ("4044", [("authentication.k8s.io", "selfsubjectreviews", "")]),
    ("4344", [("authorization.k8s.io", "subjectaccessreviews", ""), ("authentication.k8s.io", "tokenreviews", "")]),
    ("2444", [("x.example", "things", ""), ("", "unheard", "")]),
]


@pytest.mark.parametrize(("row", "kinds"), ROWS, ids=lambda value: str(value)[:70])
def test_every_row_of_the_table(row: str, kinds: list[tuple[str, str, str]]):
    for group, resource, subresource in kinds:
        found = [
            base_tier(
                RequestInfo(is_resource=True, verb=verb, path="", group=group, resource=resource, subresource=subresource, name="n"),
                TierSettings(),
            ).tier
            for verb in VERBS
        ]
        assert found == [int(tier) for tier in row], (group, resource, subresource)


def tier_of(entry: Classification, group: str, resource: str, verb: str, subresource: str = "") -> int:
    info = RequestInfo(is_resource=True, verb=verb, path="", group=group, resource=resource, subresource=subresource)
    return base_tier(info, TierSettings(classify=(entry,))).tier


def test_classify_sets_any_tier_of_a_group_that_no_row_knows_and_elsewhere_only_raises():
    own = Classification(group="x.example", resources=("things",), read=0, write=2, delete=3)
    assert [tier_of(own, "x.example", "things", verb) for verb in VERBS] == [0, 2, 3, 4]
    known = Classification(group="apps", resources=("deployments",), read=0, write=3, delete=0)
    assert [tier_of(known, "apps", "deployments", verb) for verb in VERBS] == [0, 3, 3, 4]
    assert tier_of(own, "x.example", "things", "get", "proxy") == 4


def pod(**spec: object) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}).encode()


def container(**fields: object) -> bytes:
    return pod(containers=[{"name": "c", **fields}])


JSON = "application/json"
GRAVE = [
    pod(volumes=[{"hostPath": {"path": "/"}}]),
    pod(hostPID=True),
    pod(hostIPC=True),
    pod(hostNetwork=True),
    pod(HOSTNETWORK=True),
    pod(nodeName="n1"),
    container(securityContext={"privileged": True}),
    container(securityContext={"allowPrivilegeEscalation": True}),
    container(securityContext={"capabilities": {"add": ["NET_ADMIN"]}}),
    container(securityContext={"procMount": "Unmasked"}),
    container(securityContext={"windowsOptions": {"hostProcess": True}}),
    container(ports=[{"hostPort": 80}]),
    container(livenessProbe={"httpGet": {"host": "169.254.169.254", "port": 80}}),
    container(lifecycle={"preStop": {"tcpSocket": {"host": "10.0.0.1", "port": 80}}}),
    container(securityContext={"seccompProfile": {"type": "Unconfined"}}),
    container(securityContext={"appArmorProfile": {"type": "Unconfined"}}),
    container(securityContext={"seLinuxOptions": {"type": "spc_t"}}),
    pod(template={"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/c": "unconfined"}}}),
    b'{"spec":{"containers":[{"securityContext":{"privileged":true,"privileged":false}}]}}',
]
SENSITIVE = [
    pod(serviceAccountName="admin"),
    pod(serviceAccount="admin"),
    pod(automountServiceAccountToken=True),
    pod(volumes=[{"secret": {"secretName": "s"}}]),
    pod(volumes=[{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
    container(env=[{"valueFrom": {"secretKeyRef": {"name": "s"}}}]),
    container(envFrom=[{"secretRef": {"name": "s"}}]),
    pod(volumes=[{"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]),
    pod(volumes=[{"azureFile": {"secretName": "s", "shareName": "x"}}]),
    pod(volumes=[{"projected": {"sources": [{"podCertificate": {"signerName": "s"}}]}}]),
]
PLAIN = [
    pod(hostNetwork=False, serviceAccountName="default", automountServiceAccountToken=False),
    container(securityContext={"privileged": False, "capabilities": {"add": [], "drop": ["ALL"]}}, ports=[{"containerPort": 80}]),
    container(livenessProbe={"httpGet": {"path": "/", "port": 80}}, securityContext={"seccompProfile": {"type": "RuntimeDefault"}}),
    container(securityContext={"seLinuxOptions": {"level": "s0:c1,c2"}}, env=[{"name": "host", "value": "x"}]),
]
UNREADABLE = [
    (b"k8s\x00\x0a", "application/vnd.kubernetes.protobuf"),
    (b"\xa1", "application/cbor"),
    (b"{", JSON),
    (pod(), ""),
    (pod(), "text/plain"),
    (b"a: &x 1\nb: *x\n", "application/yaml"),
    (b"a: !!str 1\n", "application/yaml"),
    (b"? {hostPID: true}\n: [\n", "application/yaml"),
    (b"a: 1\n---\nhostPID: true\n", "application/yaml"),
    (b"- a\n" * 20000, "application/yaml"),
    (b"spec: {containers: [{securityContext: {capabilities: {<<: {add: [SYS_ADMIN]}}}}]}", "application/apply-patch+yaml"),
    (b'{"spec": {"<<": {"a": 1}}}', "application/yaml"),
    (b"[" * 5000 + b"]" * 5000, "application/yaml"),
    (b"[" + b"[]," * 100000 + b"[]]", JSON),  # read as a whole it would hold all other requests for a second
]


def judged(
    body: bytes, content_type: str = JSON, *, line: str = "POST /api/v1/namespaces/shop/pods", mode: str = "strict", classify=()
) -> int:
    method, _, target = line.partition(" ")
    settings = KubePolicySettings(inspect_bodies=mode, tiers=TierSettings(classify=classify))
    request = read_request(HeadFacts(method=method, target=target.encode(), content_type=content_type, has_body=True), settings)
    return judge(request, read_content(request, body), "a", PolicyDocument(), settings, now=0.0).tier


@pytest.mark.parametrize("body", GRAVE, ids=lambda value: value.decode()[-70:])
def test_a_pod_that_reaches_the_node_is_break_glass(body: bytes):
    assert (judged(body), judged(body, mode="host"), judged(body, mode="off")) == (4, 4, 2)


@pytest.mark.parametrize("body", SENSITIVE, ids=lambda value: value.decode()[-70:])
def test_a_pod_that_reaches_secrets_or_accounts_is_sensitive(body: bytes):
    assert (judged(body), judged(body, mode="host"), judged(body, mode="off")) == (3, 2, 2)


@pytest.mark.parametrize("body", PLAIN, ids=lambda value: value.decode()[-70:])
def test_a_plain_pod_is_a_modification(body: bytes):
    assert judged(body) == 2


@pytest.mark.parametrize(("body", "content_type"), UNREADABLE, ids=lambda value: str(value)[:40])
def test_a_body_that_is_not_certainly_read_is_break_glass(body: bytes, content_type: str):
    assert (judged(body, content_type), judged(body, content_type, mode="off")) == (4, 2)


SECRETS = "/api/v1/namespaces/shop/secrets"
SERVICES = "/api/v1/namespaces/shop/services"
REVISIONS = "/apis/apps/v1/namespaces/shop/controllerrevisions"
TOKEN = b'{"metadata":{"annotations":{"kubernetes.io/service-account.name":"admin"}},"type":"kubernetes.io/service-account-token"}'
OTHERS = [
    (f"POST {SECRETS}", b'{"type":"Opaque","stringData":{"a":"b"}}', JSON, 3),
    (f"POST {SECRETS}", TOKEN, JSON, 4),
    (f"PATCH {SECRETS}/x", TOKEN, "application/apply-patch+yaml", 4),
    (f"PATCH {SECRETS}/x", b"type: kubernetes.io/service-account-token", "application/apply-patch+yaml", 4),
    (f"PATCH {SECRETS}/x", TOKEN.partition(b',"type"')[0] + b"}", "application/merge-patch+json", 4),
    (f"POST {SECRETS}", b'{"type":["kubernetes.io/service-account-token"]}', JSON, 3),
    (f"POST {SECRETS}", b'{"type":"bootstrap.kubernetes.io/token"}', JSON, 4),
    (f"POST {SECRETS}", b"k8s\x00", "application/vnd.kubernetes.protobuf", 4),
    ("POST /apis/x.example/v1/namespaces/shop/secrets", b"k8s\x00", "application/vnd.kubernetes.protobuf", 3),
    (f"POST {SERVICES}", b'{"spec":{"ports":[{"port":80}],"externalIPs":[]}}', JSON, 2),
    (f"PATCH {SERVICES}/s", b'{"spec":{"externalIPs":["10.96.0.1"]}}', "application/merge-patch+json", 4),
    (f"POST {REVISIONS}", b'{"data":{"spec":{"template":{"spec":{"$patch":"replace","hostPID":true}}}}}', JSON, 4),
    (f"POST {REVISIONS}", b'{"data":{"spec":{"template":{"spec":{"containers":[]}}}}}', JSON, 3),
]


@pytest.mark.parametrize(("line", "body", "content_type", "tier"), OTHERS, ids=lambda value: str(value)[:60])
def test_other_bodies_that_reach_as_far_have_that_tier_too(line: str, body: bytes, content_type: str, tier: int):
    """A token Secret is a serviceaccounts/token; a controller makes pods of a revision; an external IP takes the traffic of all."""
    assert judged(body, content_type, line=line) == tier
    assert judged(body, content_type, line=line, mode="off") == (2 if SERVICES in line else 3)


def test_a_custom_resource_that_classify_lowers_cannot_bring_a_pod_to_the_node():
    """What an operator makes of a template is a pod, so what reaches the node is sought there too; names of Secrets are not."""
    entry = Classification(group="argoproj.io", resources=("rollouts",), read=0, write=2, delete=3)
    line = "POST /apis/argoproj.io/v1alpha1/namespaces/shop/rollouts"
    grave = b'{"spec":{"template":{"spec":{"volumes":[{"hostPath":{"path":"/"}}]}}}}'
    for body, tier in ((grave, 4), (b'{"spec":{"secretName":"s"}}', 2), (b"{", 4)):
        assert judged(body, line=line, classify=(entry,)) == tier
    assert judged(grave, line=line, classify=(entry,), mode="off") == 2


def test_yaml_without_aliases_is_read():
    assert judged(b"spec:\n  containers:\n  - name: c\n", "application/yaml") == 2
    assert judged(b"spec:\n  hostNetwork: yes\n", "application/yaml") == 4


@pytest.mark.parametrize(
    ("operations", "tier"),
    [
        ([{"op": "add", "path": "/metadata/labels/a", "value": "b"}], 2),
        ([{"op": "add", "path": "/spec/template/spec/hostNetwork", "value": True}], 4),
        ([{"op": "add", "path": "/spec/template/spec/containers/0/securityContext/capabilities/add/-", "value": "SYS_ADMIN"}], 4),
        ([{"op": "replace", "path": "/spec/template/spec", "value": {"hostPID": True}}], 4),
        ([{"op": "copy", "from": "/metadata/annotations/x", "path": "/spec/template/spec/hostPID"}], 4),
        ([{"op": "remove", "path": "/spec/template/spec/hostPID"}], 2),
        ([{"op": "add", "path": "/a" * 200, "value": 1}], 4),
        ([{"op": "add", "path": "/a" + "b" * 5000, "value": 1}], 4),
        ([{"op": "add", "path": "/a" * 99, "value": 1}] * 300, 4),  # thousands of these would hold all other requests for seconds
    ],
    ids=lambda value: str(value)[:70],
)
def test_a_json_patch_is_judged_by_what_it_sets(operations: list[dict[str, object]], tier: int):
    line = "PATCH /apis/apps/v1/namespaces/shop/deployments/web"
    assert judged(json.dumps(operations).encode(), "application/json-patch+json", line=line) == tier


@pytest.mark.parametrize(
    ("line", "tier"),
    [
        ("POST /api/v1/namespaces/shop/configmaps?dryRun=All", 1),
        ("POST /api/v1/namespaces/shop/configmaps?dryRun=", 2),
        ("DELETE /api/v1/namespaces/shop/configmaps/c?dryRun=All", 3),
        ("POST /api/v1/namespaces/shop/serviceaccounts/a/token?dryRun=All", 4),
        ("POST /apis/x.example/v1/namespaces/shop/things?dryRun=All", 4),
    ],
)
def test_a_dry_run_lowers_a_modification_of_what_is_known(line: str, tier: int):
    assert judged(b"{}", line=line) == tier


def test_members_are_kept_with_their_duplicates():
    body = read_body(b'{"a":1,"a":2}', JSON)
    assert list(body.content) == [("a", 1), ("a", 2)]
