"""Agents and clusters that try more than they may: certificates, records that must not be lost, responses that must not pass."""

import asyncio
import dataclasses
import datetime
import json
import os
import resource
import signal
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.planes.kube.conftest import MINTS, PODS, POLICY, READS, RULE, TOKEN, WEBSOCKET, Answer, Bed, Gate

from robin.app.kube import PolicyHolder
from robin.cli.main import main
from robin.planes.kube.agents import FailureDelay
from robin.planes.kube.bodies import PER_AGENT
from robin.policy.kube.rules import PolicyDocument
from robin.testing.api_server import Allow
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
CONFIGMAPS = "/api/v1/namespaces/shop/configmaps"
SPIFFE = "spiffe://example.org/agent/claude"


class Agents:
    """A CA of agents, and certificates of every kind."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agents")])
        self._folder = folder
        folder.mkdir()
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._sign(self._name, self._key, (), (), days=1, is_ca=True).public_bytes(serialization.Encoding.PEM))

    def context(self, trusted: Path, *, uris: tuple[str, ...] = (), cn: str = "x", purposes=BOTH, days: float = 1, is_ca: bool = False):
        """A client context with such a certificate, which trusts what Robin shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])
        certificate = self._sign(names, key, uris, purposes, days=days, is_ca=is_ca)
        pair = self._folder / "pair.pem"
        pem, form, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pair.write_bytes(key.private_bytes(pem, form, plain) + certificate.public_bytes(pem))
        context = ssl.create_default_context(cafile=str(trusted))
        context.load_cert_chain(pair)
        return context

    def _sign(self, subject, key, uris, purposes, *, days: float, is_ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if uris:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False
            )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(self._key, hashes.SHA256())


