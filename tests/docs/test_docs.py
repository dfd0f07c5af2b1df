"""What the pages name exists, what they show can be read by what it is for, and each page can be found."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.docs.pages import DOCS, ROOT, anchors, blocks, blocks_of, links, pages, prose
from tests.rows import every_row

from robin import __version__
from robin.cli.main import COMMANDS, parser_of
from robin.config.load import load
from robin.config.table import SETTINGS
from robin.model.faults import FAULTS, OUTCOMES
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS
from robin.telemetry.names import METRICS

REQUIRED = {"ROBIN_UPSTREAM_URL": "https://broker.example:8443", "ROBIN_AUDIENCE": "broker.example"}
NO_SETTINGS = frozenset({"ROBIN_X", "ROBIN_REAL", "ROBIN_PORT"})
"""Stand-ins for a name, and a switch of the tests."""

_SUFFIXES = ("", "_bucket", "_count", "_sum")
SERIES = {f"{metric.name}{suffix}": metric for metric in METRICS for suffix in (_SUFFIXES if metric.kind == "histogram" else ("",))}


def named(page: Path) -> str:
    """The page below the root."""
    return str(page.relative_to(ROOT))


# finding


def test_links_lead_somewhere():
    with every_row() as row:
        for page in pages():
            with row(named(page)):
                for link in links(page):
                    if link.startswith(("https://", "mailto:")):
                        continue
                    target, _, anchor = link.partition("#")
                    found = (page.parent / target).resolve() if target else page
                    assert found.is_relative_to(ROOT), link
                    assert found.exists(), link
                    if anchor:
                        assert anchor in anchors(found), f"{link}: no such heading"


def test_each_page_is_on_the_map():
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "README.md")}
    there = {page for page in pages() if page.is_relative_to(DOCS)}
    assert there - listed == {DOCS / "README.md"}


def test_each_page_has_one_title():
    for page in pages():
        assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1, page


def test_the_changelog_tells_of_this_version():
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


# names


def test_each_setting_that_a_page_names_exists():
    with every_row() as row:
        for page in pages():
            with row(named(page)):
                found = set(re.findall(r"\bROBIN_[A-Z0-9_]*[A-Z0-9]\b(?![\[*_])", page.read_text())) - NO_SETTINGS
                assert found <= SETTINGS.keys()


def test_each_metric_that_a_page_names_exists():
    with every_row() as row:
        for page in pages():
            with row(named(page)):
                text = re.sub(r"robin_[a-z]+\.env|`robin_`", "", page.read_text())
                assert set(re.findall(r"\brobin_[a-z_]+[a-z]\b(?!/)", text)) <= SERIES.keys()


def test_each_code_that_a_page_names_exists():
    with every_row() as row:
        for page in pages():
            with row(named(page)):
                text = page.read_text()
                codes = re.findall(r"urn:robin:fault:([a-z_]+)", text) + re.findall(r'details="([a-z_]+)"', text)
                codes += re.findall(r"(?:^|\s|\()[45]\d\d `([a-z_]+)`", text) + re.findall(r'"(?:fault)":\s?"([a-z_]+)"', text)
                assert set(codes) <= FAULTS.keys()
                assert set(re.findall(r'"outcome":"([a-z_]+)"', text)) <= OUTCOMES


def test_the_how_to_about_503_has_each_code_that_is_503():
    page = (DOCS / "how-to" / "debug-a-503.md").read_text()
    of_planes = {*GATEWAY_FAULTS, *GRANT_FAULTS, *KUBE_FAULTS}
    assert set(re.findall(r"^### `(\w+)`$", page, re.MULTILINE)) == {
        code for code, kind in FAULTS.items() if kind.status == 503 and code not in of_planes
    }


# blocks


def test_settings_that_a_page_shows_are_taken():
    with every_row() as row:
        for block in blocks_of("ini"):
            with row(block.name):
                if re.search(r"^\[\w+\]$", block.text, re.MULTILINE):
                    continue  # a systemd unit
                lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
                given = dict(line.removeprefix("export ").split("=", 1) for line in lines)
                missing = {key: value for key, value in REQUIRED.items() if key not in given}
                outcome = load({}, {**missing, **given})
                assert not isinstance(outcome, tuple), outcome


def test_yaml_can_be_read():
    with every_row() as row:
        for block in blocks_of("yaml", "yml"):
            with row(block.name):
                assert all(document is not None for document in yaml.safe_load_all(block.text))


def test_json_can_be_read():
    with every_row() as row:
        for block in blocks_of("json"):
            with row(block.name):
                json.loads(block.text)


def test_python_can_be_compiled():
    with every_row() as row:
        for block in blocks_of("python"):
            with row(block.name):
                compile(block.text, block.name, "exec")


def test_shell_can_be_read():
    with every_row() as row:
        for block in blocks_of("sh", "bash"):
            with row(block.name):
                subprocess.run(["/bin/bash", "-n"], input=block.text, text=True, check=True)
                check_modules(block.text)


def check_modules(text: str) -> None:
    """`python -m robin.x` names a module that is there."""
    for module in re.findall(r"python -m (robin[.\w]*)", text):
        assert (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_each_robin_command_line_is_understood():
    with every_row() as row:
        for block in blocks_of("console", "sh", "bash"):
            with row(block.name):
                prompt = r"\$ " if block.language == "console" else ""
                for line in block.text.replace("\\\n", " ").splitlines():
                    words = shlex.split(line.removeprefix("$ "), comments=True) if re.match(rf"{prompt}(\S*/)?robin( |$)", line) else []
                    words = words[1 : next((at for at, word in enumerate(words) if word in {"|", ">", "&", ";"}), len(words))]
                    if not words or words[0] in {"--version", "--help"}:
                        continue
                    name, rest = (words[0], words[1:]) if words[0] in COMMANDS else ("sidecar", words)
                    parser_of(COMMANDS[name]).parse_args(rest)


def test_blocks_are_of_languages_that_are_looked_at():
    seen = {"console", "ini", "yaml", "json", "python", "sh", "bash"}
    shown = {"http", "mermaid", "dockerfile", ""}  # pictures, and what is no program
    assert {block.language for block in blocks()} <= seen | shown


# the python and PromQL that are more than compiled


def test_the_figures_of_decision_4_can_be_made(capsys):
    script = (ROOT / "bench" / "heads").read_text()
    exec(compile(script.replace("repeat=15", "repeat=1"), "bench/heads", "exec"), {"__name__": "heads"})
    assert re.findall(r"^(\w+) +[\d.]+ µs$", capsys.readouterr().out, re.MULTILINE) == [
        f"{head}_{way}" for head in ("request", "response") for way in ("parsed", "matched", "repeated")
    ]


def rules() -> list[tuple[str, str]]:
    """Every alert of the pages with its expression."""
    documents = [yaml.safe_load(block.text) for block in blocks_of("yaml")]
    groups = [group for document in documents if isinstance(document, dict) for group in document.get("groups", [])]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


@pytest.mark.parametrize(("alert", "expression"), rules())
def test_an_alert_asks_for_series_and_labels_that_exist(alert, expression):
    found = re.findall(r"\b((?:robin|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert found, alert
    for name, matchers in found:
        for label, _, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            assert label in {*SERIES[name].labels, "plane"}
            if label == "outcome":
                for word in value.split("|"):
                    assert any(re.fullmatch(word, outcome) for outcome in OUTCOMES), word
    assert expression.count("(") == expression.count(")")


def test_there_are_alerts():
    assert len(rules()) >= 8
