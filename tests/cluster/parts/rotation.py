"""A pod whose token the kubelet replaces while the other tests run: after four fifths of its life, which is ten minutes at least."""

import json

from tests.cluster.parts.cluster import NodeCluster
from tests.cluster.parts.pods import WAIT, shipped

NAMESPACE = "rotation"
SHORTEST_S = 600
TIMES = """
import base64, json
payload = open("/var/run/secrets/tokens/token").read().split(".")[1]
claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
print(json.dumps([claims["iat"], claims["exp"]]))
"""


def begin(cluster: NodeCluster) -> None:
    """The shipped pod with the shortest token that the API server mints; its application waits."""
    pod = shipped("sidecar.yaml")
    (source,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    source["serviceAccountToken"]["expirationSeconds"] = SHORTEST_S
    pod["spec"]["containers"][0]["command"] = ["/usr/bin/python3", "-c", WAIT]
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    cluster.has_account("default", namespace=NAMESPACE)
    cluster.apply(pod, namespace=NAMESPACE)
    cluster.wait_for("pod", "app", "Ready", namespace=NAMESPACE)


def times(cluster: NodeCluster) -> tuple[float, float]:
    """When the token in the pod's volume was minted, and when it expires, in Unix seconds."""
    code, text = cluster.execute("app", "robin", "/usr/bin/python3", "-c", TIMES, namespace=NAMESPACE)
    assert code == 0, text
    issued_at, expires_at = json.loads(text)
    return issued_at, expires_at
