"""Wait until the sidecar has started: its listeners are bound and a first usable identity was seen. For scripts and init containers."""

import argparse
import sys
import time

from robin.cli.ask import Unanswered, add_admin, admin_places, ask
from robin.cli.flags import seconds
from robin.transport.clock import Clock, SystemClock

POLL_S = 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """`--timeout` and where to ask."""
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="DURATION", help="longest wait [60s]")
    add_admin(parser)


def run(args: argparse.Namespace, clock: Clock | None = None) -> int:
    """0 started, 1 not in time (the last reasons are printed), 2 usage."""
    places = admin_places(args)
    clock = clock or SystemClock()
    deadline_at = clock.monotonic() + args.timeout
    answered = ""
    while True:
        left_s = deadline_at - clock.monotonic()
        try:
            answer = ask(places, "GET", "/startupz", timeout_s=left_s)
            if answer.status == 200:
                return 0
            last = answered = f"answer {answer.status}: {answer.reasons or 'no reasons given'}"
        except Unanswered as unanswered:
            hint = f"{unanswered}; is the sidecar running, and is its ROBIN_ADMIN_ADDR the same?"
            last = hint if unanswered.gone else answered or hint  # a last call cut short by the deadline hides no reasons
        left_s = deadline_at - clock.monotonic()
        if left_s <= 0:
            print(f"robin: not started within {args.timeout:g} s: {last}", file=sys.stderr)
            return 1
        time.sleep(min(POLL_S, left_s))