CERTIFICATES = [
    ({"uris": (SPIFFE,)}, ""),
    ({"cn": "ci"}, ""),
    ({"uris": (SPIFFE, "spiffe://example.org/agent/other")}, "several_uri_names"),
    ({"uris": ("spiffe://foreign.org/agent/claude",)}, "trust_domain"),
    ({"uris": ("spiffe://robin.local/agent/a",)}, "trust_domain"),
    ({"uris": ("spiffe://example.org",)}, "trust_domain"),
    ({"uris": ("https://example.org/agent/claude",)}, "trust_domain"),
    ({"uris": (SPIFFE,), "purposes": ()}, "certificate_purpose"),
    ({"uris": (SPIFFE,), "is_ca": True}, "certificate_purpose"),
    ({"uris": (SPIFFE,), "purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)}, "handshake"),
    ({"uris": (SPIFFE,), "days": -1}, "handshake"),
]


async def test_a_certificate_is_an_agent_only_with_one_name_of_a_trust_domain_and_its_purpose(bed, tmp_path: Path):
    agents = Agents(tmp_path / "agents")
    policy = {"version": 1, "agents": {"a": {"identities": [SPIFFE, "cn:ci"], "rules": [RULE]}}}
    mtls = {"client_ca_file": str(agents.ca_file), "spiffe_trust_domains": ["example.org"], "cn": True}
    async with bed(policy=policy, authn={"mtls": mtls}) as parts:
        before = len(parts.api.minted)
        for given, cause in CERTIFICATES:
            answer = await _ask(parts, agents.context(parts.state.ca_file, **given))
            assert answer == ("ended" if cause == "handshake" else "401" if cause else "200"), given
        foreign = Agents(tmp_path / "foreign")
        assert await _ask(parts, foreign.context(parts.state.ca_file, uris=(SPIFFE,))) == "ended"
        causes = [cause for _, cause in CERTIFICATES if cause not in ("", "handshake")]
        assert [record["cause"] for record in await parts.wait_records("auth.failed", len(causes))] == causes
        assert len(parts.api.minted) - before == 2
        assert 'robin_kube_auth_failures_total{reason="trust_domain",plane="kube"} 4' in await parts.scrape()


async def _ask(parts: Bed, context: ssl.SSLContext) -> str:
    """The status of a request with this certificate; `ended` where the connection did not get that far."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", parts.port, ssl=context)
        writer.write(f"GET {PODS} HTTP/1.1\r\nHost: robin\r\nConnection: close\r\n\r\n".encode())
        octets = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
    except OSError:
        return "ended"
    return octets.decode("latin-1")[9:12] if octets else "ended"


async def test_a_denied_exec_is_in_the_audit_however_large_its_command(bed):
    async with bed(policy={"version": 1, "agents": {"a": {"rules": []}}}, limits={"max_target": 16384}) as parts:
        for command in (
            "id",
            "sh&command=-c&command=" + "%20" * 512 + "reboot",
            "%01" * 5000,
            "%F0%90%80%80" * 1300,
            '"' * 15000,
            "&command=".join("x" * 30 for _ in range(255)),
        ):
            assert (await parts.ask(f"GET {PODS}/web-0/exec?container={'%22' * 60}&command={command}")).code == "kube.denied", command[:9]
        records = await parts.wait_records("request.decided", 6)
        assert [record["code"] for record in records] == ["kube.denied"] * 6
        assert [record["truncated"] for record in records] == [False] + [True] * 5  # what a record does not show, it says so


async def test_a_decision_that_cannot_be_written_is_not_carried_out(bed):
    async with bed() as parts:
        assert (await parts.ask(f"GET {PODS}")).status == 200
        await parts.wait_records("request.done", 1)
        seen, hard = len(parts.api.events), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        size = (parts.folder / "state" / "audit.jsonl").stat().st_size
        resource.prlimit(parts.robin.pid, resource.RLIMIT_FSIZE, (size, hard))  # from now on no file of it may grow
        for line in (f"GET {PODS}", "POST /api/v1/namespaces/shop/configmaps"):
            answer = await parts.ask(line, "Content-Type: application/json", body=b"{}" if line.startswith("POST") else b"")
            assert (answer.status, answer.code, answer.fields["retry-after"]) == (503, "kube.audit_unavailable", "5")
        assert len(parts.api.events) == seen
        page = await parts.page("/readyz")
        assert (page.status, page.json["reasons"]) == (503, ["audit"])
        resource.prlimit(parts.robin.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert (await parts.ask(f"GET {PODS}")).status == 200


async def test_a_response_has_what_robin_says_and_a_switch_only_a_subprotocol_that_was_offered(bed):
    async with bed() as parts:
        parts.api.replies[PODS] = (
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nRobin-Decision: forged\r\nContent-Length: 2\r\n\r\n{}"
        )
        parts.api.grants_s = 60
        answer = await parts.ask(f"GET {PODS}")
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.fields["robin-decision"] == parts.api.events[-1].audit_id
        assert answer.fields["warning"] == '299 robin "the cluster granted a token of 60 s in place of 600 s"'
        assert parts.records("token.minted")[-1]["effective_s"] == 60
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        switch += b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        parts.api.replies[f"{PODS}/web-0/exec"] = switch + b"Sec-WebSocket-Protocol: v9.channel.k8s.io\r\n\r\n"
        answer = await parts.ask(f"GET {PODS}/web-0/exec?command=id", *WEBSOCKET, "Sec-WebSocket-Protocol: v5.channel.k8s.io")
        assert (answer.status, answer.code) == (502, "kube.upstream_protocol")


async def test_a_policy_that_is_not_in_order_keeps_the_last_one_and_is_shown(bed):
    async with bed() as parts:
        parts.robin.send_signal(signal.SIGHUP)
        await parts.wait_records("policy.loaded", 2)  # also one that is as it was
        parts.policy.write_text("version: 1\nagents: {a: {rulez: []}}\n")
        await parts.robin.event("policy_refused")
        assert (await parts.ask(f"GET {PODS}")).status == 200
        page = await parts.page("/readyz")
        assert (page.status, page.json["degraded"]) == (200, ["policy"])
        text = await parts.scrape()
        assert 'robin_kube_policy_reloads_total{result="error",plane="kube"} 1' in text
        assert 'robin_kube_requests_total{agent="a",tier="0",decision="allow",code="",plane="kube"} 1' in text
        assert 'robin_kube_mints_total{result="ok",plane="kube"} 1' in text
        assert 'robin_kube_request_seconds_count{tier="0",phase="mint",plane="kube"} 1' in text
        assert 'robin_kube_token_seconds_sum{kind="asked",plane="kube"} 600' in text
        parts.policy.write_text(json.dumps(POLICY))
        await parts.wait_records("policy.loaded", 3)
        parts.policy.chmod(0o666)
        await eventually(lambda: _is_refused(parts, "world-writable"))
        for path in (parts.policy, parts.state.tokens_file):
            path.unlink()
            os.mkfifo(path)  # which does not stop the loop
        await eventually(lambda: _is_refused(parts, "not a regular file"))
        await eventually(lambda: _is_degraded(parts, ["policy", "tokens_file"]), every_s=0.1)
        assert (await parts.ask(f"GET {PODS}")).status == 200


async def test_after_a_rename_a_signal_goes_on_in_a_new_audit_file_and_the_chain_holds(bed):
    async with bed() as parts:
        audit = parts.folder / "state" / "audit.jsonl"
        old = audit.with_name("old.jsonl")
        assert (await parts.ask(f"GET {PODS}")).status == 200
        await parts.wait_records("request.done", 1)
        audit.rename(old)
        parts.robin.send_signal(signal.SIGHUP)
        await parts.robin.event("audit_reopened")
        assert (await parts.ask(f"GET {PODS}")).status == 200
        await parts.wait_records("request.done", 1)
        assert parts.records()[0]["event"] == "audit.open"
    assert main(["audit", "verify", str(old), str(audit)]) == 0


async def test_a_policy_that_is_loaded_by_a_signal_is_not_loaded_again_by_the_next_look(tmp_path: Path):
    file, loads = tmp_path / "policy.yaml", list[bool]()
    holder = PolicyHolder(PolicyDocument(), str(file), loads.append)
    file.write_text(json.dumps(POLICY))
    holder.load()
    holder.poll(100.0)
    assert loads == [True]
    file.write_text("{}")
    holder.poll(200.0)
    assert loads == [True, False]


def _is_refused(parts: Bed, why: str) -> bool:
    return any(why in event["detail"] for event in parts.robin.events if event.get("event") == "policy_refused")


async def _is_degraded(parts: Bed, names: list[str]) -> bool:
    return (await parts.page("/readyz")).json["degraded"] == names


async def test_an_account_that_turns_out_to_mint_too_much_ends_the_process(bed):
    broad = Allow(user="minter", verbs=("create",), resources=("serviceaccounts/token",))
    async with bed(rules=(MINTS, READS, broad), wait="startup_checks", cluster_down=True) as parts:
        parts.api.replies.clear()
        assert await parts.robin.returned() == 1
        assert any(event.get("event") == "startup_check_dangerous" for event in parts.robin.events)
        assert not parts.api.minted


async def test_a_bearer_in_a_subprotocol_or_a_second_field_is_no_login(bed):
    async with bed() as parts:
        token = parts.state.issue_token("a", "A" * 43, 600)
        await eventually(lambda: _known(parts, token), every_s=0.1)
        encoded = "base64url.bearer.authorization.k8s.io.cmJr"
        tries = [
            ("Sec-WebSocket-Protocol: " + encoded,),
            (f"X-Authorization: Bearer {token}",),
            (f"Proxy-Authorization: Bearer {token}",),
            (f"Cookie: token={token}",),
            (f"Authorization_: Bearer {token}",),
            (f"Authorization: bearer {token}, Bearer {token}",),
        ]
        for fields in tries:
            assert (await parts.ask(f"GET {PODS}", *fields, agent=None)).status == 401, fields
        assert (await parts.ask(f"GET {PODS}?access_token={token}", agent=None)).status == 401
        twice = await parts.ask(f"GET {PODS}", f"Authorization: Bearer {token}", f"authorization: Bearer {token}", agent=None)
        assert twice.code == "kube.request_malformed"
        text = (parts.folder / "state" / "audit.jsonl").read_text() + "\n".join(parts.robin.stdout)
        assert token not in text
        assert "Bearer" not in text


async def test_an_account_that_comes_with_a_later_policy_is_checked_before_anything_is_minted_for_it(bed):
    minter = Allow(
        user="minter",
        verbs=("create",),
        resources=("serviceaccounts/token",),
        namespace="robin-system",
        names=("robin-agent", "other", "third"),
    )
    reads = dataclasses.replace(READS, user="system:serviceaccount:robin-system:third")
    greedy = Allow(
        user="system:serviceaccount:robin-system:other",
        verbs=("create",),
        resources=("serviceaccounts/token",),
        namespace="robin-system",
        names=("robin-agent",),  # a right for one name is no right without a name
    )
    async with bed(rules=(minter, READS, reads, greedy)) as parts:
        parts.api.accounts |= {("robin-system", "other"), ("robin-system", "third")}
        agents = {
            "a": {"rules": [RULE]},
            "b": {"service_account": "other", "rules": [RULE]},
            "c": {"service_account": "third", "rules": [RULE]},
        }
        parts.policy.write_text(json.dumps({"version": 1, "agents": agents}))
        assert "S4: the account other" in (await parts.robin.event("startup_check_dangerous"))["detail"]
        assert (await parts.ask(f"GET {PODS}", agent="a")).status == 200
        assert (await parts.ask(f"GET {PODS}", agent="c")).status == 200  # it holds up no account behind it
        refused = await parts.ask(f"GET {PODS}", agent="b")
        assert (refused.status, refused.code) == (503, "kube.mint_unavailable")
        assert (await parts.page("/readyz")).json["degraded"] == ["account:other"]
        assert not [event for event in parts.api.events if event.target == PODS and event.user.endswith(":other")]


async def test_a_bound_that_names_no_accounts_is_a_warning(bed):
    wide = Allow(user="minter", verbs=("create",), resources=("serviceaccounts/token",), namespace="robin-system")
    async with bed(rules=(wide, READS)) as parts:
        assert "resourceNames" in (await parts.robin.event("broad_minter"))["detail"]
        assert (await parts.ask(f"GET {PODS}")).status == 200


async def test_a_peer_that_guesses_is_slowed_down_from_its_eleventh_failure_in_a_second_on():
    delay = FailureDelay()
    assert [delay.after_failure("10.0.0.1:1", 5.0) for _ in range(12)] == [0.0] * 10 + [1.0] * 2
    assert delay.after_failure("10.0.0.1:2", 5.9) == 1.0
    assert (delay.after_failure("10.0.0.2:1", 5.9), delay.after_failure("10.0.0.1:1", 6.0)) == (0.0, 0.0)


async def _known(parts: Bed, token: str) -> bool:
    return (await parts.ask(f"GET {PODS}", f"Authorization: Bearer {token}", agent=None)).status == 200


async def test_a_body_that_comes_slowly_does_not_outlive_the_rule_and_the_token_it_began_with(bed):
    def policy_of(**more: str) -> dict[str, object]:
        rules = [{**RULE, "resources": ["configmaps"]}, {**RULE, "name": "brief", "resources": ["pods"], **more}]
        return {"version": 1, "agents": {name: {"identities": ["token"], "rules": rules} for name in ("a", "b")}}

    async with bed(policy=policy_of()) as parts:
        bearer = f"Authorization: Bearer {parts.state.issue_token('b', 'T' * 43, 600)}"
        await eventually(lambda: _status_is(parts, 200, PODS, bearer), every_s=0.1)
        expired = await _begin_post(parts, PODS, agent="a")
        revoked = await _begin_post(parts, CONFIGMAPS, bearer, agent=None)
        parts.state.tokens_file.write_text("")
        parts.policy.write_text(json.dumps(policy_of(expires=datetime.datetime.now(datetime.UTC).isoformat())))
        await eventually(lambda: _status_is(parts, 401, CONFIGMAPS, bearer), every_s=0.1)
        await eventually(lambda: _status_is(parts, 403, PODS, agent="a"), every_s=0.1)
        assert [await _end_post(*one) for one in (expired, revoked)] == ["kube.denied", "kube.revoked"]
        assert not [one for one in parts.api.events if one.method == "POST" and one.target in (PODS, CONFIGMAPS)]
        assert [one["code"] for one in await parts.wait_records("request.refused", 1)] == ["kube.revoked"]


async def _status_is(parts: Bed, status: int, path: str, *fields: str, agent: str | None = None) -> bool:
    return (await parts.ask(f"GET {path}", *fields, agent=agent)).status == status


async def _begin_post(parts: Bed, path: str, *fields: str, agent: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A head, which is answered by 100, and no byte of its body."""
    reader, writer = await parts.connect(agent)
    head = [f"POST {path} HTTP/1.1", "Host: robin", "Connection: close", "Content-Type: application/json", "Content-Length: 2", *fields]
    writer.write("\r\n".join([*head, "Expect: 100-continue"]).encode() + b"\r\n\r\n")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).startswith(b"HTTP/1.1 100 ")
    return reader, writer


async def _end_post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(b"{}")
    answer = Answer(await asyncio.wait_for(reader.read(-1), 20))
    writer.close()
    return answer.code if answer.status != 200 else "200"


async def test_a_ca_of_agents_that_is_taken_away_ends_what_its_certificates_began(bed, tmp_path: Path):
    first, second = Agents(tmp_path / "first"), Agents(tmp_path / "second")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(first.ca_file.read_bytes())
    policy = {"version": 1, "agents": {"a": {"identities": [SPIFFE, "token"], "rules": [RULE]}}}
    mtls = {"client_ca_file": str(roots), "spiffe_trust_domains": ["example.org"]}
    async with bed(policy=policy, authn={"mtls": mtls}) as parts:
        shown = first.context(parts.state.ca_file, uris=(SPIFFE,))
        (idle, idler), (watch, watcher) = [await asyncio.open_connection("127.0.0.1", parts.port, ssl=shown) for _ in range(2)]
        ask = f"GET {PODS}/web-0/log HTTP/1.1\r\nHost: robin\r\n\r\n".encode()
        idler.write(ask)
        watcher.write(f"GET {PODS}?watch=1 HTTP/1.1\r\nHost: robin\r\n\r\n".encode())
        for reader in (idle, watch):
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)
        roots.write_bytes(first.ca_file.read_bytes() + second.ca_file.read_bytes())
        await eventually(lambda: len(_reloads(parts)) == 1)
        assert not watch.at_eof()
        assert not idle.at_eof()  # one more root takes nothing away
        os.replace(second.ca_file, roots)
        octets = await asyncio.wait_for(watch.read(-1), 20)
        assert octets.endswith(b"0\r\n\r\n")
        await asyncio.wait_for(idle.read(-1), 20)
        assert "revoked" in [done["end_reason"] for done in await parts.wait_records("request.done", 2)]
        assert await _ask(parts, shown) == "ended"


