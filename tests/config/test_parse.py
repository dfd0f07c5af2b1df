"""The scalar kinds: what they accept, and the exact words with which they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config import parse
from robin.config.parse import InvalidValue, nearest

UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
ANY_TEXT = st.text(min_size=1, max_size=60)


def refusal_of(kind: parse.Kind, text: str) -> tuple[str, str]:
    with pytest.raises(InvalidValue) as caught:
        kind.parse(text)
    return caught.value.what, caught.value.fix


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse.parse_duration(text) == sum(number * UNITS[unit] for number, unit in parts) / 1000


def test_a_bare_zero_is_the_only_number_without_unit() -> None:
    assert parse.parse_duration("0") == 0.0
    assert refusal_of(parse.duration("0s"), "10") == ('"10" has no unit', "write 10s or 10ms")


@pytest.mark.parametrize("text", ["1.5s", "-1s", "+1s", "1 s", "s", "1d", "1S", "١s", "1s ", "1h30", "0x1s", "1_0s", "1s\n"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(InvalidValue, match="duration"):
        parse.parse_duration(text)


@given(st.integers(0, 10**6), st.sampled_from([("", 1), ("KiB", 1024), ("MiB", 1048576)]))
def test_a_size_is_bytes(number: int, unit: tuple[str, int]) -> None:
    assert parse.parse_size(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["64k", "64KB", "64 KiB", "1GiB", "-1", "1.5MiB", "٣", "KiB"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(InvalidValue, match="size"):
        parse.parse_size(text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans_have_four_spellings(text: str, value: bool) -> None:
    assert parse.parse_boolean(text) is value


@pytest.mark.parametrize("text", ["True", "yes", "on", "TRUE", "00", " true", "2"])
def test_no_other_spelling_is_a_boolean(text: str) -> None:
    with pytest.raises(InvalidValue, match="boolean"):
        parse.parse_boolean(text)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (parse.duration("1s", "60s"), "500ms", ('"500ms" is below 1s', "use 1s to 60s")),
        (parse.duration("1s", "60s"), "61s", ('"61s" is above 60s', "use 1s to 60s")),
        (parse.duration("0s"), "169h", ('"169h" is above 168h', "use 0s to 168h")),
        (parse.size("4KiB", "1MiB"), "4095", ('"4095" is below 4KiB', "use 4KiB to 1MiB")),
        (parse.integer("10", "1000"), "1001", ('"1001" is above 1000', "use 10 to 1000")),
        (parse.integer("1", "1"), "2", ('"2" is above 1', "use 1")),
        (parse.integer("1", "1"), "0", ('"0" is below 1', "use 1")),
        (parse.integer("1", "9"), "01", ('"01" is not a whole number', "write decimal digits only")),
        (parse.choice("json", "console"), "JSON", ('"JSON" is not one of its values', "use json or console")),
        (parse.ABSOLUTE_PATH, "token", ('"token" is not an absolute path', "start it with /")),
        (parse.MODE, "0888", ('"0888" is not a file mode', "write auto or octal permission bits such as 0600")),
        (parse.MODE, "4755", ('"4755" is not a file mode', "write auto or octal permission bits such as 0600")),
        (parse.UIDS, "root", ('"root" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "4294967295", ('"4294967295" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "-1", ('"-1" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "0x0", ('"0x0" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "00", ('"00" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "1000-2000", ('"1000-2000" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "none,1000", ('"none" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "*", ('"*" is not a user id', "write decimal UIDs from 0 to 4294967294, such as 1000,65532")),
        (parse.UIDS, "1,,2", ("the list has an empty item", "remove the extra comma, or write none for an empty list")),
        (parse.UIDS, "1,", ("the list has an empty item", "remove the extra comma, or write none for an empty list")),
    ],
)
def test_a_refusal_names_the_fix(kind: parse.Kind, text: str, expected: tuple[str, str]) -> None:
    assert refusal_of(kind, text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (parse.duration("1s", "60s"), "1s", 1.0),
        (parse.duration("1s", "60s"), "60s", 60.0),
        (parse.duration("1ms", or_auto=True), "auto", None),
        (parse.duration("1ms", or_auto=True), "4s", 4.0),
        (parse.size("4KiB", "1MiB"), "1MiB", 1048576),
        (parse.integer("10", "1000"), "10", 10),
        (parse.MODE, "auto", None),
        (parse.MODE, "0600", 0o600),
        (parse.MODE, "666", 0o666),
        (parse.UIDS, "none", ()),
        (parse.UIDS, "0,\t1000 , 0", (0, 1000)),
        (parse.TEXT, " a, b ", " a, b "),
    ],
)
def test_values_at_and_within_the_bounds(kind: parse.Kind, text: str, value: object) -> None:
    assert kind.parse(text) == value


@given(st.lists(st.text(alphabet="ab:.*", min_size=1).filter(lambda item: item != "none"), min_size=1, max_size=6))
def test_a_list_keeps_its_items_whatever_blanks_surround_them(items: list[str]) -> None:
    assert parse.parse_items(" ,\t".join(items)) == tuple(items)


@pytest.mark.parametrize(
    "secret",
    ["eyJhbGciOiJSUzI1NiJ9.e30.x", "sk-" + "a" * 48, "https://user:pass@host", "\x1b[31m", "é"],
)
def test_a_refused_text_that_may_be_a_secret_or_drive_a_terminal_is_not_quoted(secret: str) -> None:
    what, fix = refusal_of(parse.choice("a", "b"), secret)
    assert secret not in what + fix
    assert what == f"a value of {len(secret)} characters is not one of its values"


@given(
    ANY_TEXT, st.sampled_from([parse.BOOLEAN, parse.MODE, parse.UIDS, parse.size("1", "9"), parse.integer("1", "9"), parse.duration("0s")])
)
def test_any_text_is_a_value_or_a_refusal_of_one_printable_line(text: str, kind: parse.Kind) -> None:
    said = ""
    try:
        kind.parse(text)
    except InvalidValue as error:
        said = f"{error.what}; {error.fix}"
    assert said == "" or said.isprintable()


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\n", "\r", "\x7f", "\x85", "\x9b", "\udcff"])
def test_controls_and_undecodable_bytes_are_known(character: str) -> None:
    assert parse.CONTROLS.search(f"a{character}b") is not None


def test_tab_and_ordinary_text_are_no_controls() -> None:
    assert parse.CONTROLS.search("a\tb é \u00a0 日") is None


KNOWN = ("TOKEN_FILE", "TOKEN_FORMAT", "MAX_HEAD_SIZE", "WORKERS")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("TOKENFILE", "TOKEN_FILE"),
        ("TOKEN_FIEL", "TOKEN_FILE"),
        ("WORKER", "WORKERS"),
        ("TOKEN_PATH", None),
        ("MAX_BODY_SIZE", None),
        ("X", None),
        ("", None),
    ],
)
def test_only_a_close_word_is_suggested(word: str, meant: str | None) -> None:
    assert nearest(word, KNOWN) == meant


def test_a_long_word_is_cut_before_it_is_compared() -> None:
    assert nearest("WORKERS" + "S" * 1_000_000, KNOWN) is None
