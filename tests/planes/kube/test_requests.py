"""Requests of agents through a real `robin kube`: who they are, what goes on, what comes back, what is refused."""

import asyncio
import json

import pytest
from tests.planes.kube.conftest import ACCOUNT, PODS, WEBSOCKET

pytestmark = pytest.mark.asyncio


async def test_each_request_is_sent_with_a_token_of_its_own_and_refused_ones_mint_none(bed):
    async with bed() as parts:
        before = len(parts.api.minted)
        answers = [await parts.ask(f"GET {PODS}") for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        used = [event for event in parts.api.events if event.target == PODS]
        assert (len(used), len({event.jti for event in used}), len(parts.api.minted) - before) == (20, 20, 20)
        assert {event.user for event in used} == {ACCOUNT}
        refused = [await parts.ask("GET /api/v1/namespaces/shop/secrets"), await parts.ask("GET /api/v1//pods")]
        assert [answer.status for answer in refused] == [403, 400]
        assert len(parts.api.minted) - before == 20
        minted = {record["id"]: record["jti"] for record in parts.records("token.minted")}
        assert {event.audit_id: event.jti for event in used} == minted
        done = {record["id"]: record["jti"] for record in await parts.wait_records("request.done", 20)}
        assert minted == done


async def test_a_certificate_or_a_token_makes_an_agent_and_every_failure_is_one_401(bed):
    async with bed() as parts:
        token = parts.state.issue_token("a", "A" * 43, 600)
        expired = parts.state.issue_token("a", "B" * 43, -1)
        early = 0
        while (await parts.ask(f"GET {PODS}", f"Authorization: Bearer {token}", agent=None)).status == 401:
            early += 1  # the tokens file is looked at once a second; the time limit of the test ends this
        assert (await parts.ask(f"GET {PODS}", f"Authorization: Bearer {token}")).status == 200
        assert (await parts.ask(f"GET {PODS}", agent="stranger")).code == "kube.unknown_agent"
        count = len(parts.api.events)
        failures = [
            await parts.ask(f"GET {PODS}", agent=None),
            await parts.ask(f"GET {PODS}", "Authorization: Bearer rbk_" + "C" * 43, agent=None),
            await parts.ask(f"GET {PODS}", "Authorization: Basic eDp5", agent=None),
            await parts.ask(f"GET {PODS}", f"Authorization: Bearer {expired}", agent=None),
            await parts.ask(f"GET {PODS}", f"Authorization: Bearer {token}", agent="b"),
        ]
        assert {answer.status for answer in failures} == {401}
        assert len({answer.body for answer in failures}) == 1
        assert failures[0].fields["www-authenticate"] == "Bearer"
        assert len(parts.api.events) == count
        causes = [record["cause"] for record in await parts.wait_records("auth.failed", early + 5)]
        assert causes[early:] == ["no_credential", "bearer_unknown", "bearer_form", "bearer_expired", "identity_conflict"]


async def test_only_the_fields_of_the_list_go_on_and_robins_own_cannot_be_taken_off(bed):
    async with bed() as parts:
        sent = (
            "Accept: application/json",
            "User-Agent: kubectl/v1",
            "Cookie: a=b",
            "X-Forwarded-For: 1.2.3.4",
            "X-Remote-User: root",
            "X_Remote_Group: system:masters",
            "X-Custom: 1",
            "Audit-ID: mine",
        )
        answer = await parts.ask(f"GET {PODS}", *sent, "Connection: authorization, audit-id")
        assert answer.status == 200
        event = parts.api.events[-1]
        assert set(event.fields) == {"host", "accept", "user-agent", "authorization", "audit-id"}
        assert event.audit_id == answer.fields["robin-decision"]
        assert event.user == ACCOUNT
        for name in ("Impersonate-User: root", "impersonate-uid: 1", "Impersonate_Extra_scopes: x"):
            refusal = await parts.ask(f"GET {PODS}", name)
            assert (refusal.status, refusal.code) == (403, "kube.impersonation")


async def test_what_lies_behind_a_proxy_subresource_goes_on_byte_for_byte(bed):
    async with bed() as parts:
        tail = "/api/v1/namespaces/shop/services/web/proxy/a//b/?x=1&x=2"
        parts.api.replies[tail.partition("?")[0]] = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"
        answer = await parts.ask(f"GET {tail}", "X-Custom: 1", "Cookie: a=b")
        assert answer.status == 302  # another server answers there, with whatever it likes
        assert parts.api.events[-1].target == tail
        assert parts.api.events[-1].fields["x-custom"] == "1"
        assert "cookie" not in parts.api.events[-1].fields


async def test_a_refusal_is_a_status_object_that_kubectl_shows(bed):
    async with bed() as parts:
        answer = await parts.ask("DELETE " + PODS + "/web-0", "Accept: application/vnd.kubernetes.protobuf")
        status = answer.json
        assert (answer.status, status["code"], status["kind"], status["reason"]) == (403, 403, "Status", "Forbidden")
        assert answer.fields["content-type"] == "application/json"
        assert answer.fields["x-content-type-options"] == "nosniff"
        assert 'details="kube.denied"' in answer.fields["proxy-status"]
        assert status["message"].startswith(
            'pods "web-0" is forbidden: User "robin:a" cannot delete resource "pods" in API group "" in the namespace "shop": robin: tier 3'
        )
        assert status["details"]["name"] == "web-0"
        assert (
            (await parts.ask("DELETE /apis/apps/v1/namespaces/shop/deployments/w"))
            .json["message"]
            .startswith('deployments.apps "w" is forb')
        )
        assert (await parts.ask("GET /api/v1/nodes")).json["message"].startswith("nodes is forbidden: ")
        assert " at the cluster scope: " in (await parts.ask("GET /api/v1/nodes")).json["message"]
        assert '"/metrics"' in (await parts.ask("GET /metrics")).json["message"]
        assert b"\\u003cx\\u003e" in (await parts.ask("DELETE " + PODS + "/%3Cx%3E")).body
        assert (await parts.ask("HEAD /api/v1/nodes")).body == b""
        decided = parts.records("request.decided")[0]
        assert (decided["decision"], decided["code"], decided["tier"], decided["id"]) == (
            "deny",
            "kube.denied",
            3,
            answer.fields["robin-decision"],
        )


REFUSED = [
    ("GET https://k/api/v1/secrets", "kube.target_form", 400),
    ("GET /" + "a" * 8193, "kube.target_form", 400),
    ("OPTIONS /api/v1/pods", "kube.method", 405),
    ("get /api/v1/pods", "kube.request_malformed", 400),
    ("GET /api/v1/namespaces//secrets", "kube.path_segment", 400),
    ("GET /api/v1/namespaces/shop%2Fsecrets", "kube.path_char", 400),
    ("GET /api/v1/watch/secrets", "kube.path_legacy", 400),
    ("GET /api/v1/Secrets", "kube.path_name", 400),
    ("GET /api/v1/pods?watch=0&watch=1", "kube.query", 400),
]


async def test_a_malformed_request_is_refused_with_its_code_and_reaches_nothing(bed):
    async with bed() as parts:
        count = len(parts.api.events)
        for line, code, status in REFUSED:
            answer = await parts.ask(line)
            assert (answer.code, answer.status, answer.json["code"]) == (code, status, status), line
        assert (await parts.ask(f"GET {PODS}", *WEBSOCKET[:2])).code == "kube.upgrade"
        assert (await parts.ask(f"GET {PODS}", body=b"{}")).code == "kube.body_unexpected"
        assert (await parts.ask(f"POST {PODS}", "Content-Encoding: gzip", body=b"{}")).code == "kube.body_encoding"
        assert (await parts.ask(f"GET {PODS}", "Authorization: Bearer x", "Authorization: Bearer y")).code == "kube.request_malformed"
        assert (await parts.ask(f"POST {PODS}", "Content-Length: 3145729")).code == "kube.body_too_large"
        assert len(parts.api.events) == count
        assert len(await parts.wait_records("request.refused", len(REFUSED) + 5)) == len(REFUSED) + 5


async def test_a_body_is_judged_before_it_is_sent_and_sent_as_it_came(bed):
    async with bed() as parts:
        plain = json.dumps({"kind": "ConfigMap", "metadata": {"name": "c"}}).encode()
        await parts.ask("POST /api/v1/namespaces/shop/configmaps", "Content-Type: application/json", body=plain)
        assert (parts.api.events[-1].method, parts.api.events[-1].fields["content-length"]) == ("POST", str(len(plain)))
        secret = json.dumps({"kind": "Pod", "spec": {"serviceAccountName": "admin"}}).encode()
        answer = await parts.ask(f"POST {PODS}", "Content-Type: application/json", body=secret)
        assert (answer.status, "tier 3 sensitive" in answer.json["message"]) == (403, True)


async def test_a_watch_and_a_followed_log_arrive_as_they_come(bed):
    async with bed() as parts:
        for target, part in ((f"{PODS}?watch=1", b'"ADDED"'), (f"{PODS}/web-0/log?follow=true", b"hello world")):
            reader, writer = await parts.connect()
            writer.write(f"GET {target} HTTP/1.1\r\nHost: robin\r\n\r\n".encode())
            assert part in await asyncio.wait_for(reader.readuntil(part), 10)
            writer.close()


async def test_an_exec_switches_to_a_websocket_without_the_login_among_its_subprotocols(bed):
    async with bed() as parts:
        exec_ = f"{PODS}/web-0/exec?command=id&command=-u"
        login = "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eA"
        assert (await parts.ask(f"GET {exec_}", *WEBSOCKET, login)).code == "kube.upgrade"
        reader, writer = await parts.connect()
        head = "\r\n".join([f"GET {exec_} HTTP/1.1", "Host: robin", *WEBSOCKET, f"{login}, v5.channel.k8s.io"])
        writer.write(head.encode() + b"\r\n\r\n")
        switch = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert switch.startswith(b"HTTP/1.1 101 ")
        assert b"v5.channel.k8s.io" in switch
        assert parts.api.events[-1].fields["sec-websocket-protocol"] == "v5.channel.k8s.io"
        writer.write(b"\x82\x03abc")
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"\x82\x03abc"
        writer.close()
        decided = parts.records("request.decided")[-1]
        assert (decided["command"], decided["tier"], decided["verb"]) == (["id", "-u"], 4, "get")


async def test_a_spdy_exec_by_post_switches_and_what_stands_behind_the_101_arrives(bed):
    async with bed() as parts:
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
        parts.api.replies[f"{PODS}/web-0/exec"] = switch + b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n\x80\x03frames"
        fields = ("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io", "X-Other: 1")
        reader, writer = await parts.connect()
        writer.write("\r\n".join([f"POST {PODS}/web-0/exec?command=id HTTP/1.1", "Host: robin", *fields]).encode() + b"\r\n\r\n")
        octets = await asyncio.wait_for(reader.readuntil(b"frames"), 20)
        writer.close()
        assert octets.startswith(b"HTTP/1.1 101 ")
        assert b"x-stream-protocol-version: v4" in octets.lower()
        sent = parts.api.events[-1].fields
        assert (sent["upgrade"].lower(), sent["x-stream-protocol-version"], "x-other" in sent) == ("spdy/3.1", "v4.channel.k8s.io", False)


ANSWERS = [
    (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 502, "kube.upstream_redirect"),
    (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", 502, "kube.upstream_unauthorized"),
    (b"", 504, "kube.upstream_timeout"),
    (b"nonsense\r\n\r\n", 502, "kube.upstream_protocol"),
]


async def test_what_the_api_server_may_not_answer_is_a_gateway_error_that_no_client_repeats(bed):
    async with bed() as parts:
        for reply, status, code in ANSWERS:
            parts.api.events.clear()
            parts.api.replies["/api/v1/namespaces/shop/configmaps"] = reply
            answer = await parts.ask("POST /api/v1/namespaces/shop/configmaps", "Content-Type: application/json", body=b"{}")
            assert (answer.status, answer.code) == (status, code)
            assert "retry-after" not in answer.fields
            assert len([event for event in parts.api.events if event.target.endswith("/configmaps")]) == 1