def _reloads(parts: Bed) -> list[object]:
    return [event for event in parts.robin.events if event.get("event") == "listener_certificate"]


async def test_a_policy_that_is_loaded_while_a_token_is_minted_still_denies(bed):
    async with bed(credentials={"jit": {"timeout": "60s"}}) as parts:
        minting = parts.api.gates[TOKEN] = asyncio.Event()
        asked = [asyncio.create_task(parts.ask(f"GET {PODS}", agent=agent)) for agent in ("a", "a")]
        await parts.wait_records("request.decided", 2)
        agents = {"a": {"identities": ["token"], "rules": [{**RULE, "verbs": ["delete"]}]}}
        parts.policy.write_text(json.dumps({"version": 1, "agents": agents}))
        await parts.wait_records("policy.loaded", 2)
        minting.set()
        assert [(await one).code for one in asked] == ["kube.denied"] * 2
        assert not [event for event in parts.api.events if event.target == PODS]
        assert [done["end_reason"] for done in await parts.wait_records("request.done", 2)] == ["kube.denied"] * 2


async def test_a_token_that_is_taken_away_while_a_token_is_minted_for_it_is_of_no_use(bed):
    async with bed(credentials={"jit": {"timeout": "60s"}}) as parts:
        bearer = f"Authorization: Bearer {parts.state.issue_token('a', 'T' * 43, 600)}"
        await eventually(lambda: _status_is(parts, 403, "/metrics", bearer), every_s=0.1)
        minting = parts.api.gates[TOKEN] = Gate()
        asked = asyncio.create_task(parts.ask(f"GET {PODS}", bearer, agent=None))
        await eventually(lambda: minting.reached)
        parts.state.tokens_file.write_text("")
        await eventually(lambda: _status_is(parts, 401, "/metrics", bearer), every_s=0.1)
        minting.set()
        assert (await asked).code == "kube.denied"
        assert not [event for event in parts.api.events if event.target == PODS]


