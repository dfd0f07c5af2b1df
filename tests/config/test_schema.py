"""JSON Schema and the reader come from one declaration: what the schema refuses, the reader refuses too."""

import json

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.config.test_robin_yaml import EVERY_SETTING
from tests.config.test_yaml_reader import SCHEMA as ALL_KINDS

from robin.config.schema import DIALECT, Schema, document_schema
from robin.config.sidecar import SCHEMA as SIDECAR
from robin.config.table import BY_PATH
from robin.config.yaml_reader import read_yaml


def validator(schema: Schema) -> jsonschema.Draft202012Validator:
    rendered = json.loads(json.dumps(document_schema(schema, "a test")))
    jsonschema.Draft202012Validator.check_schema(rendered)
    return jsonschema.Draft202012Validator(rendered)


FOR_SIDECAR, FOR_ALL_KINDS = validator(SIDECAR), validator(ALL_KINDS)


def accepted(text: str, schema: Schema, judge: jsonschema.Draft202012Validator) -> tuple[bool, bool]:
    """By the reader, by the schema."""
    _value, found = read_yaml(text.encode(), "f", schema)
    return not found, bool(judge.is_valid(yaml.safe_load(text)))


BOTH, READER_KNOWS_MORE, NEITHER = (True, True), (False, True), (False, False)

TABLE = [
    ("{}", BOTH),
    ("limits: {head: 64KiB, fields: 10}", BOTH),
    ("limits: {head: 65536}", BOTH),
    ("limits: {fields: 9}", NEITHER),
    ("limits: {fields: 1001}", NEITHER),
    ("limits: {fields: '10'}", NEITHER),
    ("limits: {fields: 10.5}", NEITHER),
    ("limits: {head: 4095}", NEITHER),
    ("limits: {head: 64kB}", NEITHER),
    ("limits: {head: 2MiB}", READER_KNOWS_MORE),  # JSON Schema has no bounds for text
    ("limits: {body: 1}", NEITHER),
    ("timeouts: {upstream_idle: auto}", BOTH),
    ("timeouts: {upstream_idle: 1s}", BOTH),
    ("timeouts: {head: auto}", NEITHER),
    ("timeouts: {head: 10}", NEITHER),
    ("timeouts: {head: 1h30m}", NEITHER),
    ("timeouts: {head: 0s}", READER_KNOWS_MORE),
    ("identity: {source: file}", BOTH),
    ("identity: {source: vault}", NEITHER),
    ("identity: {token_file: token}", NEITHER),
    ("identity: {audience: ''}", NEITHER),
    ("identity: {audience: null}", NEITHER),
    ("identity: {spiffe_id: nonsense}", READER_KNOWS_MORE),
    ("listeners: {proxy: ['127.0.0.1:4000']}", BOTH),
    ("listeners: {proxy: '127.0.0.1:4000'}", NEITHER),
    ("listeners: {proxy: ['127.0.0.1:1,127.0.0.1:2']}", NEITHER),
    ("listeners: {proxy: []}", READER_KNOWS_MORE),
    ("listeners: {admin: []}", BOTH),
    ("listeners: {admin: ['off']}", READER_KNOWS_MORE),
    ("listeners: {allow_uids: [0, 4294967294]}", BOTH),
    ("listeners: {allow_uids: [4294967295]}", NEITHER),
    ("listeners: {allow_uids: ['0']}", NEITHER),
    ("listeners: {unix_mode: '0660'}", BOTH),
    ("listeners: {unix_mode: 660}", NEITHER),
    ("listeners: {unix_mode: 0660}", NEITHER),
    ("guards: {allowed_hosts: [none]}", READER_KNOWS_MORE),
    ("guards: {upgrade_protocols: [no]}", NEITHER),
    ("unsafe: {any_host: true}", BOTH),
    ("unsafe: {any_host: 'true'}", NEITHER),
    ("unsafe: {any_host: yes}", READER_KNOWS_MORE),  # what is no boolean to a reader of YAML 1.2
    ("unsafe: {any_host: 1}", NEITHER),
    ("lifecycle: {workers: 2}", NEITHER),
    ("lifecycle: 1s", NEITHER),
    ("[]", NEITHER),
]


@pytest.mark.parametrize(("text", "expected"), TABLE, ids=[text for text, _ in TABLE])
def test_reader_and_schema_agree_or_the_reader_knows_more(text: str, expected: tuple[bool, bool]) -> None:
    assert accepted(text, SIDECAR, FOR_SIDECAR) == expected


def test_the_schema_takes_a_file_with_every_setting() -> None:
    assert FOR_SIDECAR.is_valid(yaml.safe_load(EVERY_SETTING)["sidecar"])


def test_the_schema_names_every_key_with_its_help_and_a_default_that_fits() -> None:
    rendered = document_schema(SIDECAR, "the section `sidecar` of robin.yaml")
    assert (rendered["$schema"], rendered["title"]) == (DIALECT, "the section `sidecar` of robin.yaml")
    keys = {f"{group}.{key}": rule for group, part in rendered["properties"].items() for key, rule in part["properties"].items()}
    assert keys.keys() == BY_PATH.keys()
    for path, rule in keys.items():
        assert rule["description"] == BY_PATH[path].help
        assert ("default" in rule) is (BY_PATH[path].default is not None)
        if "default" in rule:
            jsonschema.Draft202012Validator(rule).validate(rule["default"])


TEXTS = "5s 0s 1h30m auto 1KiB allow deny 0660 /a a none off".split()
NAMES = st.sampled_from("name effect paths cert_file a b c B".split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70_000),
    st.sampled_from("5s 0s 1h30m auto 1KiB allow deny 0660 /a a none off".split()),
    st.text("ab,:1 ", max_size=6),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=3)),
)
KEYS = st.sampled_from("text on_time size count enabled mode uids parent tls callers rules other".split())


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_the_schema_refuses_the_reader_refuses(document: dict[str, object]) -> None:
    text = yaml.safe_dump(document)
    by_reader, by_schema = accepted(text, ALL_KINDS, FOR_ALL_KINDS)
    assert by_schema or not by_reader, text


def test_entries_and_nullable_parts_have_their_rules() -> None:
    for text, expected in [
        ("callers: {a: [x], b: []}", BOTH),
        ("callers: {Team_A: []}", NEITHER),
        ("callers: {a: [], b: [], c: []}", NEITHER),
        ("{parent: null, tls: null}", BOTH),
        ("rules: null", NEITHER),
        ("rules: [{effect: deny}]", NEITHER),
    ]:
        assert accepted(text, ALL_KINDS, FOR_ALL_KINDS) == expected, text
