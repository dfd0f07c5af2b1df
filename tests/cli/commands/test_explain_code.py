"""`robin explain CODE`: every public code, with the page that lists it; a word that is none gets the nearest."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rows import every_row

from robin.cli.commands import explain
from robin.cli.main import COMMANDS, main, parser_of
from robin.cli.reason_words import WORDS
from robin.model.faults import FAULTS, OUTCOMES
from robin.model.passport_reasons import REASONS
from robin.policy.address_guard import AddressClass
from robin.proxy.splice import SpliceEnd
from robin.wire.grpc import CODES as GRPC_CODES
from robin.wire.oauth import ISSUER_ERRORS
from robin.wire.sts import STS_ERRORS

ROOT = Path(__file__).parents[3]


def test_each_code_is_explained_and_is_on_the_page_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of(COMMANDS["explain"])
    with every_row() as row:
        for code in {**REASONS, **FAULTS}:
            with row(code):
                assert explain.run(parser.parse_args([code])) == 0
                said = capsys.readouterr().out.rstrip("\n").split("\n\n")
                meant = [f"{code}: {REASONS[code].meaning}\nfix: {REASONS[code].remedy}\n"] if code in REASONS else []
                meant += [f"{code}: {FAULTS[code].title}\nsource: {FAULTS[code].source}\nstatus: "] if code in FAULTS else []
                assert [text.startswith(part) for text, part in zip(said, meant, strict=True)] == [True] * len(meant)
                for text in said:
                    page = text.rpartition("\npage: ")[2]
                    assert f"\n| `{code}` |" in (ROOT / page).read_text()


OTHERS = re.compile("passport|broker|testing")
NO_WORDS = {"forbidden", "matches", "robin"}
"""What begins another text of the Kubernetes plane."""
REFUSALS = {"NotCanonical", "NotVerified", "BadTokenResponse", "BadStsResponse", "UnusableFile", "bad", "_malformed"}
"""What is raised or made with a reason word as its first argument."""


def words_of(tree: ast.AST) -> Iterator[str]:
    """The reason words of a module: texts of the form `word: why`, and first arguments of REFUSALS."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if found := re.match(r"([a-z][a-z0-9_]*): \S?", node.value):
                yield found[1]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in REFUSALS and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.partition(":")[0]


def test_every_reason_word_of_the_source_is_explained() -> None:
    words = {*map(str, AddressClass), *SpliceEnd, *ISSUER_ERRORS, *STS_ERRORS, *OUTCOMES, "drain", "policy_reload", "error"} - {"public"}
    words |= {re.sub("(?<!^)(?=[A-Z])", "_", code).lower() for code in GRPC_CODES[1:]}
    words |= {"name_mismatch", "expired", "not_yet_valid"}  # `transport/tls.py` makes them of numbers
    words |= {"connect", "tls", "timeout", "closed", "protocol"}  # `app/issuer_client.py` makes them of codes
    for layer in ("wire", "policy", "transport", "proxy", "identity", "grants", "planes/gateway", "planes/kube"):
        for path in (ROOT / "src" / "robin" / layer).rglob("*.py"):
            if not OTHERS.search(str(path.relative_to(ROOT))):
                words |= set(words_of(ast.parse(path.read_text())))
    assert len(words) > 150
    assert sorted(word for word in words - NO_WORDS if not explain.explanations(word)) == []


def test_every_reason_word_is_in_the_section_that_is_named() -> None:
    for word, (_, place) in WORDS.items():
        page, _, heading = place.partition("#")
        text = (ROOT / "docs" / "reference" / page).read_text()
        section = text.partition("\n## Reason words\n")[2].partition("\n## ")[0] if heading else text
        assert f"`{word}`" in section or "other gRPC codes" in section, word
        assert explain.explanations(word)[0].endswith(f"\npage: docs/reference/{place}")


@pytest.mark.parametrize("word", ["would_deny", "policy_reports_only", "policy_reload", "drain"])
def test_words_of_records_are_explained_too(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", word]) == 0
    said = capsys.readouterr().out.rstrip("\n")
    page, _, heading = said.rpartition("\npage: ")[2].partition("#")
    text = (ROOT / page).read_text()
    assert said.startswith(f"{word}: ")
    assert word in text
    assert f"\n## {heading.replace('-', ' ').capitalize()}\n" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain", "rule_defalt"], "robin: rule_defalt is no PLANE or CODE; the nearest: rule_default, rule_denied\n"),
        (["explain", "denies"], "robin: denies is no PLANE or CODE; the nearest: denied, bodies, done\n"),
        (["explain", "xyzzy"], "robin: xyzzy is no PLANE or CODE; the reference pages list what there is\n"),
        (["explain"], "robin: the following arguments are required: PLANE | CODE; robin explain --help lists what there is\n"),
        (["passport", "bundle", "sing"], "robin: sing is no STEP; the nearest: sign\n"),
        (["up", "--source", "x"], "robin: x is no --source; use file, jwtsvid\n"),
    ],
)
def test_a_word_that_is_none_of_many_gets_the_nearest_on_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert (caught.value.code, capsys.readouterr().err) == (2, message)


@pytest.mark.parametrize(
    ("code", "again"),
    [
        *(
            (code, f"{explain._PASSES}\n")
            for code in ("dns_failed", "dns_timeout", "connect_refused", "connect_timeout", "unroutable", "parent_unreachable")
        ),
        *((code, f"{explain._PASSES}, and the upstream may have acted") for code in ("response_timeout", "upstream_closed")),
        *((code, "no\n") for code in ("bad_request", "rule_default", "upstream_certificate", "audience_mismatch")),
        *((code, "yes, ") for code in ("identity_unavailable", "limit_connections", "draining")),
    ],
)
def test_a_failure_that_may_pass_by_itself_is_not_said_to_stay(code: str, again: str) -> None:
    assert f"\nagain later: {again}" in explain.explanations(code)[-1]