async def test_an_account_that_comes_while_the_cluster_is_checked_is_checked_after_it(bed):
    minter = dataclasses.replace(MINTS, names=("robin-agent", "other"))
    reads = dataclasses.replace(READS, user="system:serviceaccount:robin-system:other")
    minting = Gate()
    async with bed(rules=(minter, READS, reads), gates={TOKEN: minting}, credentials={"jit": {"timeout": "60s"}}, wait="") as parts:
        await eventually(lambda: minting.reached)
        parts.api.accounts.add(("robin-system", "other"))
        parts.policy.write_text(json.dumps({"version": 1, "agents": {"b": {"service_account": "other", "rules": [RULE]}}}))
        await parts.wait_records("policy.loaded", 2)
        minting.set()
        await parts.robin.event("started")
        await eventually(lambda: _status_is(parts, 200, PODS, agent="b"), every_s=0.1)


async def test_an_agent_may_have_so_many_bodies_on_their_way_and_no_more(bed):
    async with bed() as parts:
        waiting = [await _begin_post(parts, CONFIGMAPS, agent="a") for _ in range(PER_AGENT)]
        refused = await parts.ask(f"POST {CONFIGMAPS}", "Content-Type: application/json", body=b"{}")
        assert (refused.status, refused.code, refused.fields["retry-after"]) == (429, "kube.rate_limited", "1")
        assert (await parts.ask(f"GET {PODS}")).status == 200
        waiting[0][1].close()
        await eventually(lambda: _posts(parts), every_s=0.1)
        for _reader, writer in waiting:
            writer.close()


async def _posts(parts: Bed) -> bool:
    return (await parts.ask(f"POST {CONFIGMAPS}", "Content-Type: application/json", body=b"{}")).status != 429
