"""The form of the chain: canonical JSON as RFC 8785 has it, lines that are read strictly, and records that hold only what it defines."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.model.secret import Secret
from robin.telemetry.audit_chain import RecordError, canonical, check, checkpoint_message, hash_of, key_id_of, parse_line, render_line

GOOD = {"v": 1, "seq": 1, "prev": "0" * 64, "hash": "f" * 64, "ts": "t", "plane": "p", "event": "e", "id": ""}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785 3.2.2: the text of the example, without its fractions
        (
            {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", "literals": [None, True, False]},
            b'{"literals":[null,true,false],"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
        ),
        # 3.2.2.2: the short escapes, the others in lower case, and nothing else is escaped
        ({"a": "\b\t\n\f\r\x00\x1f\x7f\u2028\U0001f602"}, b'{"a":"\\b\\t\\n\\f\\r\\u0000\\u001f\x7f\xe2\x80\xa8\xf0\x9f\x98\x82"}'),
        # 3.2.3: names in order at every depth, no white space, elements in the order they have
        (
            {"b": {"z": 1, "a": [3, {"d": 1, "c": 2}]}, "a": 0, "B": -5, "_": 2**53 - 1},
            b'{"B":-5,"_":9007199254740991,"a":0,"b":{"a":[3,{"c":2,"d":1}],"z":1}}',
        ),
    ],
)
def test_the_canonical_form_is_that_of_rfc_8785(value: dict[str, object], expected: bytes):
    check(value)
    assert canonical(value) == expected


def test_the_byte_strings_that_are_hashed_and_signed_are_fixed():
    assert hash_of(GOOD) == "e59d583b75842a2a5de2d7d86c5bd7ed3a318b57dccae8734a8afe7c4045a0f7"
    assert checkpoint_message(7, "ab", "close") == b"robin audit checkpoint v1\n7\nab\nclose\n"
    assert key_id_of(b"\x00" * 32) == "66687aadf862bd77"


leaves = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"]))
names = st.from_regex(r"\A[a-z]{1,8}\Z")
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner), max_leaves=15)


@given(field=trees)
def test_a_record_read_from_its_line_has_the_same_hash_and_the_line_is_printable_ascii(field: object):
    record = {**GOOD, "field": field}
    try:
        check(record)
    except RecordError:
        return  # nested too deep
    line = render_line(record)
    assert line.endswith(b"\n")
    assert all(0x20 <= octet < 0x7F for octet in line[:-1])
    assert hash_of(parse_line(line[:-1])) == hash_of(record)


def nest(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        b"octets",
        Secret(b"canary"),
        ValueError("x"),
        2**53,
        -(2**53),
        "\ud800",
        {"\u00e9": 1},
        {"": 1},
        {1: 2},
        nest(8),
        {1},
    ],
)
def test_a_record_cannot_hold_what_the_form_does_not_define(value: object):
    with pytest.raises(RecordError) as caught:
        check({"field": value})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\x00" * 100,
        b"[]",
        b"null",
        b"{",
        b"[" * 60_000,
        b'{"n":' * 10_000,
        b"9" * 60_000,
        b'{"v":1}',
        b"\xff" + render_line(GOOD)[:-1],
        render_line(GOOD)[:-2] + b',"x":1.5}',
        render_line(GOOD)[:-2] + b',"x":1e3}',
        render_line(GOOD)[:-2] + b',"x":NaN}',
        render_line(GOOD)[:-2] + b',"x":"\\ud800"}',
        render_line(GOOD)[:-2] + b',"x":1,"x":1}',
        render_line(GOOD)[:-2] + b',"x":{"y":1,"y":2}}',
        *(json.dumps({**GOOD, **wrong}).encode() for wrong in ({"v": True}, {"v": 2}, {"seq": "1"}, {"seq": True}, {"hash": "F" * 64})),
        *(json.dumps({**GOOD, **wrong}).encode() for wrong in ({"prev": None}, {"prev": "0" * 63}, {"ts": 1}, {"id": None}, {"event": []})),
    ],
)
def test_a_line_that_is_no_record_is_refused(line: bytes):
    with pytest.raises(RecordError):
        parse_line(line)
