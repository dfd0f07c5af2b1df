"""Hostile and mistaken YAML: each is refused with its place, its code and the fix, in bounded time, and nothing is ever constructed."""

import json
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robin.config import parse
from robin.config.diagnostic import MOST_DIAGNOSTICS, Diagnostic
from robin.config.schema import LONGEST_LIST, Entries, Field, Mapping, Scalar, Sequence
from robin.config.yaml_reader import read_yaml
from robin.config.yaml_tree import LIMIT_BYTES, MOST_NODES

# Small, but with every kind of schema: a plane yet to come has the same.
RULE = Mapping(
    fields=(
        Field(name="name", schema=Scalar(kind=parse.TEXT), required=True),
        Field(name="effect", schema=Scalar(kind=parse.choice("allow", "deny"), default="allow")),
        Field(name="paths", schema=Sequence(item=Scalar(kind=parse.TEXT), longest=3)),
    )
)
SCHEMA = Mapping(
    fields=(
        Field(name="text", schema=Scalar(kind=parse.TEXT)),
        Field(name="on_time", schema=Scalar(kind=parse.duration("0s"), default="5s")),
        Field(name="size", schema=Scalar(kind=parse.size("1KiB", "1MiB"))),
        Field(name="count", schema=Scalar(kind=parse.integer("0", "100"))),
        Field(name="enabled", schema=Scalar(kind=parse.BOOLEAN, default="false")),
        Field(name="mode", schema=Scalar(kind=parse.MODE)),
        Field(name="uids", schema=Scalar(kind=parse.UIDS)),
        Field(name="parent", schema=Scalar(kind=parse.TEXT, nullable=True)),
        Field(name="tls", schema=Mapping(fields=(Field(name="cert_file", schema=Scalar(kind=parse.ABSOLUTE_PATH)),), nullable=True)),
        Field(name="callers", schema=Entries(value=Sequence(item=Scalar(kind=parse.TEXT)), longest=2)),
        Field(name="rules", schema=Sequence(item=RULE)),
    )
)


def problems(content: str | bytes) -> list[str]:
    _value, found = read_yaml(content if isinstance(content, bytes) else content.encode(), "f", SCHEMA)
    return [str(one) for one in found]


def test_a_good_file_gives_its_values_with_the_defaults() -> None:
    text = "text: a # comment\nsize: 2KiB\nuids: [0, 7]\nparent: null\ncallers:\n  team-a: [x]\nrules:\n- name: r\n  paths: []\n"
    value, found = read_yaml(text.encode(), "f", SCHEMA)
    assert found == ()
    assert value is not None
    assert value.plain() == {
        "text": "a",
        "on_time": 5.0,
        "size": 2048,
        "enabled": False,
        "uids": (0, 7),
        "parent": None,
        "tls": None,
        "callers": {"team-a": ("x",)},
        "rules": ({"name": "r", "effect": "allow", "paths": ()},),
    }
    located = value.value["rules"].value[0].value["name"]
    assert (located.at.line, located.at.col) == (8, 9)


DEEP = "".join(f"{'  ' * depth}a:\n" for depth in range(200))
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"

