"""Who a caller is, and how we know."""

from dataclasses import FrozenInstanceError

import pytest

from robin.model.caller import Caller, Evidence


def test_the_evidence_is_one_of_three_words() -> None:
    assert {str(evidence) for evidence in Evidence} == {"loopback", "unix_peer", "open"}


def test_a_caller_without_the_kernels_word_has_no_uid() -> None:
    caller = Caller(evidence=Evidence.LOOPBACK, listener="127.0.0.1:4000")
    assert (caller.uid, caller.pid) == (None, None)


def test_a_caller_cannot_become_another_one() -> None:
    caller = Caller(evidence=Evidence.UNIX_PEER, listener="unix:/s", uid=1000, pid=7)
    with pytest.raises(FrozenInstanceError):
        caller.uid = 0  # type: ignore[misc]
