"""What the probes say follows from start, drain and identity, and holds nothing but that."""

import json

import pytest

from robin.admin.readiness import Readiness
from robin.model.identity import IdentityState, IdentityStatus

FRESH = IdentityStatus(source="file", state=IdentityState.FRESH, expires_in_s=2911.7, usable=True, reasons=())
MISSING = IdentityStatus(source="jwtsvid", state=IdentityState.MISSING, expires_in_s=None, usable=False, reasons=("identity_unavailable",))


def test_the_body_of_a_ready_sidecar_is_the_one_of_the_specification():
    readiness = Readiness(started=True, draining=False, identities=(FRESH,))
    assert readiness.render() == (b'{"status":"ready","reasons":[],"identity":{"source":"file","state":"fresh","expires_in_s":2911}}\n')


@pytest.mark.parametrize(
    ("started", "draining", "identity", "ready", "status", "reasons"),
    [
        (False, False, MISSING, False, "starting", ["starting", "identity_unavailable"]),
        (False, False, FRESH, True, "starting", ["starting"]),
        (True, False, FRESH, True, "ready", []),
        (True, False, MISSING, False, "not_ready", ["identity_unavailable"]),
        (True, True, FRESH, False, "draining", ["draining"]),
        (True, True, MISSING, False, "draining", ["draining", "identity_unavailable"]),
        (False, True, MISSING, False, "draining", ["draining", "starting", "identity_unavailable"]),
    ],
)
def test_status_and_reasons(started, draining, identity, ready, status, reasons):
    readiness = Readiness(started=started, draining=draining, identities=(identity,))
    told = json.loads(readiness.render())
    assert (readiness.ready, told["status"], told["reasons"]) == (ready, status, reasons)
    assert set(told["identity"]) == {"source", "state", "expires_in_s"}


def test_a_stale_token_that_is_usable_is_ready_and_gives_no_reason():
    stale = IdentityStatus(source="jwtsvid", state=IdentityState.STALE, expires_in_s=8.9, usable=True, reasons=("identity_unavailable",))
    readiness = Readiness(started=True, draining=False, identities=(stale,))
    assert readiness.ready
    assert json.loads(readiness.render()) == {
        "status": "ready",
        "reasons": [],
        "identity": {"source": "jwtsvid", "state": "stale", "expires_in_s": 8},
    }


def test_an_endless_expiry_is_not_a_number():
    endless = IdentityStatus(source="file", state=IdentityState.FRESH, expires_in_s=float("inf"), usable=True, reasons=())
    assert json.loads(Readiness(started=True, draining=False, identities=(endless,)).render())["identity"]["expires_in_s"] is None


def test_several_identities_are_listed_and_the_first_that_is_not_usable_stands_for_them():
    readiness = Readiness(started=True, draining=False, identities=(FRESH, MISSING, MISSING))
    told = json.loads(readiness.render())
    assert (readiness.ready, told["status"], told["reasons"]) == (False, "not_ready", ["identity_unavailable"])
    assert told["identity"] == {"source": "jwtsvid", "state": "missing", "expires_in_s": None}
    assert [identity["source"] for identity in told["identities"]] == ["file", "jwtsvid", "jwtsvid"]


def test_a_reason_of_the_plane_itself_stands_behind_those_of_its_identities():
    readiness = Readiness(started=True, draining=False, identities=(MISSING,), reasons=("policy_missing",))
    assert (readiness.usable, readiness.failures) == (False, ("identity_unavailable", "policy_missing"))
    assert not Readiness(started=True, draining=False, identities=(FRESH,), reasons=("policy_missing",)).ready


def test_a_plane_without_identities_is_ready_once_it_started():
    readiness = Readiness(started=True, draining=False, identities=())
    assert readiness.ready
    assert readiness.render() == b'{"status":"ready","reasons":[]}\n'
