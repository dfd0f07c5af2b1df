"""The bench judges by the rounds that both sides share, and never calls an unmeasured target passed."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("sidebyside.ledger")


@pytest.fixture
def page(ledger: ModuleType) -> ModuleType:
    return importlib.import_module("sidebyside.page")


def test_a_ratio_is_the_median_of_the_ratios_of_shared_rounds(ledger: ModuleType) -> None:
    book = ledger.Ledger()
    for turn, (robin, go) in enumerate([(30, 10), (10, 5), (8, 8)]):
        book.add("small", "Robin", turn, robin)
        book.add("small", "Go", turn, go)
    book.add("small", "Robin", 3, 900)  # Go sat this round out

    assert book.ratio("small", "Robin", "Go") == 2.0
    assert book.ratio("small", "Robin", "nginx") is None


def test_each_target_is_passed_failed_or_said_to_be_unmeasured(ledger: ModuleType, page: ModuleType) -> None:
    book = ledger.Ledger()
    for contender, value in (("Robin", 20), ("Go", 10), ("Envoy", 40)):
        book.add("small", contender, 0, value)
    book.add("idle_file", "Robin", 0, 41.0)

    lines = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.verdicts(book).splitlines()}

    assert lines["small keep-alive requests, 32 connections, Robin/Go"] == "pass"
    assert lines["small keep-alive requests, 32 connections, Robin/Envoy"] == "FAIL"
    assert lines["small keep-alive requests, 32 connections, Robin/nginx"] == "not measured"
    assert lines["memory, idle"] == "FAIL"


def test_a_disturbed_turn_is_judged_by_processor_time(ledger: ModuleType, page: ModuleType) -> None:
    book = ledger.Ledger()
    for contender, speed, busy, spent in (("Robin", 9_000, 95, 50), ("Go", 3_000, 20, 60)):
        book.add("small", contender, 0, speed)
        book.add("small_busy", contender, 0, busy)
        book.add("small_cpu", contender, 0, spent)

    line = next(line for line in page.verdicts(book).splitlines() if "Robin/Go" in line)

    assert [cell.strip() for cell in line.split("|")[3:6]] == ["3.00x", "1.20x", "FAIL by processor time"]
    assert "Go 20 % in `small`" in page.disturbances(book, ["Robin", "Go"])
