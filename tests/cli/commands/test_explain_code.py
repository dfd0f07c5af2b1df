"""`robin explain CODE`: every public code, with the page that lists it; a word that is none gets the nearest."""

from pathlib import Path

import pytest
from tests.rows import every_row

from robin.cli.commands import explain
from robin.cli.main import COMMANDS, main, parser_of
from robin.model.faults import FAULTS
from robin.model.passport_reasons import REASONS

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
        (["explain", "denied"], "robin: denied is no PLANE or CODE; the nearest: rule_denied, peer_denied, kube.denied\n"),
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