# (name, file, the first line that is reported)
REFUSED = [
    # not the plain tree that YAML looks like
    ("billion laughs", LAUGHS, "f:1:1: error: unknown_key: \"a\" is not a key of the file. Fix: remove it, or use text, on_time, size, count, enabled, mode, uids, parent, tls, callers, rules."),
    ("anchor", "text: &x a\n", "f:1:7: error: yaml_invalid: anchors (&name) are refused. Fix: write the value itself at each place."),
    ("alias", "text: *x\n", "f:1:7: error: yaml_invalid: aliases (*name) are refused. Fix: write the value itself at each place."),
    (
        "python object",
        "text: !!python/object/apply:os.system [id]\n",
        "f:1:7: error: yaml_invalid: tags (!name) are refused. Fix: remove the tag; a string is put in quotes.",
    ),
    ("str tag", "text: !!str 1\n", "f:1:7: error: yaml_invalid: tags (!name) are refused. Fix: remove the tag; a string is put in quotes."),
    ("bare tag", "text: ! a\n", "f:1:7: error: yaml_invalid: tags (!name) are refused. Fix: remove the tag; a string is put in quotes."),
    ("merge key", "<<: {text: a}\n", "f:1:1: error: yaml_invalid: merge keys (<<) are refused. Fix: write the keys themselves."),
    (
        "two documents",
        "text: a\n---\ntext: b\n",
        "f:2:1: error: yaml_invalid: the file holds more than one document. Fix: keep one, without a second ---.",
    ),
    ("directive", "%YAML 1.1\n---\ntext: a\n", "f:1:1: error: yaml_invalid: directives (%YAML, %TAG) are refused. Fix: remove the line."),
    ("duplicate", "text: a\ntext: b\n", 'f:2:1: error: yaml_invalid: "text" is set again, first on line 1. Fix: keep one of them.'),
    ("duplicate in quotes", 'text: a\n"text": b\n', 'f:2:1: error: yaml_invalid: "text" is set again, first on line 1. Fix: keep one of them.'),
    (
        "duplicate by escape",
        'text: a\n"t\\x65xt": b\n',
        'f:2:1: error: yaml_invalid: "text" is set again, first on line 1. Fix: keep one of them.',
    ),
    ("duplicate in flow", "callers: {a: [], a: []}\n", 'f:1:18: error: yaml_invalid: "a" is set again, first on line 1. Fix: keep one of them.'),
    ("a list as key", "? [a]\n: b\n", "f:1:3: error: yaml_invalid: a key is a list. Fix: write a plain word as the key."),
    ("a boolean as key", "on: a\n", 'f:1:1: error: yaml_invalid: YAML reads the key "on" as a boolean. Fix: put it in quotes.'),
    ("an integer as key", "callers: {0x1: []}\n", 'f:1:11: error: yaml_invalid: YAML reads the key "0x1" as an integer. Fix: put it in quotes.'),
    ("a deep file", DEEP, "f:33:65: error: yaml_invalid: the file is nested deeper than 32 levels. Fix: flatten it."),
    ("a deep flow", "text: " + "[" * 100_000, "f:1:38: error: yaml_invalid: the file is nested deeper than 32 levels. Fix: flatten it."),
    (
        "100k keys",
        "".join(f"k{number}: a\n" for number in range(100_000)),
        f"f:10000:8: error: yaml_invalid: the file holds more than {MOST_NODES} values. Fix: split it.",
    ),
    ("a large file", "#" * (LIMIT_BYTES + 1), "f:1:1: error: yaml_invalid: the file is larger than 1 MiB. Fix: split it, or remove what does not belong in it."),
    # bytes
    ("a byte order mark", b"\xef\xbb\xbftext: a\n", "f:1:1: error: yaml_invalid: the file starts with a byte order mark. Fix: save it as UTF-8 without one."),
    ("UTF-16", "text: a\n".encode("utf-16"), "f:1:1: error: yaml_invalid: the file is not UTF-8. Fix: save it as UTF-8."),
    ("invalid UTF-8", b"# \xc3\xa9\ntext: \xff\n", "f:2:7: error: yaml_invalid: the file is not UTF-8. Fix: save it as UTF-8."),
    ("NUL", "text: a\x00b\n", "f:1:8: error: yaml_invalid: U+0000 is a control character. Fix: remove it; lines end in LF or CRLF."),
    ("escape", "text: \x1b[31m\n", "f:1:7: error: yaml_invalid: U+001B is a control character. Fix: remove it; lines end in LF or CRLF."),
    ("a lone CR", "text: a\rsize: 1KiB\n", "f:1:8: error: yaml_invalid: U+000D is a control character. Fix: remove it; lines end in LF or CRLF."),
    ("a line separator", "text: a\u2028size: 1\n", "f:1:8: error: yaml_invalid: U+2028 is a control character. Fix: remove it; lines end in LF or CRLF."),
    ("an escaped control", 'text: "a\\e[31m"\n', "f:1:7: error: value_invalid: text holds a control character. Fix: write it as plain text on one line."),
    ("two lines", "text: |\n  a\n  b\n", "f:1:7: error: value_invalid: text holds a control character. Fix: write it as plain text on one line."),
    # syntax
    ("a tab", "tls:\n\tcert_file: /a\n", "f:2:1: error: yaml_invalid: not valid YAML: found character '\\t' that cannot start any token. Fix: indent with spaces; YAML forbids tabs there."),
    ("an open bracket", "text: [a\n", "f:2:1: error: yaml_invalid: not valid YAML: expected ',' or ']', but got '<stream end>'. Fix: correct the line; text with special characters is put in quotes."),
    ("a colon", "text: a: b\n", "f:1:8: error: yaml_invalid: not valid YAML: mapping values are not allowed here. Fix: correct the line; text with special characters is put in quotes."),
    ("an empty file", "# nothing\n", "f:1:1: error: yaml_invalid: the file is empty. Fix: start with `version: 1`."),
    # keys
    ("an unknown key", "txt: a\n", 'f:1:1: error: unknown_key: "txt" is not a key of the file. Fix: write text (the nearest), or remove it.'),
    ("a key in capitals", "TEXT: a\n", 'f:1:1: error: unknown_key: "TEXT" is not a key of the file. Fix: remove it, or use text, on_time, size, count, enabled, mode, uids, parent, tls, callers, rules.'),
    ("an unknown key within", "tls: {key: /a}\n", 'f:1:7: error: unknown_key: "key" is not a key of tls. Fix: remove it, or use cert_file.'),
    ("a missing key", "rules: [{effect: deny}]\n", "f:1:9: error: key_missing: rules[0].name is required. Fix: add `name:`."),
    ("a bad entry name", "callers: {Team_A: [x]}\n", 'f:1:11: error: value_invalid: "Team_A" is not a valid name in callers. Fix: use a name that matches ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$.'),
    ("too many entries", "callers: {a: [], b: [], c: []}\n", "f:1:10: error: value_invalid: callers has 3 entries. Fix: use at most 2."),
    ("a long list", "rules: [{name: a, paths: [b, b, b, b]}]\n", "f:1:26: error: value_invalid: rules[0].paths has 4 entries. Fix: use at most 3."),
    ("an environment variable", "text: ${HOME}/x\n", "f:1:7: error: env_expansion: ${NAME} is not expanded. Fix: write the value itself, or name a file that holds it."),
    # types
    ("yes", "enabled: yes\n", 'f:1:10: error: value_invalid: enabled: "yes" is not a boolean. Fix: write true or false.'),
    ("On", "enabled: On\n", 'f:1:10: error: value_invalid: enabled: "On" is not a boolean. Fix: write true or false.'),
    ("True", "enabled: True\n", 'f:1:10: error: value_invalid: enabled: "True" is not a boolean. Fix: write true or false.'),
    ("1 for a boolean", "enabled: 1\n", 'f:1:10: error: value_invalid: enabled: YAML reads "1" as an integer. Fix: write true or false, in lower case.'),
    ("a quoted boolean", "enabled: 'true'\n", "f:1:10: error: value_invalid: enabled: it is a string, not a boolean. Fix: remove the quotes."),
    ("no for a text", "text: no\n", 'f:1:7: error: value_invalid: text: YAML reads "no" as a boolean. Fix: put it in quotes.'),
    ("y for a text", "text: y\n", 'f:1:7: error: value_invalid: text: YAML reads "y" as a boolean. Fix: put it in quotes.'),
    ("an integer for a text", "text: 12\n", 'f:1:7: error: value_invalid: text: YAML reads "12" as an integer. Fix: put it in quotes.'),
    ("a float for a text", "text: 1.5\n", 'f:1:7: error: value_invalid: text: YAML reads "1.5" as a number with a fraction. Fix: put it in quotes.'),
    ("an exponent for a text", "text: 1e3\n", 'f:1:7: error: value_invalid: text: YAML reads "1e3" as a number with a fraction. Fix: put it in quotes.'),
    ("a date for a text", "text: 2026-01-01\n", 'f:1:7: error: value_invalid: text: YAML reads "2026-01-01" as a date. Fix: put it in quotes.'),
    ("sexagesimal for a text", "text: 1:30\n", 'f:1:7: error: value_invalid: text: YAML reads "1:30" as an integer. Fix: put it in quotes.'),
    ("null for a text", "text: null\n", "f:1:7: error: value_invalid: text: it has no value. Fix: write a value, or remove the key."),
    ("nothing for a text", "text:\n", "f:1:6: error: value_invalid: text: it has no value. Fix: write a value, or remove the key."),
    ("tilde for a text", "text: ~\n", "f:1:7: error: value_invalid: text: it has no value. Fix: write a value, or remove the key."),
    ("an empty text", "text: ''\n", "f:1:7: error: value_invalid: text is empty. Fix: write a value, or remove the key."),
    ("a list for a text", "text: [a]\n", "f:1:7: error: value_invalid: text is a list, not a single value. Fix: write one value."),
    ("a text for a list", "uids: 1\n", "f:1:7: error: value_invalid: uids is a single value, not a list. Fix: write a list such as [a, b], or [] for none."),
    ("a text for a mapping", "tls: a\n", "f:1:6: error: value_invalid: tls is a single value, not a mapping. Fix: write `key: value` lines below it."),
    ("null for a list", "rules:\n", "f:1:7: error: value_invalid: rules is null, not a list. Fix: write a list such as [a, b], or [] for none."),
    ("octal", "count: 010\n", 'f:1:8: error: value_invalid: count: "010" is not a whole number. Fix: write decimal digits only.'),
    ("hexadecimal", "count: 0x10\n", 'f:1:8: error: value_invalid: count: "0x10" is not a whole number. Fix: write decimal digits only.'),
    ("underscores", "count: 1_0\n", 'f:1:8: error: value_invalid: count: "1_0" is not a whole number. Fix: write decimal digits only.'),
    ("a float for an integer", "count: 1.0\n", 'f:1:8: error: value_invalid: count: "1.0" is not a whole number. Fix: write decimal digits only.'),
    ("a quoted integer", "count: '5'\n", "f:1:8: error: value_invalid: count: it is a string, not an integer. Fix: remove the quotes."),
    ("a negative integer", "count: -1\n", 'f:1:8: error: value_invalid: count: "-1" is not a whole number. Fix: write decimal digits only.'),
    ("an octal mode", "mode: 0660\n", 'f:1:7: error: value_invalid: mode: YAML reads "0660" as an integer. Fix: put it in quotes.'),
    ("a bare duration", "on_time: 60\n", 'f:1:10: error: value_invalid: on_time: "60" has no unit. Fix: write 60s or 60ms.'),
    ("a bare zero", "on_time: 0\n", 'f:1:10: error: value_invalid: on_time: YAML reads "0" as an integer. Fix: write 0s.'),
    ("a zero in quotes", "on_time: '0'\n", "f:1:10: error: value_invalid: on_time cannot be written this way in YAML. Fix: write 0s."),
    ("a sum of durations", "on_time: 1h30m\n", "f:1:10: error: value_invalid: on_time cannot be written this way in YAML. Fix: write one whole number with ms, s, m or h, such as 90m."),
    ("a large size", "size: 2MiB\n", 'f:1:7: error: value_invalid: size: "2MiB" is above 1MiB. Fix: use 1KiB to 1MiB.'),
    ("a text in a list of integers", "uids: [0, 'a']\n", 'f:1:11: error: value_invalid: uids[1]: "a" is not a user id. Fix: write decimal UIDs from 0 to 4294967294, such as 1000,65532.'),
]  # fmt: skip


