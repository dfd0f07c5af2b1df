"""A recorder that writes into a file, and records to finish: for every test of the telemetry floor."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robin.model.caller import Caller, Evidence
from robin.telemetry.metrics import Metrics
from robin.telemetry.record import ExchangeRecord
from robin.telemetry.recorder import Recorder
from robin.telemetry.writer import LineWriter
from robin.testing.manual_clock import ManualClock

MakeRecord = Callable[..., ExchangeRecord]


def make_record(**what: object) -> ExchangeRecord:
    """The record of an ordinary GET through a TCP listener, with `what` set differently."""
    record = ExchangeRecord(what.pop("caller", Caller(evidence=Evidence.LOOPBACK, listener="127.0.0.1:4000")), 1000.0)  # type: ignore[arg-type]
    ordinary = {"outcome": "forwarded", "method": "GET", "path": b"/v1/x", "protocol": "HTTP/1.1", "status": 200, "upstream_status": 200}
    for name, value in {**ordinary, "ttfb_s": 0.001, "duration_s": 0.002, "reused": True, **what}.items():
        setattr(record, name, value)
    return record


class WrittenLines:
    """A file behind a LineWriter: `writer` to write to, `read()` to end it and see the text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.writer = LineWriter(self._fd)

    def read(self) -> str:
        """Everything written; nothing is written afterwards."""
        self.writer.close()
        assert self.writer.dropped == 0
        return self._path.read_text(encoding="utf-8")

    def close(self) -> None:
        """Give the descriptor back."""
        self.writer.close()
        os.close(self._fd)


@pytest.fixture
def written(tmp_path: Path) -> Iterator[WrittenLines]:
    """Lines written to a file."""
    lines = WrittenLines(tmp_path / "lines")
    yield lines
    lines.close()


@pytest.fixture
def recorded(written: WrittenLines) -> tuple[Metrics, MakeRecord, Recorder]:
    """Metrics, a maker of records, and a recorder that writes no access line."""
    metrics = Metrics(version="1", unsafe={})
    clock = ManualClock()
    recorder = Recorder(metrics, written.writer, mode="off", style="json", wall=clock.wall, prefix="0" * 16, identity_source="file")
    return metrics, make_record, recorder
