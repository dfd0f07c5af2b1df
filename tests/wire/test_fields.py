"""Field lines: read once, remembered only where that is harmless, and judged by their folded name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.message import Field
from robin.wire.fields import LENGTH_MAX, Role, fields_of, host_is_valid, read_line

NAMES = st.one_of(
    st.sampled_from(
        [b"Host", b"CONNECTION", b"content-length", b"Content_Length", b"TE", b"Via", b"X_Forwarded_For", b"Cookie", b"Keep-Alive"]
    ),
    st.text(alphabet="abXY-_09!", min_size=1, max_size=12).map(str.encode),
)
VALUES = st.one_of(
    st.sampled_from([b"", b"close, X-A", b"007", b"chunked", b"timeout=5", b" padded\t", b"[::1]:80", b"a:b:c"]),
    st.binary(max_size=300).map(lambda value: value.translate(None, b"\r\n\x00")),
)
LINES = st.builds(lambda name, value: name + b":" + value, NAMES, VALUES)


SAID = [name for name in Field.__slots__ if name not in {"lasting", "shared", "spare", "value", "line"}]


def said(field: Field) -> dict[str, object]:
    return {name: getattr(field, name) for name in SAID}


@given(st.lists(LINES, max_size=8))
def test_what_is_remembered_says_what_a_fresh_read_says(lines: list[bytes]) -> None:
    for _ in range(2):  # the second time from the memo
        for field, line in zip(fields_of(lines), lines, strict=True):
            fresh = read_line(line)
            if field.shared:
                assert (field.value, field.line, field.meaning) == (b"", b"", None)
                assert fresh.line == field.name + b": " + fresh.value + b"\r\n"  # so that name and trimmed value are all of it
                fresh.meaning = None
            else:
                assert (field.value, field.line) == (fresh.value, fresh.line)
            assert said(field) == said(fresh)


@given(LINES)
def test_a_line_keeps_name_and_value_and_trims_only_space_and_tab(line: bytes) -> None:
    field = read_line(line)
    name, _, value = line.partition(b":")
    assert (field.name, field.value) == (name, value.strip(b" \t"))
    assert field.line == name + b": " + field.value + b"\r\n"


def only(line: bytes) -> Field:
    (field,) = fields_of([line])
    return field


@pytest.mark.parametrize(
    "name", [b"Accept", b"Authorization", b"Cookie", b"X-Api-Key", b"X_SECRET", b"Session-Id", b"Content-Length", b"traceparent"]
)
def test_lines_of_a_plain_name_share_one_field_that_holds_no_value(name: bytes) -> None:
    first, second = only(name + b": 1"), only(name + b": 2")
    assert first is second
    assert first.shared
    assert (first.value, first.line) == (b"", b"")


@pytest.mark.parametrize("line", [b"Accept:tight", b"Accept: trailing ", b"Accept:", b"Accept:\t 1", b"Accept: a: b", b"Accept:: a"])
def test_a_line_of_a_plain_name_shares_its_field_however_it_is_written(line: bytes) -> None:
    assert only(line) is only(b"Accept: 1")


@pytest.mark.parametrize("line", [b"Host: a", b"Connection: close", b"Transfer-Encoding: chunked", b"Content_Length: 5", b"Origin:a"])
def test_a_line_that_means_something_has_a_field_of_its_own(line: bytes) -> None:
    field = only(line)
    assert not field.shared
    assert field.lasting
    assert only(line) is field
    assert only(line.replace(b"a", b"e") + b"x") is not field


@pytest.mark.parametrize("line", [b"Sec_WebSocket_Key: s", b"Via: " + b"v" * 200, b"N" * 80 + b": v", b": no name", b""])
def test_an_odd_line_that_may_hold_a_secret_and_a_long_one_and_a_long_name_are_read_each_time(line: bytes) -> None:
    assert only(line) is not only(line)
    assert not only(line).lasting


def test_the_memo_is_bounded_and_right_after_it_starts_anew() -> None:
    for number in range(3000):
        assert only(b"Host: h%d" % number).value == b"h%d" % number
        assert only(b"X-Name-%d: 1" % number).name == b"X-Name-%d" % number


def test_after_the_names_start_anew_a_remembered_line_and_a_new_one_share_their_field() -> None:
    only(b"X-Remembered: 1")
    only(b"X-Remembered: 1")
    for number in range(1100):
        only(b"X-Flood-%d: 1" % number)
    assert only(b"X-Remembered: 1") is only(b"X-Remembered: 2")


def test_no_lines_are_no_fields() -> None:
    assert fields_of([]) == ()


@pytest.mark.parametrize(
    "name", [b"X-Forwarded-For", b"x_forwarded_host", b"FORWARDED", b"X_Real_IP", b"Authorization", b"proxy_authorization"]
)
def test_a_claim_that_only_a_proxy_may_make_never_goes_up_in_any_spelling(name: bytes) -> None:
    assert not read_line(name + b": x").goes_up


@pytest.mark.parametrize("name", [b"Connection", b"Keep_Alive", b"TE", b"Trailer", b"Upgrade", b"Proxy-Connection", b"HTTP2-Settings"])
def test_hop_by_hop_fields_travel_neither_way(name: bytes) -> None:
    field = read_line(name + b": x")
    assert (field.goes_up, field.goes_down) == (False, False)


@pytest.mark.parametrize("name", [b"Accept", b"Cookie", b"X-Forward", b"Referer", b"traceparent"])
def test_end_to_end_fields_travel_both_ways(name: bytes) -> None:
    field = read_line(name + b": x")
    assert (field.goes_up, field.goes_down) == (True, True)


def test_connection_folds_its_options_and_can_name_neither_host_nor_content_length_away() -> None:
    field = read_line(b"Connection: Close,\tX_A , HOST, content_length")
    assert field.role == Role.CONNECTION
    assert field.meaning == {b"close", b"x-a"}


@pytest.mark.parametrize(
    ("line", "length"),
    [
        (b"Content-Length: 0", 0),
        (b"Content-Length: 005", 5),
        (b"Content-Length: %d" % LENGTH_MAX, LENGTH_MAX),
        (b"Content-Length: %d" % (LENGTH_MAX + 1), None),
        (b"Content-Length: " + b"9" * 5000, None),
        (b"Content-Length: " + b"0" * 5000 + b"7", 7),
        (b"Content-Length: +5", None),
        (b"Content-Length: 5,5", None),
        (b"Content-Length:", None),
        (b"Content_Length: 5", None),
        ("Content-Length: \u0665".encode(), None),
    ],
)
def test_content_length_is_one_decimal_number_of_63_bits(line: bytes, length: int | None) -> None:
    assert read_line(line).meaning == length


@pytest.mark.parametrize(
    ("line", "good"),
    [(b"Transfer-Encoding: Chunked", True), (b"Transfer-Encoding: gzip, chunked", False), (b"Transfer_Encoding: chunked", False)],
)
def test_transfer_encoding_is_chunked_or_nothing(line: bytes, good: bool) -> None:
    assert read_line(line).meaning is good


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
def test_keep_alive_says_a_whole_number_of_seconds_or_nothing(value: bytes, seconds: int | None) -> None:
    assert read_line(b"Keep-Alive: " + value).meaning == seconds


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        (b"localhost", True),
        (b"localhost:65535", True),
        (b"[::1]:80", True),
        (b"a_b.c-d~e", True),
        (b"", False),
        (b"localhost:65536", False),
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
