"""The bench judges by the rounds both sides share, never calls an unmeasured target passed, and names who is missing."""

import argparse
import importlib
import os
import subprocess
import sys
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


def test_write_replaces_only_what_stands_between_the_markers(page: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "benchmarks.md"
    target.write_text(f"by hand\n{page.BEGIN}\nold\n{page.END}\nalso by hand\n")
    monkeypatch.setattr(page, "PAGE", target)

    page.write("new\n")

    assert target.read_text() == f"by hand\n{page.BEGIN}\n\nnew\n\n{page.END}\nalso by hand\n"


def test_a_machine_without_go_is_told_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "run", "--quick"], check=False, capture_output=True, text=True, env={"PATH": "/nonexistent"}
    )

    assert done.returncode == 1
    assert "Go toolchain" in done.stderr


def test_a_result_of_a_busy_machine_is_marked_and_not_published(
    ledger: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = importlib.import_module("sidebyside.cli")
    monkeypatch.setattr(cli, "busy_shares", lambda _cores, _seconds: {"proxy core": 3.0, "load core": 64.0})

    assert cli._quiet(argparse.Namespace(undisturbed=False, write=False)).startswith("NOT QUIET: proxy core 3 %")
    assert "load core 64 % in use" in capsys.readouterr().err
    assert not cli._quiet(argparse.Namespace(undisturbed=True, write=True)).startswith("NOT QUIET")
    with pytest.raises(SystemExit, match="not to be published"):
        cli._quiet(argparse.Namespace(undisturbed=False, write=True))


def test_a_core_somebody_keeps_busy_is_seen_to_be_busy(ledger: ModuleType) -> None:
    machine = importlib.import_module("sidebyside.machine")
    core = min(os.sched_getaffinity(0))
    with (
        machine.pinned(core),
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) as spinning,
    ):
        assert spinning.stdout is not None
        spinning.stdout.readline()
        shares = machine.busy_shares(machine.Cores(proxy=core, load=core), 0.3)
        spinning.kill()

    assert shares["proxy core"] > 80
