"""Who is admitted by which rule; refusals and the limit are shown by the planes, in tests/planes and tests/app."""

import os
import socket

import pytest

from robin.model.caller import Evidence, ListenerRule
from robin.proxy.admission import judge_peer
from robin.transport.listen import BoundSocket


@pytest.mark.parametrize(
    ("allow_uids", "denied"), [(None, None), (frozenset({os.getuid()}), None), (frozenset({os.getuid() + 1}), "uid"), (frozenset(), "uid")]
)
def test_the_user_of_a_unix_peer_is_judged_and_its_credentials_are_noted(allow_uids: frozenset[int] | None, denied: str | None):
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        caller, reason = judge_peer(ListenerRule(unix=True, allow_uids=allow_uids), ours, BoundSocket(ours, "unix:/s"))
    assert reason == denied
    assert (caller.evidence, caller.listener) == (Evidence.UNIX_PEER, "unix:/s")
    assert (caller.uid, caller.gid, caller.pid) == (os.getuid(), os.getgid(), os.getpid())
