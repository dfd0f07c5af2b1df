"""The public SDK as a client uses it: its broker client, its own signing client, and its transcript. Runs in the SDK's venv.

Standard input is one JSON object with what to do; each step writes one JSON line.
"""

import json
import sys
import urllib.error
import urllib.request

from trustplane_auth import (
    BrokerClient,
    BrokerRequestInput,
    Header,
    ProtectedClient,
    RequestInput,
    SigningProfile,
    broker_headers,
    build_broker_request,
    build_request,
    private_key_from_base64url,
)


def tell(step: str, got: object) -> None:
    print(json.dumps({"step": step, "got": got}), flush=True)


def send(request: urllib.request.Request) -> list[object]:
    """Status, and the reason of a refusal."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return [response.status, ""]
    except urllib.error.HTTPError as error:
        return [error.code, json.loads(error.read())["reason"]]


def use_broker(socket: str, base: str, authority: str) -> None:
    """A GET with a query, and a POST, each sent twice; then a class that no software broker can prove."""
    client = BrokerClient(socket)
    for name, method, path, query, body in (
        ("broker get", "GET", "/orders", "a=1&b=x%20y", b""),
        ("broker post", "POST", "/orders", "", b'{"order_id":"ord_123"}'),
    ):
        kind = [Header("Content-Type", "application/json")] if body else []
        prepared = build_broker_request(
            BrokerRequestInput(
                RequestInput(
                    method=method,
                    scheme="http",
                    authority=authority,
                    path=path,
                    raw_query=query,
                    audience="orders",
                    route_id="read" if method == "GET" else "create",
                    body=body,
                    headers=kind,
                )
            )
        )
        reply = client.issue(prepared)
        tell(f"{name} reply", [reply.accepted, reply.status, reply.reason_code, reply.expires_at - reply.issued_at])
        url = f"{base}{path}?{query}" if query else f"{base}{path}"
        request = urllib.request.Request(url, data=body or None, headers=broker_headers(prepared, reply), method=method)
        tell(name, [send(request), send(request)])
    asked = RequestInput(method="GET", scheme="http", authority=authority, path="/orders", audience="orders", route_id="read")
    reply = client.issue(build_broker_request(BrokerRequestInput(asked, requested_key_binding="attested_workload")))
    tell("attested", [reply.accepted, reply.reason_code, reply.issued_at, reply.expires_at, reply.artifacts, reply.error])
    asked = RequestInput(method="GET", scheme="http", authority=authority, path="/admin", audience="orders", route_id="admin")
    reply = client.issue(build_broker_request(BrokerRequestInput(asked)))
    tell("wrong route", [reply.accepted, reply.reason_code, reply.artifacts])


def use_own_key(profiles: list[dict[str, str]], key: str) -> None:
    """Requests that the SDK signs with a key of its own, without a broker."""
    for profile in profiles:
        client = ProtectedClient(SigningProfile.from_control(profile), private_key_from_base64url(key))
        post = profile["method"] == "POST"
        prepared = client.prepare(
            profile["method"], "" if post else "?a=1", b'{"a":1}' if post else b"", {"Content-Type": "application/json"} if post else {}
        )
        tell(f"own {profile['name']}", [send(prepared.request), send(prepared.request)])


def main() -> None:
    told = json.loads(sys.stdin.read())
    if "transcripts" in told:
        tell("transcripts", [build_request(one).canonical_lines for one in told["transcripts"]])
        return
    if "socket" in told:
        use_broker(told["socket"], told["base"], told["authority"])
    use_own_key(told["profiles"], told["key"])


if __name__ == "__main__":
    main()
