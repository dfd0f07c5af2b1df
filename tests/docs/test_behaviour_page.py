"""The page of behaviour has its numbers from the code."""

import ast
import re

from tests.docs.pages import DOCS, ROOT

from robin.model.limits import Limits
from robin.wire.forwarding import HOP_BY_HOP, NEVER_IN_TRAILERS, NEVER_UPSTREAM

PAGE = (DOCS / "reference" / "behaviour.md").read_text()


def constant(folder: str, name: str, *, copies: int = 1) -> float:
    """The number that a module of this layer calls so; in which module it stands does not matter here."""
    found = []
    for path in (ROOT / "src" / "robin" / folder).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and target.id == name and node.value is not None:
                found.append(eval(compile(ast.Expression(node.value), name, "eval"), {}))
    assert len(found) == copies, f"{name} stands {len(found)} times in {folder}"
    assert len(set(found)) == 1
    return found[0]


NUMBERS: dict[str, float | str] = {
    "empty lines before a request": constant("proxy", "_LEADING_CRLF_MAX"),
    "seconds that a body is held back for a 100": constant("proxy", "_CONTINUE_S"),
    "interim responses to one request": constant("proxy", "_INTERIM_MAX"),
    "bytes of interim responses to one request": constant("proxy", "_INTERIM_BYTES"),
    "bytes of a response head": Limits().response_head_bytes,
    "field lines of a response": Limits().response_fields,
    "trailer fields": constant("wire", "_TRAILER_FIELDS"),
    "bytes of a trailer section": constant("wire", "_TRAILER_BYTES"),
    "bytes of chunk lines beyond 64 for each chunk": constant("wire", "_OVERHEAD_BYTES"),
    "bytes held for one direction while the other side takes none": constant("transport", "_HELD_BYTES"),
    "bytes of a refused request's body that are discarded so that the connection can be reused": constant("proxy", "_DISCARD_BYTES"),
    "bytes that are read and discarded before a close, so that no reset overtakes the response": constant("proxy", "_LINGER_BYTES"),
    "seconds for either": constant("proxy", "_LINGER_S"),
    "seconds between addresses of one name": constant("transport", "_STAGGER_S"),
    "addresses of one name that are tried": constant("transport", "_ADDRESSES_MAX"),
    "least and most seconds of an announced idle time": " to ".join(
        f"{constant('transport', name):g}" for name in ("_IDLE_MIN_S", "_IDLE_MAX_S")
    ),
    "bytes of a token": constant("wire", "TOKEN_LIMIT_BYTES"),
    "seconds that `nbf` may lie ahead": constant("wire", "NOT_BEFORE_LEEWAY_S"),
    "bytes of a CA bundle": constant("transport", "_FILE_BYTES"),
}


def test_the_fixed_numbers_are_the_codes() -> None:
    section = PAGE.partition("## Fixed numbers")[2]
    told = dict(re.findall(r"^\| (?!number)([^|]+?) \| ([^|]+?) \|$", section, re.MULTILINE))
    told.pop("---", None)
    assert told == {name: value if isinstance(value, str) else f"{value:.10g}" for name, value in NUMBERS.items()}


def test_what_is_told_in_passing_is_so_too() -> None:
    assert constant("transport", "GRAIN_S") == 0.25
    assert constant("wire", "_OVERHEAD_PER_CHUNK") == 64
    assert constant("transport", "_IDLE_DEFAULT_S") == 4.0


def test_the_lists_of_fields_are_the_codes() -> None:
    def told(start: str, end: str) -> set[str]:
        part = PAGE.partition(start)[2].partition(end)[0]
        return {word.lower() for word in re.findall(r"`([A-Za-z0-9-]+\*?)`", part)}

    assert told("## What is removed", "\n- Credentials") == {name.decode() for name in HOP_BY_HOP} - {"content-length"} | {
        "host",
        "content-length",
        "trailers",
    }
    trailing = told("never carried, either way", "\n\n")
    assert trailing == {name.decode() for name in NEVER_IN_TRAILERS} - {"te"} | {"host", "via", "expect", "content-*", "proxy-*"}
    never_up = told("## What is removed", "\nNames compare") | told("## What is added", "- The target") | {"expect"}
    assert {name.decode() for name in NEVER_UPSTREAM} <= never_up


def test_the_decision_on_head_shapes_has_its_numbers_from_the_code() -> None:
    page = (DOCS / "explanation" / "decisions" / "0004-head-shapes.md").read_text()
    assert (constant("wire", "_MEMO_BYTES"), constant("wire", "_SHAPES_PER_KEY"), constant("wire", "_KEYS")) == (4096, 4, 4)
    assert f"after {constant('wire', '_USES_MIN')} heads, and {constant('wire', '_USES_PER_FIELD')} more for each field" in page
    assert f"1 for each {constant('wire', '_USES_PER_BYTES')} bytes" in page
    assert f"{constant('wire', '_SHAPES_MAX')} shapes of requests" in page
    assert f"{constant('wire', '_SHAPE_FIELDS_MAX')} fields and {constant('wire', '_NAMES_BYTES_MAX'):,} bytes of names" in page
    assert f"{constant('wire', '_TEMPLATES_MAX')} templates each" in page
    assert f"Connection field of more than {constant('wire', '_OPTIONS_BYTES_MAX')} bytes" in page
