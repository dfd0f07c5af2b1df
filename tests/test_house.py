"""The rules of the house that no other tool holds: pure floors, lengths, first lines, mirrored tests, where secrets are opened, words."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "robin"
PURE = ("model", "wire", "policy")
WALL_LINES = 600
OPENS_SECRETS = ("wire", "grants/kinds")
NOT_USED = frozenset("manager helper handler provider ctx data info common core utils base types".split())
ALLOWED = {
    "data_received": "asyncio's own name",
    "data": "its argument",
    "info": "a level of the log",
    "base_path": "the word of the settings",
    "_parse_base_path": "the same",
    "_BASE_PATH": "the same",
    "_DATA": "the kubelet's `..data`",
    "_DATA_NEXT": "the same",
    "types": "values of the JOSE header `typ`",
    "SVID_TYPES": "the same",
}


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(SOURCE.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def public_classes() -> Iterator[tuple[str, str]]:
    """(module, class) of every class that a module offers."""
    for path in modules():
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield named(path), node.name


every_module = pytest.mark.parametrize("path", modules(), ids=named)


@every_module
def test_the_first_line_of_a_module_tells_its_one_idea(path: Path):
    text = ast.get_docstring(tree(path), clean=False)
    assert text is not None, "no docstring"
    assert re.fullmatch(r"\S.{15,}[.:]", text.split("\n")[0].rstrip()), "the first line is no sentence"


@every_module
def test_no_module_is_longer_than_the_wall(path: Path):
    assert len(path.read_text().splitlines()) <= WALL_LINES


@pytest.mark.parametrize("floor", PURE)
def test_pure_floors_do_not_await(floor: str):
    found = [
        f"{named(path)}:{node.lineno}"
        for path in modules()
        if path.is_relative_to(SOURCE / floor)
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await))
    ]
    assert found == []


@pytest.mark.parametrize("path", [path for path in modules() if path.name != "__init__.py"], ids=named)
def test_every_module_has_its_mirrored_test(path: Path):
    relative = path.relative_to(SOURCE)
    assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").exists()


def test_a_package_holds_no_code():
    """What `import robin.x` runs is what its modules say, not a package file."""
    for path in modules():
        if path.name == "__init__.py" and path != SOURCE / "__init__.py":
            assert len(tree(path).body) == 1, named(path)


def test_secrets_are_opened_only_where_bytes_are_built():
    found = {
        named(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "reveal" and not named(path).startswith(OPENS_SECRETS)
    }
    assert found == set()


def test_the_rule_on_secrets_looks_at_something():
    opened = [path for path in modules() for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr == "reveal"]
    assert opened, "no secret is opened anywhere: the rule above would never fail"


def defined_names(path: Path) -> Iterator[str]:
    """Every name that a module makes: itself, functions, classes, arguments, variables, attributes, slots, other names for imports."""
    yield path.stem
    for node in ast.walk(tree(path)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case (
                ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__slots__" for target in node.targets):
            yield from (part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_the_rule_on_words_sees_every_way_to_make_a_name(tmp_path: Path):
    made = tmp_path / "made_module.py"
    made.write_text(
        "import os as made_alias\n"
        "class MadeClass:\n    __slots__ = ('made_slot',)\n    made_field: int\n"
        "    def made_method(self, made_argument):\n        self.made_attribute = 1\n        made_argument.read_only.made_elsewhere = 2\n"
        "made_variable, made_second = 1, 2\n"
        "try:\n    pass\nexcept OSError as made_error:\n    pass\n"
        "match made_variable:\n    case [*made_rest]:\n        pass\n    case made_capture:\n        pass\n"
    )
    wanted = {
        f"made_{word}" for word in "module alias slot field method argument attribute elsewhere variable second error rest capture".split()
    }
    assert set(defined_names(made)) == wanted | {"MadeClass", "self", "__slots__"}


def words_of(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


@every_module
def test_words_that_say_nothing_are_in_no_name(path: Path):
    assert {name for name in defined_names(path) if words_of(name) & NOT_USED and name not in ALLOWED} == set()


def test_every_exception_to_the_words_is_used():
    assert set(ALLOWED) <= {name for path in modules() for name in defined_names(path)}


def test_the_one_door_out_is_shut_to_every_floor_but_its_own():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract for contract in linter["contracts"] if contract["type"] == "layers")["layers"]
    door = next(contract for contract in linter["contracts"] if contract["name"].startswith("one door out"))
    floors = {f"robin.{floor}" for layer in layers for floor in layer.split(" | ")}
    assert set(door["source_modules"]) == floors - {"robin.transport"}
    assert len(door["ignore_imports"]) == 3


def test_no_folder_is_a_drawer():
    """A folder earns its life with three files, or an interface with its implementations, or a floor of its own."""
    few = {
        str(folder.relative_to(SOURCE)): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for folder in SOURCE.rglob("*")
        if folder.is_dir() and folder.name != "__pycache__"
    }
    implementations = {"grants", "grants/kinds", "identity/sources", "planes", "policy"}
    assert {name for name, count in few.items() if count < 3} <= implementations


# the vocabulary page


@cache
def vocabulary() -> str:
    return (ROOT / "docs" / "reference" / "vocabulary.md").read_text()


def listed_classes() -> list[tuple[str, str]]:
    """(module, class) of each row of the page's tables of classes."""
    return [(module, name) for name, module in re.findall(r"^\| `(\w+)` \| `([\w/]+\.py)` \| .+ \|$", vocabulary(), re.MULTILINE)]


def test_the_vocabulary_lists_each_public_class_and_no_other():
    listed, there = listed_classes(), list(public_classes())
    assert len(listed) == len(set(listed))
    assert set(there) - set(listed) == set(), "not on docs/reference/vocabulary.md"
    assert set(listed) - set(there) == set(), "on the page, but not in the code"


def test_a_word_has_one_meaning():
    """The same class name twice is one word with two meanings; those that are said so on the page are known."""
    names = [name for _, name in public_classes()]
    twice = {name for name in names if names.count(name) > 1}
    said = re.search(r"^Words with two places: (.+)\.$", vocabulary(), re.MULTILINE)
    assert said is not None
    assert twice == set(re.findall(r"`(\w+)`", said[1]))


def test_the_vocabulary_has_the_words_of_the_house():
    for word in "Workload Caller Evidence Credential Freshness Injection Downstream Upstream Origin Head Exchange Relay Tunnel".split():
        assert re.search(rf"^\| [^|]*\b{word}\b[^|]*\|", vocabulary(), re.MULTILINE), word
    for verb in "parse render load fetch get obtain build decide check issue inspect mint".split():
        assert re.search(rf"^\| [^|]*\*\*{verb}\*\*[^|]*\|", vocabulary(), re.MULTILINE), verb


# pages that name the code


@pytest.mark.parametrize("page", ["explanation/house.md", "explanation/walk-of-a-request.md"])
def test_pages_about_the_code_name_what_is_there(page: str):
    text = (ROOT / "docs" / page).read_text()
    places = re.findall(r"`((?:src|tests|deploy|docs|bench|requirements)/[\w./-]+)`", text)
    assert [place for place in places if not (ROOT / place).exists()] == []
    files = re.findall(r"`((?:\w+/)+\w+\.py)(?:::(\w+(?:\.\w+)?))?`", text)
    assert len(files) > 10
    for name, inside in files:
        path = ROOT / name if name.startswith(("src/", "tests/")) else SOURCE / name
        assert path.exists(), name
        for part in inside.split(".") if inside else ():
            assert re.search(rf"\b(?:class|def) {part}\b", path.read_text()), f"{name}::{inside}"
