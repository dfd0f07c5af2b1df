"""Q5: one minute of chaos beside real sidecars; ten minutes and more are `make soak`. The same plan, the same judge, at a gentler rate."""

from pathlib import Path

import pytest
from tests.soak.phases import CYCLE, DRAIN, times
from tests.soak.report import Report
from tests.soak.soak import Soak

RATE = 500.0
SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_q5_a_minute_of_chaos_loses_doubles_mixes_up_and_leaks_nothing(tmp_path: Path) -> None:
    soak = Soak(tmp_path, times=times(SECONDS), rate=RATE, show=lambda _: None)
    await soak.run()
    report = Report(soak)
    report.write()
    assert report.findings == []
    summary = report.summary()
    assert summary["passed"] is True
    assert summary["exchanges"] == sum(side["exchanges"] for side in summary["sides"].values())
    assert summary["exchanges"] > SECONDS * RATE * 0.3  # a busy machine does less; the invariants are the test
    assert [side["exit"] for side in summary["sides"].values()] == [0, 0]
    assert {band.name for band in soak.course.bands} == {phase.name for phase in (*CYCLE, DRAIN)}
    assert (tmp_path / "soak.svg").read_text().startswith("<svg ")
    assert not list(tmp_path.glob("*.ledger"))
