"""End the sidecar: ask its admin listener to drain, and wait until it is gone. A sidecar that is gone already is a success."""

import argparse
import sys
import time

from robin.cli.ask import Answer, Unanswered, add_admin, admin_places, ask
from robin.cli.flags import seconds
from robin.transport.clock import SystemClock

POLL_S = 0.1


def configure(parser: argparse.ArgumentParser) -> None:
    """`--wait` and where to ask."""
    parser.add_argument("--wait", type=seconds, default=30.0, metavar="DURATION", help="longest wait for its end; 0: do not wait [30s]")
    add_admin(parser)


def run(args: argparse.Namespace) -> int:
    """0 it is gone (or draining, with --wait 0), 1 it is not, 2 usage."""
    places = admin_places(args)
    clock = SystemClock()
    deadline_at = clock.monotonic() + args.wait
    try:
        answer = ask(places, "POST", "/quitquitquit")
    except Unanswered as unanswered:
        if unanswered.gone:
            print(f"the sidecar has ended already: {unanswered}")
            return 0
        last = str(unanswered)  # it may be leaving right now
    else:
        if answer.status != 200:
            print(f"robin: {_refusal(answer)}", file=sys.stderr)
            return 1
        if args.wait == 0:
            print("draining")
            return 0
        last = "still draining; wait longer with --wait, or lower ROBIN_DRAIN_MAX"
    while (left_s := deadline_at - clock.monotonic()) > 0:
        try:
            ask(places, "GET", "/healthz", timeout_s=left_s)
        except Unanswered as unanswered:
            if unanswered.gone:
                print("the sidecar has ended")
                return 0
        time.sleep(min(POLL_S, max(0.0, deadline_at - clock.monotonic())))
    print(f"robin: the sidecar has not ended after {args.wait:g} s: {last}", file=sys.stderr)
    return 1


def _refusal(answer: Answer) -> str:
    if answer.status == 404:
        return "the sidecar does not offer POST /quitquitquit; set ROBIN_ADMIN_QUIT=true where the sidecar runs"
    if answer.status == 403:
        return "the sidecar accepts it only over loopback or a Unix socket; run this beside it, with --admin 127.0.0.1:PORT"
    return f"unexpected answer {answer.status}; does --admin name the sidecar's admin address?"
