"""The trust domain works, seen by the official Go client, and behaves as a real agent does when its server is away."""

import base64
import json
import os
import time

import pytest
from tests.real.parts.platform import spiffe_domain
from tests.real.parts.process import poll
from tests.real.parts.spiffe import SpiffeDomain, Svid, WorkloadApiRefused

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("platform")]

AUDIENCE = "https://broker.test"


def registered(domain: SpiffeDomain, path: str = "/app", **choices: object) -> str:
    """An entry that the agent knows."""
    entry = domain.create_entry(path, **choices)  # type: ignore[arg-type]
    poll(lambda: allowed(domain, path), timeout_s=60, what=f"the agent to know {path}")
    return entry


def allowed(domain: SpiffeDomain, path: str) -> list[Svid]:
    try:
        return domain.fetch_svids("https://probe.test", spiffe_id=domain.spiffe_id(path))
    except WorkloadApiRefused as refused:
        if refused.code != "PermissionDenied":
            raise
        return []


def test_the_official_client_gets_a_jwt_svid_that_the_bundle_verifies(spiffe: SpiffeDomain) -> None:
    registered(spiffe)
    (svid,) = spiffe.fetch_svids(AUDIENCE)
    assert svid.spiffe_id == "spiffe://robin.test/app"
    assert svid.audience == (AUDIENCE,)
    assert spiffe.verify(svid.token, audience=AUDIENCE).claims["sub"] == "spiffe://robin.test/app"
    assert spiffe.fetch_bundle() == spiffe.bundle()
    header = json.loads(base64.urlsafe_b64decode(svid.token.split(".")[0] + "=="))
    assert (header["alg"], header["typ"], header["kid"]) == ("ES256", "JWT", spiffe.bundle()["keys"][0]["kid"])


def test_a_token_for_another_audience_or_of_a_forgotten_key_is_not_valid(spiffe: SpiffeDomain) -> None:
    registered(spiffe)
    (svid,) = spiffe.fetch_svids(AUDIENCE)
    with pytest.raises(WorkloadApiRefused, match="audience"):
        spiffe.verify(svid.token, audience="https://elsewhere.test")
    old = spiffe.bundle()["keys"][0]["kid"]
    spiffe.rotate_key()
    assert spiffe.verify(svid.token, audience=AUDIENCE).spiffe_id == svid.spiffe_id
    spiffe.forget_key(old)
    with pytest.raises(WorkloadApiRefused, match="no JWT authority"):
        spiffe.verify(svid.token, audience=AUDIENCE)


def test_permission_is_denied_until_the_entry_exists_and_again_once_it_is_deleted(spiffe: SpiffeDomain) -> None:
    with pytest.raises(WorkloadApiRefused, match="no identity issued") as refused:
        spiffe.fetch_svids(AUDIENCE)
    assert refused.value.code == "PermissionDenied"
    entry = registered(spiffe)
    spiffe.delete_entry(entry)
    poll(lambda: not allowed(spiffe, "/app"), timeout_s=60, what="the agent to forget the entry")


def test_selectors_choose_and_all_must_match(spiffe: SpiffeDomain) -> None:
    me = f"unix:uid:{os.getuid()}"
    ask = f"unix:path:{spiffe.ask_program}"
    spiffe.create_entry("/other-user", selectors=["unix:uid:4294967000"])
    spiffe.create_entry("/half", selectors=[me, "unix:path:/bin/other"])
    spiffe.create_entry("/first", selectors=[me], entry_id="a", hint="internal")
    registered(spiffe, "/second", selectors=[me, ask], entry_id="b", hint="external")
    assert [(one.spiffe_id, one.hint) for one in spiffe.fetch_svids(AUDIENCE)] == [
        ("spiffe://robin.test/first", "internal"),
        ("spiffe://robin.test/second", "external"),
    ]


def test_a_token_is_renewed_in_its_second_half_of_life(spiffe: SpiffeDomain) -> None:
    registered(spiffe, jwt_ttl_s=4)
    (first,) = spiffe.fetch_svids(AUDIENCE)
    assert first.expires_at - first.claims["iat"] == 4
    assert spiffe.fetch_svids(AUDIENCE)[0].token == first.token
    later = poll(lambda: [one for one in spiffe.fetch_svids(AUDIENCE) if one.token != first.token], timeout_s=60, what="a new token")
    assert first.expires_at - 3 <= later[0].claims["iat"] <= first.expires_at - 1


def test_without_its_authority_the_agent_gives_the_old_token_until_it_expires_and_recovers(spiffe: SpiffeDomain) -> None:
    registered(spiffe, jwt_ttl_s=4)
    (held,) = spiffe.fetch_svids(AUDIENCE)
    spiffe.authority.kill()
    refusals: list[WorkloadApiRefused] = []

    def refused() -> bool:
        try:
            assert spiffe.fetch_svids(AUDIENCE)[0].token == held.token
        except WorkloadApiRefused as error:
            refusals.append(error)
        return bool(refusals)

    poll(refused, timeout_s=60, what="the old token to expire")
    assert time.time() >= held.expires_at
    assert refusals[0].code == "Unavailable"
    assert "unable to renew JWT" in refusals[0].detail
    spiffe.start_authority()
    assert spiffe.fetch_svids(AUDIENCE)[0].token != held.token
    assert spiffe.bundle()["keys"], "a restarted authority keeps its keys"


def test_a_call_that_needs_an_authority_which_does_not_answer_hangs_until_the_callers_deadline(spiffe: SpiffeDomain) -> None:
    registered(spiffe)
    spiffe.authority.pause()
    with pytest.raises(WorkloadApiRefused) as refused:
        spiffe.fetch_svids(AUDIENCE, timeout_s=2)
    assert "deadline" in str(refused.value).lower(), "the caller's own, or what the agent, to which it was sent, says of it"
    spiffe.authority.resume()
    assert spiffe.fetch_svids(AUDIENCE)[0].spiffe_id == "spiffe://robin.test/app"


def test_a_killed_agent_comes_back_on_the_same_socket(spiffe: SpiffeDomain) -> None:
    registered(spiffe)
    spiffe.agent.kill()
    with pytest.raises(WorkloadApiRefused) as refused:
        spiffe.fetch_svids(AUDIENCE)
    assert refused.value.code in {"Unavailable", "DeadlineExceeded"}
    spiffe.start_agent()
    assert spiffe.fetch_svids(AUDIENCE)[0].spiffe_id == "spiffe://robin.test/app"


def test_the_workload_api_can_be_had_over_tcp(spiffe: SpiffeDomain) -> None:
    registered(spiffe)
    with spiffe.tcp_endpoint() as (endpoint, _relay):
        assert spiffe.fetch_svids(AUDIENCE, endpoint=endpoint)[0].spiffe_id == "spiffe://robin.test/app"


def test_leaving_ends_every_process_and_removes_the_folder() -> None:
    with spiffe_domain() as domain:
        pids = [domain.authority.pid, domain.agent.pid]
        folder = domain.folder
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not folder.exists()
