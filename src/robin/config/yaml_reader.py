"""The one strict reader of YAML: bytes and a schema in, located values and diagnostics out.

YAML is read as the plain tree that it looks like. Anchors, aliases, tags, merge keys, directives, a second document, duplicate keys and
`${NAME}` are refused, and so is a scalar that YAML 1.1 and 1.2 read differently where its type matters. Nothing is ever constructed from a
tag, and nothing is expanded, so that the tree is never larger than the file. Size, depth and number of nodes are limited.

Importing this module imports PyYAML: do it only when there is a YAML file.
"""

import re
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any, Final

import yaml

from robin.config.diagnostic import MOST_DIAGNOSTICS, Diagnostic, Position, bounded
from robin.config.parse import CONTROLS, Form, InvalidValue, nearest, shown
from robin.config.schema import Entries, Field, Mapping, Scalar, Schema, Sequence

LIMIT_BYTES: Final = 1 << 20
MOST_NODES: Final = 20_000
DEEPEST: Final = 32

# What a file may not hold: control characters but tab and line ends, a byte order mark, and the line ends that only YAML 1.1 knows.
_NOT_IN_FILES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]|\r(?!\n)")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER_OF_12 = re.compile(r"0o[0-7]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOLEAN_OF_11 = re.compile("y|n", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_READ_AS = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a number with a fraction",
    "timestamp": "a date",
    "merge": "a merge key",
    "value": "a default key",
    "null": "null",
    "str": "a string",
}
_KINDS_OF_NODE = {"scalar": "a single value", "sequence": "a list", "mapping": "a mapping"}
_REMOVE_PLAIN = "write the value itself at each place"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A value that the schema allows, and where it stands; `at` None: it is the default.

    `value` is what the kind's parser returned, a tuple of Located (Sequence) or a dict of them (Entries, Mapping). `text` is a scalar as
    the kind's parser takes it.
    """

    value: Any
    at: Position | None
    text: str = ""

    def plain(self) -> Any:
        """The value without positions."""
        if isinstance(self.value, dict):
            return {name: inner.plain() for name, inner in self.value.items()}
        if isinstance(self.value, tuple) and all(isinstance(inner, Located) for inner in self.value):
            return tuple(inner.plain() for inner in self.value)
        return self.value


@dataclass(slots=True, kw_only=True)
class _Node:
    """`pairs` for a mapping, `items` for a sequence, `text` for a scalar; `tag` is how YAML 1.1 reads a scalar."""

    kind: str
    at: Position
    text: str = ""
    tag: str = ""
    items: list["_Node"]
    pairs: dict[str, tuple["_Node", "_Node"]]
    key: "_Node | None" = None  # while it is built: the key whose value comes next


class _Stop(Exception):
    """The rest of the file cannot be read."""


def read_yaml(content: bytes, name: str, schema: Schema) -> tuple[Located | None, tuple[Diagnostic, ...]]:
    """The value of the document, and what is wrong with it. With an error among the diagnostics the value is not to be used."""
    reading = _Reading(name)
    try:
        root = _Tree(reading, reading.decode(content)).build()
    except _Stop:
        return None, bounded(reading.found)
    value = None if root is None else reading.check(root, schema, "the file")
    return value, bounded(reading.found)


class _Reading:
    """One file: its name and the findings so far, and how a node is checked against its schema."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.found: list[Diagnostic] = []

    def at(self, line: int, col: int) -> Position:
        return Position(file=self._name, line=line, col=col)

    def report(self, at: Position, code: str, message: str, fix: str) -> None:
        self.found.append(Diagnostic(at=at, code=code, message=message, fix=fix))

    def stop(self, at: Position, message: str, fix: str) -> _Stop:
        self.report(at, "yaml_invalid", message, fix)
        return _Stop()

    def decode(self, content: bytes) -> str:
        """The text of the file. Raises _Stop."""
        start = self.at(1, 1)
        if len(content) > LIMIT_BYTES:
            raise self.stop(start, "the file is larger than 1 MiB", "split it, or remove what does not belong in it")
        if content.startswith(b"\xef\xbb\xbf"):
            raise self.stop(start, "the file starts with a byte order mark", "save it as UTF-8 without one")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8")
            raise self.stop(self._after(before), "the file is not UTF-8", "save it as UTF-8") from None
        if (odd := _NOT_IN_FILES.search(text)) is not None:
            fix = "remove it; lines end in LF or CRLF"
            raise self.stop(self._after(text[: odd.start()]), f"U+{ord(odd[0][0]):04X} is a control character", fix)
        return text

    def _after(self, text: str) -> Position:
        return self.at(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)

    # a node against its schema; None: it was refused, and reported

    def check(self, node: _Node, schema: Schema, what: str) -> Located | None:
        match schema:
            case Scalar() if node.kind == "scalar" and node.tag == "null" and schema.nullable:
                return Located(value=None, at=node.at)
            case Mapping() if node.kind == "scalar" and node.tag == "null" and schema.nullable:
                return Located(value=None, at=node.at)
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

    def _is(self, node: _Node, kind: str, what: str) -> bool:
        if node.kind == kind:
            return True
        found = "null" if node.kind == "scalar" and node.tag == "null" else _KINDS_OF_NODE[node.kind]
        fix = {"sequence": "write a list such as [a, b], or [] for none", "mapping": "write `key: value` lines below it"}
        self.report(node.at, "value_invalid", f"{what} is {found}, not {_KINDS_OF_NODE[kind]}", fix.get(kind, "write one value"))
        return False

    def _check_sequence(self, node: _Node, schema: Sequence, what: str) -> Located | None:
        if not self._fits(node, len(node.items), schema.longest, what):
            return None
        values = [self.check(item, schema.item, f"{what}[{index}]") for index, item in enumerate(node.items)]
        return Located(value=tuple(value for value in values if value is not None), at=node.at)

    def _check_entries(self, node: _Node, schema: Entries, what: str) -> Located | None:
        if not self._fits(node, len(node.pairs), schema.longest, what):
            return None
        values: dict[str, Located] = {}
        for name, (key, value) in node.pairs.items():
            if re.fullmatch(schema.name, name) is None:
                fix = f"use a name that matches {schema.name}"
                self.report(key.at, "value_invalid", f"{shown(name)} is not a valid name in {what}", fix)
            elif (checked := self.check(value, schema.value, f"{what}.{name}")) is not None:
                values[name] = checked
        return Located(value=values, at=node.at)

    def _fits(self, node: _Node, count: int, longest: int, what: str) -> bool:
        if count > longest:
            self.report(node.at, "value_invalid", f"{what} has {count} entries", f"use at most {longest}")
        return count <= longest

    def _check_mapping(self, node: _Node, schema: Mapping, what: str) -> Located:
        fields = {field.name: field for field in schema.fields}
        for name, (key, _value) in node.pairs.items():
            if name not in fields:
                self._unknown_key(key, name, fields, what)
        values: dict[str, Located] = {}
        for name, field in fields.items():
            inner = name if what == "the file" else f"{what}.{name}"
            if name in node.pairs:
                value = self.check(node.pairs[name][1], field.schema, inner)
            elif field.required:
                value = None
                self.report(node.at, "key_missing", f"{inner} is required", f"add `{name}:`" + (f" ({field.help})" if field.help else ""))
            else:
                value = default_of(field.schema)
            if value is not None:
                values[name] = value
        return Located(value=values, at=node.at)

    def _unknown_key(self, key: _Node, name: str, fields: Dict[str, Field], what: str) -> None:
        meant = nearest(name, fields) if len(self.found) < MOST_DIAGNOSTICS else None  # looking for it costs time
        if meant is not None:
            fix = f"write {meant} (the nearest), or remove it"
        elif len(fields) <= 8:
            fix = f"remove it, or use {', '.join(fields)}"
        else:
            fix = "remove it, or find its name in the reference"
        self.report(key.at, "unknown_key", f"{shown(name)} is not a key of {what}", fix)

    def _check_listed(self, node: _Node, schema: Scalar, what: str) -> Located | None:
        """A list whose kind parses it as text between commas; each item is checked alone, so that its position is known."""
        texts = []
        for index, item in enumerate(node.items):
            inner = f"{what}[{index}]"
            checked = self._check_scalar(item, schema, inner) if self._is(item, "scalar", inner) else None
            if checked is None:
                continue
            if checked.value == ():
                message = f"{inner}: {shown(item.text)} stands for an empty list"
                self.report(item.at, "value_invalid", message, "write [] instead of the list")
            texts.append(item.text)
        if len(texts) < len(node.items):
            return None
        return self._parse(node, schema, ",".join(texts) or "none", what)

    def _check_scalar(self, node: _Node, schema: Scalar, what: str) -> Located | None:
        form = schema.kind.form
        if node.tag == "str" and not node.text:
            self.report(node.at, "value_invalid", f"{what} is empty", "write a value, or remove the key")
            return None
        if CONTROLS.search(node.text) is not None:
            self.report(node.at, "value_invalid", f"{what} holds a control character", "write it as plain text on one line")
            return None
        if (wrong := _wrong_type(node, form)) is not None:
            try:
                schema.kind.parse(node.text)  # its message is about the value, which helps more than one about types
            except InvalidValue as error:
                wrong = wrong if node.tag == "null" else (error.what, error.fix)
            self.report(node.at, "value_invalid", f"{what}: {wrong[0]}", wrong[1])
            return None
        return self._parse(node, schema, node.text, what, pattern="" if node.tag != "str" or form.choices else form.pattern)

    def _parse(self, node: _Node, schema: Scalar, text: str, what: str, pattern: str = "") -> Located | None:
        try:
            value = schema.kind.parse(text)
        except InvalidValue as error:
            self.report(node.at, "value_invalid", f"{what}: {error.what}", error.fix)
            return None
        if pattern and re.search(pattern, text) is None:
            self.report(node.at, "value_invalid", f"{what} cannot be written this way in YAML", schema.kind.form.hint)
            return None
        return Located(value=value, at=node.at, text=text)


