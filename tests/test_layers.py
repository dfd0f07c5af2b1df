"""The rules of the layers that no other tool checks: purity, lengths, first lines, where secrets are opened and Permits are built."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "robin"
PURE = ("model", "wire", "policy")
MODULE_LINES_MAX = 600
# identity/trust verifies the very bytes of a token, and reads key sets; transport/tls_server.py hands a private key to OpenSSL.
OPENS_SECRETS = ("wire", "grants/kinds", "identity/trust", "transport/tls_server.py")
BUILDS_PERMITS = ("policy",)


@cache
def modules() -> tuple[Path, ...]:
    return tuple(sorted(SOURCE.rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(path: Path) -> str:
    return str(path.relative_to(SOURCE))


every_module = pytest.mark.parametrize("path", modules(), ids=named)


@every_module
def test_the_first_line_of_a_module_states_its_one_idea(path: Path):
    text = ast.get_docstring(tree(path), clean=False)
    assert text is not None, "no docstring"
    assert re.fullmatch(r"\S.{15,}[.:]", text.split("\n")[0].rstrip()), "the first line is no sentence"


@every_module
def test_no_module_is_too_long(path: Path):
    assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("layer", PURE)
def test_pure_layers_do_not_await(layer: str):
    found = [
        f"{named(path)}:{node.lineno}"
        for path in modules()
        if path.is_relative_to(SOURCE / layer)
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await))
    ]
    assert found == []


def test_a_package_holds_no_code():
    """What `import robin.x` runs is what its modules contain, not a package file."""
    public = (SOURCE / "__init__.py", SOURCE / "passport" / "__init__.py")
    for path in modules():
        if path.name == "__init__.py" and path not in public:
            assert len(tree(path).body) == 1, named(path)


def users_of(name: str, kind: type[ast.expr]) -> set[str]:
    """The modules in which `.name` is used as an attribute, or `name(` or `module.name(` is called."""
    found = set()
    for path in modules():
        for node in ast.walk(tree(path)):
            subject = node.func if isinstance(node, ast.Call) and kind is ast.Call else node
            called = kind is not ast.Call or isinstance(node, ast.Call)
            if called and (
                (isinstance(subject, ast.Attribute) and subject.attr == name) or (isinstance(subject, ast.Name) and subject.id == name)
            ):
                found.add(named(path))
    return found


@pytest.mark.parametrize(
    ("name", "kind", "allowed"),
    [("reveal", ast.Attribute, OPENS_SECRETS), ("Permit", ast.Call, BUILDS_PERMITS), ("ConnectPermit", ast.Call, ("policy/gateway.py",))],
    ids=["secrets are opened where bytes are built", "permits are constructed by policy", "permits of CONNECT too"],
)
def test_a_dangerous_call_stands_only_where_it_may(name: str, kind: type[ast.expr], allowed: tuple[str, ...]):
    users = users_of(name, kind)
    assert users, "nothing uses it: this rule would never fail"
    assert {user for user in users if not user.startswith(allowed)} == set()


NAMES_SETTINGS = ("config", "cli", "testing", "planes", "app/sidecar.py")


def test_only_planes_and_what_is_above_them_name_a_setting():
    """Faults and events of the engine hold words that a plane replaces by its own names (model.faults.name_settings)."""
    naming = {named(path) for path in modules() if "ROBIN_" in path.read_text()}
    assert {name for name in naming if not name.startswith(NAMES_SETTINGS)} == set()
    assert naming, "nothing names a setting: this rule would never fail"


def test_the_way_out_is_open_to_its_own_layer_only():
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract for contract in linter["contracts"] if contract["type"] == "layers")["layers"]
    contract = next(contract for contract in linter["contracts"] if contract["name"].startswith("one way out"))
    every_layer = {f"robin.{name}" for layer in layers for name in layer.split(" | ")}
    assert set(contract["source_modules"]) == every_layer - {"robin.transport"}
    assert all(
        line.split(" -> ")[0].startswith(("robin.app.", "robin.cli.findings.", "robin.testing.")) for line in contract["ignore_imports"]
    )
    importers = {named(path) for path in modules() if "from robin.transport.dial import" in path.read_text()}
    assert {name for name in importers if name.startswith("transport/")} == {"transport/pool.py"}


def test_no_folder_is_a_drawer():
    """A folder earns its life with three files, or an interface with its implementations, or as a layer."""
    few = {
        str(folder.relative_to(SOURCE)): len([path for path in folder.glob("*.py") if path.name != "__init__.py"])
        for folder in SOURCE.rglob("*")
        if folder.is_dir() and folder.name != "__pycache__"
    }
    implementations = {"grants", "grants/kinds", "identity/sources", "planes", "planes/sidecar", "policy", "testing/demos"}
    assert {name for name, count in few.items() if count < 3} <= implementations


# pages that name the code


@pytest.mark.parametrize("page", ["explanation/architecture.md", "explanation/request-path.md"])
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
