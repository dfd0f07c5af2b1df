"""The settings file (item I2): lines good and bad, each bad one with its exact message, and files that are refused whole."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config.file import LIMIT_BYTES, check_name, is_yaml, load_content, parse_settings_file
from robin.config.parse import InvalidValue

GOOD = [
    (b"", {}),
    (b"\n \t\n\n", {}),
    (b"# ROBIN_A=1\n#\n", {}),
    (b"ROBIN_A=1", {"ROBIN_A": "1"}),
    (b"ROBIN_A=1\r\nROBIN_B=2\r\n", {"ROBIN_A": "1", "ROBIN_B": "2"}),
    (b"export ROBIN_A=1\nexport\t ROBIN_B=2\n", {"ROBIN_A": "1", "ROBIN_B": "2"}),
    (b"ROBIN_A= \t1 2 \t\n", {"ROBIN_A": "1 2"}),
    (b"ROBIN_A='1'\nROBIN_B=\" 2 \"\n", {"ROBIN_A": "1", "ROBIN_B": " 2 "}),
    (b"ROBIN_A=\"'1'\"\n", {"ROBIN_A": "'1'"}),
    (b"ROBIN_A=''\nROBIN_B=\n", {"ROBIN_A": "", "ROBIN_B": ""}),
    (b"ROBIN_A=a=b==\n", {"ROBIN_A": "a=b=="}),
    (b"ROBIN_A=it's\n", {"ROBIN_A": "it's"}),
    (b"ROBIN_A=1 # no comment\n", {"ROBIN_A": "1 # no comment"}),
    (b"ROBIN_A=a\\nb\n", {"ROBIN_A": "a\\nb"}),
    (b"ROBIN_A=${HOME}$HOME`id`\n", {"ROBIN_A": "${HOME}$HOME`id`"}),
    ("ROBIN_A=bücher\n".encode(), {"ROBIN_A": "bücher"}),
    (b"ROBIN_A=1\\\nROBIN_B=2\n", {"ROBIN_A": "1\\", "ROBIN_B": "2"}),
    (b"A1_=x\n", {"A1_": "x"}),
]

BAD = [
    (b"ROBIN_A\n", "line 1: has no =; write KEY=value"),
    (b"\n\nexport ROBIN_A\n", "line 3: has no =; write KEY=value"),
    (b"export\n", "line 1: has no =; write KEY=value"),
    (b"=1\n", "line 1: has an empty key; write KEY=value"),
    (b"export =1\n", "line 1: has an empty key; write KEY=value"),
    (b"ROBIN_A =1\n", "line 1: has a space before the =; write KEY=value without spaces around the key"),
    (b"ROBIN_A\t=1\n", "line 1: has a space before the =; write KEY=value without spaces around the key"),
    (b" ROBIN_A=1\n", "line 1: starts with a space; start it at the first column"),
    (b"\t# comment\n", "line 1: starts with a space; start it at the first column"),
    (b"robin_a=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"1ROBIN=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"_ROBIN=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"ROBIN-A=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"EXPORT ROBIN_A=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"export export ROBIN_A=1\n", "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    ("ROBIN_Ä=1\n".encode(), "line 1: has a malformed key; use upper-case letters, digits and _, starting with a letter"),
    (b"ROBIN_A='1\n", "line 1: has an opening quote without a closing one; close the quote, or remove it"),
    (b'ROBIN_A="\n', "line 1: has an opening quote without a closing one; close the quote, or remove it"),
    (b"ROBIN_A='1\"\n", "line 1: has an opening quote without a closing one; close the quote, or remove it"),
    (
        b"ROBIN_A='1' # comment\n",
        "line 1: has text after the closing quote; end the line at the quote; there are no inline comments and no escapes",
    ),
    (
        b'ROBIN_A="1\\"2"\n',
        "line 1: has text after the closing quote; end the line at the quote; there are no inline comments and no escapes",
    ),
    (b"ROBIN_A=1\nROBIN_A=2\n", "line 2: ROBIN_A is set again, first on line 1; keep one of them"),
    (b"ROBIN_A=\n#\nROBIN_A=\n", "line 3: ROBIN_A is set again, first on line 1; keep one of them"),
    (b"ROBIN_CONFIG=/x\n", "line 1: ROBIN_CONFIG cannot be set in the file it names; remove the line"),
    (b"ROBIN_A=\xff\n", "line 1: not UTF-8; save the file as UTF-8"),
    (b"ROBIN_A=1\rROBIN_B=2\n", "line 1: has a control character; remove it; lines end in LF or CRLF"),
    (b"ROBIN_A=1\x00\n", "line 1: has a control character; remove it; lines end in LF or CRLF"),
    (b"ROBIN_A=\x1b[31m\n", "line 1: has a control character; remove it; lines end in LF or CRLF"),
    (b"ROBIN_A=1\x0c\n", "line 1: has a control character; remove it; lines end in LF or CRLF"),
]


@pytest.mark.parametrize(("content", "values"), GOOD)
def test_good_lines(content: bytes, values: dict[str, str]) -> None:
    text = parse_settings_file(content)
    assert text.errors == ()
    assert {line.key: line.value for line in text.lines} == values


@pytest.mark.parametrize(("content", "message"), BAD)
def test_bad_lines_say_which_and_why(content: bytes, message: str) -> None:
    text = parse_settings_file(content)
    assert [f"{error.what}; {error.fix}" for error in text.errors] == [message]


def test_every_bad_line_is_told_in_one_run_and_the_good_ones_stand() -> None:
    text = parse_settings_file(b"ROBIN_A=1\nx\n=2\nROBIN_B=3\n")
    assert [error.what for error in text.errors] == ["line 2: has no =", "line 3: has an empty key"]
    assert [(line.number, line.key) for line in text.lines] == [(1, "ROBIN_A"), (4, "ROBIN_B")]


def test_a_byte_order_mark_is_refused() -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_settings_file(b"\xef\xbb\xbfROBIN_A=1\n")
    assert caught.value.what == "line 1: the file starts with a byte order mark"


def test_64_kib_are_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robin.env"
    path.write_bytes(b"#" * LIMIT_BYTES)
    assert parse_settings_file(load_content(str(path))).errors == ()
    path.write_bytes(b"#" * (LIMIT_BYTES + 1))
    with pytest.raises(InvalidValue, match="larger than 64 KiB"):
        parse_settings_file(load_content(str(path)))


@pytest.mark.parametrize("name", ["robin.yaml", "robin.yml", "robin.json", "robin.TOML"])
def test_key_value_lines_in_a_file_named_like_another_format_are_refused(name: str) -> None:
    with pytest.raises(InvalidValue, match="named like another format"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "content", "yaml"),
    [
        ("robin.env", b"# version: 1\n\nROBIN_AUDIENCE=a: b\n", False),
        ("robin.env", b"export ROBIN_AUDIENCE=a\nversion: 1\n", False),
        ("robin.yaml", b"ROBIN_AUDIENCE=a\n", False),
        ("robin.env", b"nonsense\n", False),
        ("robin.env", b"", False),
        ("config", b"# settings\r\nversion: 1\r\n", True),
        ("config", b"---\n", True),
        ("config", b"%YAML 1.2\n---\n", True),
        ("config", b'"version": 1', True),
        ("config", b"sidecar:\n", True),
        ("config", b'{"version": 1}', True),
        ("config", b"\xef\xbb\xbfversion: 1", True),
        ("robin.yaml", b"nonsense", True),
        ("robin.YML", b"", True),
    ],
)
def test_the_content_tells_which_format_a_file_has_and_where_it_says_nothing_the_name(name: str, content: bytes, yaml: bool) -> None:
    assert is_yaml(name, content) is yaml


def test_a_world_writable_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "robin.env"
    path.write_text("ROBIN_A=1\n")
    path.chmod(0o646)
    with pytest.raises(InvalidValue, match="world-writable"):
        load_content(str(path))
    path.chmod(0o664)
    assert load_content(str(path)) == b"ROBIN_A=1\n"


def test_what_is_not_a_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.yaml").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link.yaml", tmp_path, Path("/dev/null")):
        with pytest.raises(InvalidValue, match="not a regular file"):
            load_content(str(path))


def test_a_symlink_is_followed_as_a_mounted_config_map_is_one_and_its_target_is_judged(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("version: 1\n")
    (tmp_path / "robin.yaml").symlink_to("target")
    assert load_content(str(tmp_path / "robin.yaml")) == b"version: 1\n"
    (tmp_path / "target").chmod(0o646)
    with pytest.raises(InvalidValue, match="world-writable"):
        load_content(str(tmp_path / "robin.yaml"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidValue, match="cannot read the file: Too many levels of symbolic links"):
        load_content(str(tmp_path / "loop"))


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue) as caught:
        load_content(str(tmp_path / "none.env"))
    assert caught.value.what == "cannot read the file: No such file or directory"
    with pytest.raises(InvalidValue, match="cannot read the file: not a path"):
        load_content("a\0b")


def test_no_message_quotes_a_value() -> None:
    secret = b"hunter2hunter2"
    lines = b"X " + secret + b"\nROBIN_A='" + secret + b"\nROBIN_B='1'" + secret + b"\n k=" + secret + b"\nROBIN_C=\xff" + secret
    text = parse_settings_file(lines)
    assert len(text.errors) == 5
    assert "hunter2" not in "".join(error.what + error.fix for error in text.errors)


@given(st.binary(max_size=400))
def test_any_bytes_are_lines_and_refusals_of_one_printable_line(content: bytes) -> None:
    try:
        text = parse_settings_file(content)
    except InvalidValue as error:
        said = error.what
    else:
        said = "".join(f"{error.what}; {error.fix}" for error in text.errors)
        assert len({line.key for line in text.lines}) == len(text.lines)
    assert said.isprintable()


VALUES = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_categories=("Cc", "Cs")), max_size=30)


@given(
    st.dictionaries(st.from_regex(r"ROBIN_[A-Z0-9_]{1,10}", fullmatch=True).filter(lambda key: key != "ROBIN_CONFIG"), VALUES, max_size=6)
)
def test_what_is_written_in_quotes_is_read_back(values: dict[str, str]) -> None:
    written = {key: value.replace('"', "") for key, value in values.items()}
    content = "".join(f'{key}="{value}"\n' for key, value in written.items()).encode()
    text = parse_settings_file(content)
    assert text.errors == ()
    assert {line.key: line.value for line in text.lines} == written
