"""The one strict reader of YAML: bytes and a schema in, located values and diagnostics out. Every error of a file comes in one run.

A scalar that YAML 1.1 and 1.2 read differently is refused where its type matters. Importing this module imports PyYAML: do it only when
there is a YAML file.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

from robin.config.diagnostic import MOST_DIAGNOSTICS, Diagnostic, Position, bounded
from robin.config.parse import CONTROLS, Form, InvalidValue, nearest, shown
from robin.config.schema import LONGEST_LIST, Anything, Entries, Mapping, Scalar, Schema, Sequence
from robin.config.yaml_tree import KINDS, MOST_NODES, READ_AS, Findings, Node, Unreadable, parse_tree

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_MOST_LISTED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A value that the schema allows, and where it stands; `at` None: it is the default.

    `value` is what the kind's parser returned, None of Anything, a tuple of Located (Sequence) or a dict of them (Entries, Mapping).
    `text` is a scalar as the kind's parser takes it. `key_at` is where its key stands, in a Mapping.
    """

    value: Any
    at: Position | None
    text: str = ""
    key_at: Position | None = None

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {name: inner.plain() for name, inner in self.value.items()}
        if isinstance(self.value, tuple) and all(isinstance(inner, Located) for inner in self.value):
            return tuple(inner.plain() for inner in self.value)
        return self.value


def read_yaml(content: bytes, name: str, schema: Schema, *, most_nodes: int = MOST_NODES) -> tuple[Located | None, tuple[Diagnostic, ...]]:
    """The value of the document, and what is wrong with it. With an error among the diagnostics the value is not to be used."""
    findings = Findings(name)
    try:
        root = parse_tree(content, findings, most_nodes=most_nodes)
    except Unreadable:
        return None, bounded(findings.diagnostics)
    value = None if root is None else _Checker(findings).check(root, schema, "the file")
    return value, bounded(findings.diagnostics)


