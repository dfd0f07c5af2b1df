"""JSON of hostile peers: what is refused although the parser of the standard library takes it."""

import pytest

from robin.wire.strict_json import parse_json_object


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1e999}',
        b'{"a":[-1e999]}',
        b'{"a":NaN}',
        b'{"a":"\\ud800"}',
        b'{"\\udc00":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * 200_000,
        b"\xef\xbb\xbf{}",
        b'{"a":"\xed\xa0\x80"}',
        b"[]",
    ],
    ids=["infinity", "inner", "nan", "surrogate", "in a name", "duplicate", "digits", "depth", "bom", "utf-8 surrogate", "list"],
)
def test_what_is_not_one_plain_object_is_refused_without_a_byte_of_it(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^not a JSON object$"):
        parse_json_object(text)


def test_a_pair_of_surrogates_is_one_character_and_numbers_keep_their_kind() -> None:
    assert parse_json_object(b'{"a":"\\ud83d\\ude00","b":1.5e3,"c":10}') == {"a": "\U0001f600", "b": 1500.0, "c": 10}
