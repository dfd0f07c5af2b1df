"""Bytes -> the plain tree of a YAML file, or diagnostics: what is not plain YAML is refused here, whatever the schema.

Anchors, aliases, tags, merge keys, directives, a second document, duplicate keys and `${NAME}` are refused. Nothing is constructed from a
tag and nothing is expanded, so that the tree is never larger than the file. Size, depth and number of values are limited.

Importing this module imports PyYAML: do it only when there is a YAML file.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

import yaml

from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import shown

LIMIT_BYTES: Final = 1 << 20
MOST_NODES: Final = 20_000
MOST_NODES_OF_RULES: Final = 120_000  # of a gateway's robin.yaml, whose rules programs write
DEEPEST: Final = 32

# What a file may not hold: control characters but tab and line ends, a byte order mark, and the line ends that only YAML 1.1 knows.
_NOT_IN_FILES = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]|\r(?!\n)")
_NUMBER_OF_12 = re.compile(r"0o[0-7]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOLEAN_OF_11 = re.compile("y|n", re.IGNORECASE)
_TAG = "tag:yaml.org,2002:"
_WRITE_PLAIN = "write the value itself at each place"

READ_AS: Final = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a number with a fraction",
    "timestamp": "a date",
    "merge": "a merge key",
    "value": "a default key",
    "null": "null",
    "str": "a string",
}
KINDS: Final = {"scalar": "a single value", "sequence": "a list", "mapping": "a mapping"}

NodeKind = Literal["scalar", "sequence", "mapping"]
_PLAIN_NUMBER = re.compile("0|[1-9][0-9]{0,3}")  # as a key it is the same text for every reader


@dataclass(slots=True, kw_only=True)
class Node:
    """`pairs` for a mapping, `items` for a sequence, `text` for a scalar.

    `tag` is a key of READ_AS: the type that a reader of YAML 1.1 or of 1.2 gives a scalar, where one of them does not take it for a string.
    """

    kind: NodeKind
    at: Position
    text: str = ""
    tag: str = ""
    items: list["Node"]
    pairs: dict[str, tuple["Node", "Node"]]
    key: "Node | None" = None  # while it is built: the key whose value comes next


class Unreadable(Exception):
    """The rest of the file cannot be read; the reason is among the diagnostics."""


class Findings:
    """What is wrong with one file, in the order in which it was found."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.diagnostics: list[Diagnostic] = []

    def at(self, line: int, col: int) -> Position:
        """A place in the file."""
        return Position(file=self._name, line=line, col=col)

    def add(self, at: Position, code: str, message: str, fix: str) -> None:
        """Note one error."""
        self.diagnostics.append(Diagnostic(at=at, code=code, message=message, fix=fix))

    def stop(self, at: Position, message: str, fix: str) -> Unreadable:
        """Note the error that ends the reading; raise the result."""
        self.add(at, "yaml_invalid", message, fix)
        return Unreadable()


def parse_tree(content: bytes, findings: Findings, *, most_nodes: int = MOST_NODES) -> Node | None:
    """The root of the document; None for an empty file. Raises Unreadable."""
    return _TreeBuilder(findings, most_nodes).build(_decode(content, findings))


