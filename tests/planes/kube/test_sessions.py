"""Requests that last: how each kind ends, what ends it, and how many an agent may have (section 11 of the specification)."""

import asyncio
import contextlib
import json

import pytest
from tests.planes.kube.conftest import PODS, RULE, WEBSOCKET, Bed

from robin.model.caller import Evidence
from robin.planes.kube.exchange import Agent, KubeExchange
from robin.planes.kube.sessions import Sessions
from robin.policy.kube.judge import HeadFacts, KubePolicySettings, read_request
from robin.testing.waiting import eventually

pytestmark = pytest.mark.asyncio

SHORT = {**RULE, "max_session": "1s"}
WATCH = f"GET {PODS}?watch=1"
FOLLOW = f"GET {PODS}/web-0/log?follow=true"


def policy_of(*rules: dict[str, object]) -> dict[str, object]:
    return {"version": 1, "agents": {"a": {"identities": ["token"], "rules": list(rules)}}}


async def begin(parts: Bed, line: str, *fields: str, agent: str | None = "a") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request that lasts."""
    reader, writer = await parts.connect(agent)
    writer.write("\r\n".join([f"{line} HTTP/1.1", "Host: robin", *fields]).encode() + b"\r\n\r\n")
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What comes until the end; a reset is an end too."""
    octets = b""
    with contextlib.suppress(OSError):
        while piece := await asyncio.wait_for(reader.read(65536), 20):
            octets += piece
    return octets


async def last_chunk(reader: asyncio.StreamReader) -> bytes:
    """What comes up to the end of a chunked response; its connection goes on."""
    return await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 20)


async def test_a_watch_ends_as_a_whole_message_and_its_connection_serves_the_next_request(bed):
    async with bed(policy=policy_of(SHORT)) as parts:
        reader, writer = await begin(parts, WATCH)
        assert b"ADDED" in await last_chunk(reader)
        writer.write(f"GET {PODS} HTTP/1.1\r\nHost: robin\r\nConnection: close\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.read(-1), 20)).startswith(b"HTTP/1.1 200 ")
        (done, _) = await parts.wait_records("request.done", 2)
        assert (done["end_reason"], done["status"]) == ("max_session", 200)


async def test_a_log_and_an_exec_are_cut_so_that_they_do_not_look_whole(bed):
    async with bed(policy=policy_of(SHORT)) as parts:
        pairs = [await begin(parts, FOLLOW), await begin(parts, f"GET {PODS}/web-0/exec?command=id", *WEBSOCKET)]
        for reader, _writer in pairs:
            assert not (await rest(reader)).endswith(b"0\r\n\r\n")
        assert [done["end_reason"] for done in await parts.wait_records("request.done", 2)] == ["max_session"] * 2


ENDS = [
    ({"token_expiry": 0.0, "max_session": 9.0, "rule_expired": None, "identity_expired": 9.0}, "token_expiry"),
    ({"token_expiry": 9.0, "max_session": None, "rule_expired": 0.0, "identity_expired": None}, "rule_expired"),
    ({"token_expiry": None, "max_session": 9.0, "rule_expired": 9.0, "identity_expired": -5.0}, "identity_expired"),
]


@pytest.mark.parametrize(("ends", "reason"), ENDS, ids=[reason for _, reason in ENDS])
async def test_whatever_allowed_a_session_and_ends_first_ends_it(ends: dict[str, float | None], reason: str):
    ended = asyncio.Event()
    exchange = KubeExchange(id_="i", agent="a", identity="token", authn="token", peer="", began_at=0.0, identity_ends_at=None)
    head = HeadFacts(method="GET", target=f"{PODS}/web-0/log?follow=true".encode())
    exchange.request = read_request(head, KubePolicySettings())
    agent = Agent(evidence=Evidence.OPEN, listener="", reset=ended.set, end=ended.set, exchange=exchange)
    sessions = Sessions(asyncio.get_running_loop(), per_agent=1)
    sessions.begin(agent)
    sessions.end_after(agent, ends)
    await asyncio.wait_for(ended.wait(), 20)
    sessions.finish(exchange, exchange.end_reason)
    assert sessions.ended == {("log", reason): 1}
    assert not sessions.kinds()


async def test_a_policy_that_denies_and_a_token_that_is_gone_end_what_runs_and_nothing_else(bed):
    rules = [{**RULE, "name": "logs", "resources": ["pods/log"], "tiers": {"0": "allow"}}, {**RULE, "name": "pods", "resources": ["pods"]}]
    async with bed(policy=policy_of(*rules)) as parts:
        token = parts.state.issue_token("a", "T" * 43, 600)
        bearer = f"Authorization: Bearer {token}"
        await eventually(lambda: _is_known(parts, bearer), every_s=0.1)
        watch, writer = await begin(parts, WATCH)
        follow, _f = await begin(parts, FOLLOW)
        other, _o = await begin(parts, WATCH, bearer, agent=None)
        parts.policy.write_text(json.dumps(policy_of(rules[1])))
        await rest(follow)
        (done,) = await parts.wait_records("request.done", 1)
        assert done["end_reason"] == "policy"
        parts.state.tokens_file.write_text("")
        await last_chunk(other)
        assert [one["end_reason"] for one in await parts.wait_records("request.done", 2)] == ["policy", "revoked"]
        assert watch.at_eof() is False
        text = await parts.scrape()
        assert 'robin_kube_sessions{kind="watch",plane="kube"} 1' in text
        assert 'robin_kube_session_ends_total{kind="log",reason="policy",plane="kube"} 1' in text
        writer.close()  # a drain would wait for it


async def _is_known(parts: Bed, bearer: str) -> bool:
    return (await parts.ask("GET /metrics", bearer, agent=None)).status != 401


async def test_an_agent_has_so_many_sessions_and_no_more(bed):
    async with bed(streams={"max_per_agent": 1}) as parts:
        _reader, writer = await begin(parts, WATCH)
        refused = await parts.ask(FOLLOW)
        assert (refused.status, refused.code, refused.fields["retry-after"]) == (429, "kube.too_many_streams", "1")
        assert (await parts.ask(f"GET {PODS}")).status == 200
        writer.close()
        await eventually(lambda: _follows(parts), every_s=0.1)


async def _follows(parts: Bed) -> bool:
    reader, writer = await parts.connect()
    writer.write(f"{FOLLOW} HTTP/1.1\r\nHost: robin\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    return head.startswith(b"HTTP/1.1 200 ")


async def test_a_life_of_sessions_may_be_set_in_place_of_the_tokens(bed):
    async with bed(streams={"max_session": "1s"}) as parts:
        reader, _writer = await begin(parts, WATCH)
        await last_chunk(reader)
        assert (await parts.wait_records("request.done", 1))[0]["end_reason"] == "max_session"
