"""gRPC's own small grammar: status names, status text, message frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.wire.grpc import (
    CODES,
    code_of_http,
    code_of_reset,
    code_of_status,
    parse_message,
    parse_status_text,
    render_message,
    render_status_text,
)


@pytest.mark.parametrize(
    ("status", "code"),
    [(b"0", "OK"), (b"7", "PermissionDenied"), (b"16", "Unauthenticated"), (b"17", "Unknown"), (b"99", "Unknown")],
)
def test_a_status_number_has_a_name(status: bytes, code: str) -> None:
    assert code_of_status(status) == code


@pytest.mark.parametrize("status", [b"", b"-1", b"x", b"0x7", b"007", b"7 ", "٣".encode(), b"1e1"])
def test_what_is_no_status_is_unknown(status: bytes) -> None:
    assert code_of_status(status) == "Unknown"


def test_a_peer_that_is_no_grpc_server_is_named_by_its_http_status() -> None:
    assert (code_of_http(404), code_of_http(403), code_of_http(503), code_of_http(418)) == (
        "Unimplemented",
        "PermissionDenied",
        "Unavailable",
        "Unknown",
    )


def test_a_reset_has_a_code() -> None:
    assert (code_of_reset(7), code_of_reset(8), code_of_reset(11), code_of_reset(2)) == (
        "Unavailable",
        "Canceled",
        "ResourceExhausted",
        "Internal",
    )
    assert all(code_of_reset(number) in CODES for number in range(300))


@given(st.text(max_size=60))
def test_status_text_survives_its_encoding_but_for_what_cannot_be_printed(text: str) -> None:
    rendered = render_status_text(text)
    assert all(0x20 <= byte <= 0x7E for byte in rendered)
    shown = parse_status_text(rendered)
    assert shown.isascii()
    assert shown.isprintable() or shown == ""
    if text.isascii() and text.isprintable() and not any(len(word) >= 40 for word in text.split()):
        assert shown == text


def test_status_text_is_cut_and_hides_what_looks_like_a_token() -> None:
    assert parse_status_text(b"no%20identity%0aissued") == "no identity?issued"
    assert parse_status_text(b"token eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjE3ODAwMDA2MDB9.c2lnbmF0dXJl refused") == "token (hidden) refused"
    assert parse_status_text(b"%zz%") == "%zz%"
    assert len(parse_status_text(b"a b " * 500)) == 200


@given(st.binary(max_size=200))
def test_a_message_comes_out_as_it_went_in(message: bytes) -> None:
    assert parse_message(render_message(message)) == message


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0\0", b"\0\0\0\0\1", b"\1\0\0\0\1a", b"\0\0\0\0\1ab", render_message(b"a") + render_message(b"b"), b"\0\xff\xff\xff\xffa"],
)
def test_a_body_that_is_not_one_plain_message_is_none(body: bytes) -> None:
    assert parse_message(body) is None
