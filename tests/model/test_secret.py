"""A Secret shows itself to `reveal` and to nothing else."""

import copy
import json
import logging
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.secret import Secret

CANARY = b"canary-5f1e"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r:>80}".format,
        "%s".__mod__,
        "%r".__mod__,
        lambda secret: f"{secret:x}",
        lambda secret: str([secret]),
    ],
)
def test_a_secret_is_inert_however_it_is_shown(show: Callable[[object], str]) -> None:
    shown = show(Secret(CANARY))
    assert "canary" not in shown
    assert "hidden" in shown


def test_a_secret_is_inert_in_a_log_line_and_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError(Secret(CANARY))
    except ValueError:
        logging.getLogger("test").exception("failed with %s", Secret(CANARY))
    assert "hidden" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, vars, bytes])
def test_a_secret_cannot_be_copied_out(leak: Callable[[object], object]) -> None:
    with pytest.raises(TypeError):
        leak(Secret(CANARY))


def test_secrets_are_equal_only_to_themselves() -> None:
    assert Secret(CANARY) != Secret(CANARY)
    assert Secret(CANARY) != CANARY


@given(st.binary(max_size=64))
def test_reveal_gives_the_bytes_and_len_their_number(value: bytes) -> None:
    secret = Secret(value)
    assert secret.reveal() == value
    assert len(secret) == len(value)
