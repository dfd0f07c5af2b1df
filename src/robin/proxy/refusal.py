"""The HTTP response to a connection that admission refused: no byte of a request was read, so there is a record but no request."""

from robin.model.caller import Caller
from robin.model.faults import Fault
from robin.proxy.engine import Engine
from robin.telemetry.record import ExchangeRecord


def refuse_connection(engine: Engine, caller: Caller, fault: Fault) -> bytes:
    """Record the refused connection. Returns its response, which closes the connection."""
    record = ExchangeRecord(caller, engine.clock())
    record.outcome = fault.code
    record.status = fault.status
    record.notes["why"] = fault.detail.partition(":")[0]
    record.request_id = engine.recorder.request_id()
    engine.recorder.finish(record)
    return engine.refusals.render(fault, request_id=record.request_id, close=True, head_only=False)