def _wrong_type(node: _Node, form: Form) -> tuple[str, str] | None:
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
        return f"YAML reads {shown(node.text)} as {_READ_AS[node.tag]}", "put it in quotes"
    expected = "true or false, in lower case" if "boolean" in form.types else "a whole number in decimal digits"
    return f"YAML reads {shown(node.text)} as {_READ_AS[node.tag]}", f"write {expected}"


def default_of(schema: Schema) -> Located | None:
    """The value of a key that is left out; None: it has none."""
    match schema:
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


class _Tree:
    """Builds the tree of a text from the parser's events, without recursion; reports what is not plain YAML."""

    def __init__(self, reading: _Reading, text: str) -> None:
        self._reading = reading
        self._text = text
        self._resolver = yaml.resolver.Resolver()
        self._open: list[_Node] = []
        self._root: _Node | None = None
        self._nodes = 0

    def build(self) -> _Node | None:
        """The root, None for an empty file. Raises _Stop."""
        start = self._reading.at(1, 1)
        try:
            for event in yaml.parse(self._text, Loader=yaml.SafeLoader):
                self._take(event)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = self._reading.at(mark.line + 1, mark.column + 1) if mark is not None else start
            raise self._reading.stop(at, f"not valid YAML: {ascii(error.problem)[1:-1][:200]}", _syntax_fix(error)) from None
        if self._root is None:
            self._reading.report(start, "yaml_invalid", "the file is empty", "start with `version: 1`")
        return self._root

    def _take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None  # of the events of a parser
        at = self._reading.at(mark.line + 1, mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event, at)
            case yaml.AliasEvent():
                self._reading.report(at, "yaml_invalid", "aliases (*name) are refused", _REMOVE_PLAIN)
                self._add(_Node(kind="scalar", at=at, tag="str", items=[], pairs={}))
            case yaml.ScalarEvent():
                self._check_node(event, at)
                self._add(self._scalar(event, at))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._check_node(event, at)
                node = _Node(kind="sequence" if isinstance(event, yaml.SequenceStartEvent) else "mapping", at=at, items=[], pairs={})
                self._add(node)
                self._open.append(node)
                if len(self._open) > DEEPEST:
                    raise self._reading.stop(at, f"the file is nested deeper than {DEEPEST} levels", "flatten it")
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._open.pop()

    def _start_document(self, event: yaml.DocumentStartEvent, at: Position) -> None:
        if event.version or event.tags:
            self._reading.report(at, "yaml_invalid", "directives (%YAML, %TAG) are refused", "remove the line")
        if self._root is not None:
            raise self._reading.stop(at, "the file holds more than one document", "keep one, without a second ---")

    def _check_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, at: Position) -> None:
        if event.anchor is not None:
            self._reading.report(at, "yaml_invalid", "anchors (&name) are refused", _REMOVE_PLAIN)
        if event.tag is not None:
            self._reading.report(at, "yaml_invalid", "tags (!name) are refused", "remove the tag; a string is put in quotes")

    def _scalar(self, event: yaml.ScalarEvent, at: Position) -> _Node:
        tag = "str"
        if event.style is None:
            tag = str(self._resolver.resolve(yaml.ScalarNode, event.value, (True, False))).removeprefix(_TAG)  # type: ignore[no-untyped-call]
            if tag == "str" and _NUMBER_OF_12.fullmatch(event.value):
                tag = "int" if event.value.startswith("0o") else "float"
            elif tag == "str" and _BOOLEAN_OF_11.fullmatch(event.value):
                tag = "bool"
        if "${" in event.value:
            fix = "write the value itself, or name a file that holds it"
            self._reading.report(at, "env_expansion", "${NAME} is not expanded", fix)
        return _Node(kind="scalar", at=at, text=event.value, tag=tag, items=[], pairs={})

    def _add(self, node: _Node) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._reading.stop(node.at, f"the file holds more than {MOST_NODES} values", "split it")
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        if parent.kind == "sequence":
            parent.items.append(node)
        elif parent.key is None:
            self._check_key(parent, node)
            parent.key = node
        else:
            parent.pairs.setdefault(parent.key.text, (parent.key, node))
            parent.key = None

    def _check_key(self, parent: _Node, key: _Node) -> None:
        if key.kind != "scalar":
            raise self._reading.stop(key.at, f"a key is {_KINDS_OF_NODE[key.kind]}", "write a plain word as the key")
        if key.tag == "merge":
            self._reading.report(key.at, "yaml_invalid", "merge keys (<<) are refused", "write the keys themselves")
        elif key.tag != "str":
            self._reading.report(key.at, "yaml_invalid", f"YAML reads the key {shown(key.text)} as {_READ_AS[key.tag]}", "put it in quotes")
        if key.text in parent.pairs:
            line = parent.pairs[key.text][0].at.line
            self._reading.report(key.at, "yaml_invalid", f"{shown(key.text)} is set again, first on line {line}", "keep one of them")


def _syntax_fix(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "'\\t'" in error.problem:
        return "indent with spaces; YAML forbids tabs there"
    return "correct the line; text with special characters is put in quotes"
