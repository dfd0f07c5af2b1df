"""The trace-id of a request, for its record (W3C Trace Context level 1)."""

import re

_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.DOTALL)


def trace_id(traceparent: bytes | None) -> str | None:
    """The trace-id of a valid traceparent (section 3.2), else None; later versions may append to it."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
    if found is None or (found[2] is not None and found.string.startswith(b"00")):
        return None
    return found[1].decode()


def render_trace_id(traceparent: bytes | None) -> str:
    """The same as JSON text."""
    found = trace_id(traceparent)
    return "null" if found is None else f'"{found}"'
