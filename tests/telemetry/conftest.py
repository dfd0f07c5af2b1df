"""A recorder that writes into a file, and records to finish: for every test of the telemetry floor."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from robin.model.caller import Caller, Evidence
from robin.planes.sidecar.access_record import SIDECAR_COLUMNS
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


class KeptLines(LineWriter):
    """A writer whose lines stay in a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def put(self, lines: Sequence[str]) -> None:
        self.lines += lines


def make_recorder(writer: LineWriter, **what: object) -> Recorder:
    """A recorder of the sidecar that writes JSON lines to `writer`, with `what` set differently."""
    ordinary = {"columns": SIDECAR_COLUMNS, "mode": "all", "style": "json", "wall": ManualClock().wall}
    more = {"prefix": "0123456789abcdef", "identity_source": "file"}
    metrics = what.pop("metrics", None) or Metrics(version="1", unsafe={})
    return Recorder(metrics, writer, **{**ordinary, **more, **what})  # type: ignore[arg-type]


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
    return metrics, make_record, make_recorder(written.writer, mode="off", metrics=metrics)
