"""Values of the fields that frame and route, judged one at a time."""

import pytest

from robin.model.message import canonical_name
from robin.wire.fields import LENGTH_MAX, host_is_valid, is_token, parse_keep_alive, parse_length, trailer_is_valid
from robin.wire.shape import parse_connection


def test_names_are_compared_without_case_and_underscore_is_a_dash() -> None:
    assert canonical_name(b"X_Api-KEY") == b"x-api-key"


def test_connection_gives_canonical_options() -> None:
    assert parse_connection(b"Close,\tX_A , HOST") == {b"close", b"x-a", b"host"}


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"0", 0),
        (b"005", 5),
        (b"%d" % LENGTH_MAX, LENGTH_MAX),
        (b"%d" % (LENGTH_MAX + 1), None),
        (b"9" * 5000, None),
        (b"0" * 5000 + b"7", 7),
        (b"+5", None),
        (b"5,5", None),
        (b"", None),
        ("\u0665".encode(), None),
    ],
)
def test_content_length_is_one_decimal_number_of_63_bits(value: bytes, length: int | None) -> None:
    assert parse_length(value) == length


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5", 5),
        (b"max=100, Timeout = 30", 30),
        (b"timeout=5;max=1", 5),
        (b"timeout=-1", None),
        (b"timeout=1e3", None),
        (b"xtimeout=5", None),
        (b"", None),
    ],
)
def test_keep_alive_announces_a_whole_number_of_seconds_or_nothing(value: bytes, seconds: int | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        (b"localhost", True),
        (b"localhost:0", True),
        (b"localhost:00080", True),
        (b"localhost:59999", True),
        (b"localhost:64999", True),
        (b"localhost:65535", True),
        (b"[::1]:80", True),
        (b"a_b.c-d~e", True),
        (b"", False),
        (b"localhost:65536", False),
        (b"localhost:65540", False),
        (b"localhost:66000", False),
        (b"localhost:99999", False),
        (b"localhost:000080", False),
        (b"localhost:", False),
        (b"::1", False),
        (b"[::1", False),
        (b"user@localhost", False),
        (b"a,b", False),
        (b"a b", False),
        (b"localhost\n", False),
        (b"h" * 256, False),
    ],
)
def test_a_host_is_a_name_or_an_address_and_perhaps_a_port(host: bytes, valid: bool) -> None:
    assert host_is_valid(host) is valid


def test_a_trailer_is_a_token_and_a_value_without_controls() -> None:
    assert trailer_is_valid(b"X-Sum", b"a\tb\xff")
    for name, value in ((b"", b"a"), (b"X Sum", b"a"), (b"X", b"a\x00"), (b"X", b"a\rb")):
        assert not trailer_is_valid(name, value)
    assert is_token(b"a!#$%&'*+-.^_`|~9")
    assert not is_token(b"a\n")
