"""The application of a pod: calls its model provider through the OpenAI SDK, as its environment says, until SIGTERM; then a moment longer.

Writes one JSON line a second, one for each failure, and a last one. `load.py N` makes N calls and ends, with 1 if one has failed.
"""

import collections
import json
import os
import signal
import sys
import threading
import time

ENDING = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ENDING.set())  # first: process 1 of a container does not get a signal that it does not handle

import openai  # noqa: E402

PAUSE_S = 0.02
SHUTDOWN_S = float(os.environ.get("SHUTDOWN_S", "1.0"))  # what an application does after SIGTERM still needs its provider


def main() -> int:
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    client = openai.OpenAI(max_retries=0)
    counts: collections.Counter[str] = collections.Counter()
    tokens: dict[str, None] = {}
    told_at, ends_at = time.monotonic(), float("inf")
    while time.monotonic() < ends_at and not (limit and sum(counts.values()) >= limit):
        try:
            answer = client.get("/models", cast_to=object)
        except openai.OpenAIError as failure:
            counts["failed"] += 1
            print(json.dumps({"failure": repr(failure), "at": time.time()}))
        else:
            counts["ok"] += 1
            tokens[answer["token"]] = None
        if ENDING.is_set() and ends_at == float("inf"):
            ends_at = time.monotonic() + SHUTDOWN_S
        if time.monotonic() >= told_at + 1.0:
            told_at = time.monotonic()
            print(json.dumps({**counts, "tokens": len(tokens), "at": time.time()}))
        time.sleep(PAUSE_S)
    print(json.dumps({**counts, "tokens": len(tokens), "at": time.time(), "end": True}))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
