"""What one event and one access line cost, beside the standard library's logging (docs/explanation/decisions/0009-event-log.md).

.venv/bin/python bench/eventlog.py
"""

import json
import logging
import logging.handlers
import os
import queue
import time
import timeit
from collections.abc import Callable

from robin.telemetry.logs import EventLog
from robin.telemetry.writer import LineWriter

FIELDS = {"source": "file", "expires_in_s": 3600, "next_s": 1800.5}
LINE = json.dumps({"event": "exchange", "path": "/v1/models", "text": "x" * 400}) + "\n"


class JsonFormatter(logging.Formatter):
    """The same line as the event log's, as it is usually made from a LogRecord."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"ts": self.formatTime(record), "level": record.levelname.lower(), "event": record.msg, **record.__dict__["fields"]}
        return json.dumps(line, separators=(",", ":"))


def logger_to(handler: logging.Handler, formatter: logging.Formatter | None = None) -> logging.Logger:
    logger = logging.Logger("bench", logging.INFO)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    return logger


def measure(name: str, act: Callable[[], object], each: int = 1) -> None:
    best = min(timeit.repeat(act, number=100, repeat=150)) / 100 / each * 1e6
    print(f"{name:<60} {best:6.2f} us")


def main() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    nowhere = os.fdopen(os.dup(fd), "w")
    writer = LineWriter(fd, limit_bytes=2**30)
    log = EventLog(writer, level="info", style="json", wall=time.time, monotonic=time.monotonic)
    plain = logger_to(logging.StreamHandler(nowhere), JsonFormatter())
    queued = logger_to(logging.handlers.QueueHandler(waiting := queue.SimpleQueue()), JsonFormatter())
    listener = logging.handlers.QueueListener(waiting, logging.StreamHandler(nowhere))
    listener.start()
    measure("event: EventLog, a thread writes", lambda: log.info("token_renewed", **FIELDS))
    measure("event: logging, StreamHandler (blocks with the pipe)", lambda: plain.info("token_renewed", extra={"fields": FIELDS}))
    measure("event: logging, QueueHandler, a thread writes", lambda: queued.info("token_renewed", extra={"fields": FIELDS}))
    log.error("accept_failed", code="EMFILE")
    measure("event held back within its minute: EventLog", lambda: log.error("accept_failed", code="EMFILE"))
    measure("event below the level: EventLog", lambda: log.debug("x", **FIELDS))
    measure("event below the level: logging", lambda: plain.debug("x", extra={"fields": FIELDS}))
    lines = [LINE] * 32
    measure("access line that is already made: LineWriter, 32 together", lambda: writer.put(lines), 32)
    bare = logger_to(logging.StreamHandler(nowhere))
    measure("access line that is already made: logging, StreamHandler", lambda: bare.info(LINE))
    queued_bare = logger_to(logging.handlers.QueueHandler(waiting))
    measure("access line that is already made: logging, QueueHandler", lambda: queued_bare.info(LINE))
    writer.close()
    listener.stop()


if __name__ == "__main__":
    main()