class _Checker:
    """Checks nodes against their schemas. A node that is refused gives None, and its error stands in the findings."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def check(self, node: Node, schema: Schema, what: str) -> Located | None:
        match schema:
            case Scalar() if node.kind == "scalar" and node.tag == "null" and schema.nullable:
                return Located(value=None, at=node.at)
            case Mapping() if node.kind == "scalar" and node.tag == "null" and schema.nullable:
                return Located(value=None, at=node.at)
            case Anything():
                return Located(value=None, at=node.at, text=node.text)
            case Scalar() if schema.kind.form.listed:
                return self._check_listed(node, schema, what) if self._is(node, "sequence", what) else None
            case Scalar():
                return self._check_scalar(node, schema, what) if self._is(node, "scalar", what) else None
            case Sequence():
                return self._check_sequence(node, schema, what) if self._is(node, "sequence", what) else None
            case Entries():
                return self._check_entries(node, schema, what) if self._is(node, "mapping", what) else None
            case Mapping():
                return self._check_mapping(node, schema, what) if self._is(node, "mapping", what) else None

    def _is(self, node: Node, kind: str, what: str) -> bool:
        if node.kind == kind:
            return True
        found = "null" if node.kind == "scalar" and node.tag == "null" else KINDS[node.kind]
        fix = {"sequence": "write a list such as [a, b], or [] for none", "mapping": "write `key: value` lines below it"}
        self._findings.add(node.at, "value_invalid", f"{what} is {found}, not {KINDS[kind]}", fix.get(kind, "write one value"))
        return False

    def _check_sequence(self, node: Node, schema: Sequence, what: str) -> Located | None:
        if not self._fits(node, len(node.items), schema.longest, what):
            return None
        values = [self.check(item, schema.item, f"{what}[{index}]") for index, item in enumerate(node.items)]
        return Located(value=tuple(value for value in values if value is not None), at=node.at)

    def _check_entries(self, node: Node, schema: Entries, what: str) -> Located | None:
        if not self._fits(node, len(node.pairs), schema.longest, what):
            return None
        values: dict[str, Located] = {}
        for name, (key, value) in node.pairs.items():
            if re.fullmatch(schema.name, name) is None:
                fix = f"use a name that matches {schema.name}"
                self._findings.add(key.at, "value_invalid", f"{shown(name)} is not a valid name in {what}", fix)
            elif (checked := self.check(value, schema.value, f"{what}.{name}")) is not None:
                values[name] = checked
        return Located(value=values, at=node.at)

    def _fits(self, node: Node, count: int, longest: int, what: str) -> bool:
        if count > longest:
            self._findings.add(node.at, "value_invalid", f"{what} has {count} entries", f"use at most {longest}")
        return count <= longest

    def _check_mapping(self, node: Node, schema: Mapping, what: str) -> Located:
        fields = {field.name: field for field in schema.fields}
        for name, (key, _value) in node.pairs.items():
            if name not in fields:
                self._unknown_key(key, name, schema, what)
        values: dict[str, Located] = {}
        for name, field in fields.items():
            inner = name if what == "the file" else f"{what}.{name}"
            if name in node.pairs:
                key, content = node.pairs[name]
                value = self.check(content, field.schema, inner)
                value = None if value is None else replace(value, key_at=key.at)
            elif field.required:
                value = None
                self._findings.add(
                    node.at, "key_missing", f"{inner} is required", f"add `{name}:`" + (f" ({field.help})" if field.help else "")
                )
            else:
                value = default_of(field.schema)
            if value is not None:
                values[name] = value
        return Located(value=values, at=node.at)

    def _unknown_key(self, key: Node, name: str, schema: Mapping, what: str) -> None:
        fields = [field.name for field in schema.fields]
        meant = nearest(name, fields) if len(self._findings.diagnostics) < MOST_DIAGNOSTICS else None  # looking for it costs time
        place = schema.elsewhere.get(name.lower().removeprefix("robin_"))
        if meant is not None:
            fix = f"write {meant} (the nearest), or remove it"
        elif place is not None:
            fix = f"its place is {place}; the keys of {what} are {', '.join(fields)}"
        elif len(fields) <= _MOST_LISTED:
            fix = f"remove it, or use {', '.join(fields)}"
        else:
            fix = "remove it, or find its name in the reference"
        self._findings.add(key.at, "unknown_key", f"{shown(name)} is not a key of {what}", fix)

    def _check_listed(self, node: Node, schema: Scalar, what: str) -> Located | None:
        """A list whose kind parses it as text between commas; each item is checked alone, so that its position is known."""
        if not self._fits(node, len(node.items), LONGEST_LIST, what):
            return None
        texts = []
        for index, item in enumerate(node.items):
            inner = f"{what}[{index}]"
            checked = self._check_scalar(item, schema, inner) if self._is(item, "scalar", inner) else None
            if checked is None:
                continue
            if checked.value == ():
                message = f"{inner}: {shown(item.text)} stands for an empty list"
                self._findings.add(item.at, "value_invalid", message, "write [] instead of the list")
            texts.append(item.text)
        if len(texts) < len(node.items):
            return None
        return self._parse(node, schema, ",".join(texts) or "none", what)

    def _check_scalar(self, node: Node, schema: Scalar, what: str) -> Located | None:
        form = schema.kind.form
        if node.tag == "str" and not node.text and not form.may_be_empty and not schema.free:
            self._findings.add(node.at, "value_invalid", f"{what} is empty", "write a value, or remove the key")
            return None
        if not schema.free and CONTROLS.search(node.text) is not None:
            self._findings.add(node.at, "value_invalid", f"{what} holds a control character", "write it as plain text on one line")
            return None
        if (wrong := _wrong_type(node, form)) is not None:
            try:
                schema.kind.parse(node.text)  # its message is about the value, which helps more than one about types
            except InvalidValue as error:
                wrong = wrong if node.tag == "null" else (error.what, error.fix)
            self._findings.add(node.at, "value_invalid", f"{what}: {wrong[0]}", wrong[1])
            return None
        return self._parse(node, schema, node.text, what, pattern="" if node.tag != "str" or form.choices else form.pattern)

    def _parse(self, node: Node, schema: Scalar, text: str, what: str, pattern: str = "") -> Located | None:
        try:
            value = schema.kind.parse(text)
        except InvalidValue as error:
            self._findings.add(node.at, "value_invalid", f"{what}: {error.what}", error.fix)
            return None
        if pattern and re.search(pattern, text) is None:
            self._findings.add(node.at, "value_invalid", f"{what} cannot be written this way in YAML", schema.kind.form.fix(text))
            return None
        return Located(value=value, at=node.at, text=text)


def _wrong_type(node: Node, form: Form) -> tuple[str, str] | None:
    """What is wrong with the YAML type of a scalar, and the fix; None: nothing."""
    if node.tag == "null":
        return "it has no value", "write a value, or remove the key"
    if node.tag == "str":
        if "string" in form.types:
            return None
        return f"it is a string, not {'a boolean' if 'boolean' in form.types else 'an integer'}", "remove the quotes"
    if node.tag == "bool" and "boolean" in form.types and node.text in ("true", "false"):
        return None
    if node.tag == "int" and "integer" in form.types and _INTEGER.fullmatch(node.text):
        return None
    if "string" in form.types:
        fits = bool(form.choices) or re.search(form.pattern, node.text) is not None
        return f"YAML reads {shown(node.text)} as {READ_AS[node.tag]}", "put it in quotes" if fits else form.fix(node.text)
    expected = "true or false, in lower case" if "boolean" in form.types else "a whole number in decimal digits"
    return f"YAML reads {shown(node.text)} as {READ_AS[node.tag]}", f"write {expected}"


def default_of(schema: Schema) -> Located | None:
    """The value of a key that is left out; None: it has none."""
    match schema:
        case Anything():
            return None
        case Scalar(default=str(text)):
            return Located(value=schema.kind.parse(text), at=None, text=text)
        case Scalar():
            return None
        case Sequence():
            return Located(value=(), at=None)
        case Entries():
            return Located(value={}, at=None)
        case Mapping(nullable=True):
            return Located(value=None, at=None)
        case Mapping():
            if any(field.required for field in schema.fields):
                return None
            values = {field.name: default_of(field.schema) for field in schema.fields}
            return Located(value={name: value for name, value in values.items() if value is not None}, at=None)