@pytest.mark.parametrize(("content", "line"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_it_is_refused_with_its_place_a_code_and_the_fix(content: str | bytes, line: str) -> None:
    began = monotonic()
    assert problems(content)[0] == line
    assert monotonic() - began < 30, "bounded, whatever the file"


def test_crlf_and_comments_are_plain_yaml() -> None:
    assert problems("# comment\r\ntext: a\r\nsize: 1KiB # more\r\n") == []


def test_every_error_is_reported_in_the_order_of_the_file() -> None:
    assert [line.split(" ")[0] for line in problems("count: x\ntxt: a\nrules: [{effect: no}]\nmode: 8\n")] == [
        "f:1:8:",
        "f:2:1:",
        "f:3:9:",
        "f:3:18:",
        "f:4:7:",
    ]


def test_of_too_many_errors_the_first_are_shown() -> None:
    found = problems("".join(f"unknown{number}: a\n" for number in range(5000)))
    assert len(found) == MOST_DIAGNOSTICS + 1
    assert found[-1].startswith(f"f:{MOST_DIAGNOSTICS + 1}:1: error: too_many_errors: ")


def test_a_name_of_a_file_cannot_forge_a_line() -> None:
    _value, found = read_yaml(b"txt: a\n", "x\nrobin: all is well", SCHEMA)
    assert str(found[0]).startswith("'x\\nrobin: all is well':1:1: error: unknown_key: ")


def test_a_diagnostic_has_its_parts_as_json() -> None:
    (one,) = read_yaml(b"count: 5x\n", "f", SCHEMA)[1]
    assert json.loads(json.dumps(one.json())) == {
        "file": "f",
        "line": 1,
        "col": 8,
        "severity": "error",
        "code": "value_invalid",
        "message": 'count: "5x" is not a whole number',
        "fix": "write decimal digits only",
    }


def test_no_message_quotes_what_may_be_a_secret() -> None:
    secret = "eyJhbGciOiJFUzI1NiJ9.hunter2"
    for text in (
        f"text: {{a: {secret}}}",
        f"enabled: {secret}",
        f"{secret}: a",
        f"count: {secret}",
        f"mode: ['{secret}'",
        f"text: ${{{secret}}}",
    ):
        found = problems(text)
        assert found, text
        assert "hunter2" not in "".join(found), text


@given(st.one_of(st.binary(max_size=300), st.text(alphabet="ab:-,{}[]#&*!|>'\"%@`?~ \n\t0.", max_size=120).map(str.encode)))
def test_any_bytes_are_a_value_or_printable_diagnostics(content: bytes) -> None:
    value, found = read_yaml(content, "f", SCHEMA)
    assert value is not None or found
    assert all(isinstance(one, Diagnostic) and str(one).isprintable() for one in found)


@pytest.mark.parametrize(
    ("content", "place"),
    [('size: 1KiB\ntext: "\\UFFFFFFFF"\n', "2:10"), ('text: "\\U00110000"\n', "1:10"), (f"%YAML 1.{'1' * 5000}\n---\ntext: a\n", "1:9")],
    ids=["an escape beyond C's integers", "an escape beyond Unicode", "a version of 5000 digits"],
)
def test_a_number_that_the_yaml_library_fails_on_is_an_error_of_the_file(content: str, place: str) -> None:
    assert problems(content) == [f"f:{place}: error: yaml_invalid: not valid YAML: a number is too large. Fix: correct the line."]


def test_a_list_is_no_longer_than_the_json_schema_allows() -> None:
    assert problems(f"uids: [{','.join(['1'] * LONGEST_LIST)}]\n") == []
    assert problems(f"uids: [{','.join(['1'] * (LONGEST_LIST + 1))}]\n") == [
        f"f:1:7: error: value_invalid: uids has {LONGEST_LIST + 1} entries. Fix: use at most {LONGEST_LIST}."
    ]