def _decode(content: bytes, findings: Findings) -> str:
    start = findings.at(1, 1)
    if len(content) > LIMIT_BYTES:
        raise findings.stop(start, "the file is larger than 1 MiB", "split it, or remove what does not belong in it")
    if content.startswith(b"\xef\xbb\xbf"):
        raise findings.stop(start, "the file starts with a byte order mark", "save it as UTF-8 without one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise findings.stop(_after(findings, before), "the file is not UTF-8", "save it as UTF-8") from None
    if (odd := _NOT_IN_FILES.search(text)) is not None:
        fix = "remove it; lines end in LF or CRLF"
        raise findings.stop(_after(findings, text[: odd.start()]), f"U+{ord(odd[0][0]):04X} is a control character", fix)
    return text


def _after(findings: Findings, text: str) -> Position:
    return findings.at(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


class _TreeBuilder:
    """Builds the tree of a text from the parser's events, without recursion; reports what is not plain YAML."""

    def __init__(self, findings: Findings, most_nodes: int) -> None:
        self._findings = findings
        self._most_nodes = most_nodes
        self._resolver = yaml.resolver.Resolver()
        self._open: list[Node] = []
        self._root: Node | None = None
        self._nodes = 0

    def build(self, text: str) -> Node | None:
        start = self._findings.at(1, 1)
        loader = yaml.SafeLoader(text)
        try:
            while loader.check_event():
                self._take(loader.get_event())  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            at = self._findings.at(mark.line + 1, mark.column + 1) if mark is not None else start
            raise self._findings.stop(at, f"not valid YAML: {_problem(error)}", _syntax_fix(error)) from None
        except (ValueError, OverflowError):  # PyYAML makes numbers of an escape and of the version without looking at their size
            at = self._findings.at(loader.line + 1, loader.column + 1)
            raise self._findings.stop(at, "not valid YAML: a number is too large", "correct the line") from None
        if self._root is None:
            self._findings.add(start, "yaml_invalid", "the file is empty", "start with `version: 1`")
        return self._root

    def _take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None  # of the events of a parser
        at = self._findings.at(mark.line + 1, mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event, at)
            case yaml.AliasEvent():
                self._findings.add(at, "yaml_invalid", "aliases (*name) are refused", _WRITE_PLAIN)
                self._add(Node(kind="scalar", at=at, tag="str", items=[], pairs={}))
            case yaml.ScalarEvent():
                self._check_node(event, at)
                self._add(self._scalar(event, at))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._check_node(event, at)
                kind: NodeKind = "sequence" if isinstance(event, yaml.SequenceStartEvent) else "mapping"
                node = Node(kind=kind, at=at, items=[], pairs={})
                self._add(node)
                self._open.append(node)
                if len(self._open) > DEEPEST:
                    raise self._findings.stop(at, f"the file is nested deeper than {DEEPEST} levels", "flatten it")
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._open.pop()

    def _start_document(self, event: yaml.DocumentStartEvent, at: Position) -> None:
        if event.version or event.tags:
            self._findings.add(at, "yaml_invalid", "directives (%YAML, %TAG) are refused", "remove the line")
        if self._root is not None:
            raise self._findings.stop(at, "the file holds more than one document", "keep one, without a second ---")

    def _check_node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, at: Position) -> None:
        if event.anchor is not None:
            self._findings.add(at, "yaml_invalid", "anchors (&name) are refused", _WRITE_PLAIN)
        if event.tag is not None:
            self._findings.add(at, "yaml_invalid", "tags (!name) are refused", "remove the tag; a string is put in quotes")

    def _scalar(self, event: yaml.ScalarEvent, at: Position) -> Node:
        tag = "str"
        if event.style is None:
            tag = str(self._resolver.resolve(yaml.ScalarNode, event.value, (True, False))).removeprefix(_TAG)  # type: ignore[no-untyped-call]
            if tag == "str" and _NUMBER_OF_12.fullmatch(event.value):
                tag = "int" if event.value.startswith("0o") else "float"
            elif tag == "str" and _BOOLEAN_OF_11.fullmatch(event.value):
                tag = "bool"
        if "${" in event.value:
            fix = "write the value itself, or name a file that holds it"
            self._findings.add(at, "env_expansion", "${NAME} is not expanded", fix)
        return Node(kind="scalar", at=at, text=event.value, tag=tag, items=[], pairs={})

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > self._most_nodes:
            raise self._findings.stop(node.at, f"the file holds more than {self._most_nodes} values", "split it")
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

    def _check_key(self, parent: Node, key: Node) -> None:
        if key.kind != "scalar":
            raise self._findings.stop(key.at, f"a key is {KINDS[key.kind]}", "write a plain word as the key")
        if key.tag == "merge":
            self._findings.add(key.at, "yaml_invalid", "merge keys (<<) are refused", "write the keys themselves")
        elif key.tag != "str" and _PLAIN_NUMBER.fullmatch(key.text) is None:
            self._findings.add(key.at, "yaml_invalid", f"YAML reads the key {shown(key.text)} as {READ_AS[key.tag]}", "put it in quotes")
        if key.text in parent.pairs:
            line = parent.pairs[key.text][0].at.line
            self._findings.add(key.at, "yaml_invalid", f"{shown(key.text)} is set again, first on line {line}", "keep one of them")


def _problem(error: yaml.MarkedYAMLError) -> str:
    text = (error.problem or "unreadable")[:200]
    return text if text.isascii() and text.isprintable() else ascii(text)


def _syntax_fix(error: yaml.MarkedYAMLError) -> str:
    if error.problem and "'\\t'" in error.problem:
        return "indent with spaces; YAML forbids tabs there"
    return "correct the line; text with special characters is put in quotes"
