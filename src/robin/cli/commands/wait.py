"""Wait until a Robin has started, or with `egress` until this pod's egress is proven closed. For scripts and init containers."""

import argparse
import sys
import time
from collections.abc import Callable

from robin.cli.ask import Unanswered, add_admin, admin_places, ask
from robin.cli.enforcement import add_gateway
from robin.cli.flags import seconds
from robin.transport.clock import Clock, SystemClock

POLL_S = 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """`--timeout` and where to ask; `egress` has flags of its own."""
    parser.usage = (
        "robin wait [--timeout DURATION] [--admin ADDR]\n"
        "       robin wait egress --gateway HOST:PORT --ca-file FILE [--forbid IP:PORT]... [--hold N] [--timeout DURATION]"
    )
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="DURATION", help="longest wait [60s]")
    add_admin(parser)
    actions = parser.add_subparsers(prog="robin wait", dest="action", metavar="egress")
    egress = actions.add_parser("egress", help="until the gateway's canary cannot be reached from here", allow_abbrev=False)
    add_gateway(egress)
    egress.add_argument("--hold", type=_rounds, default=3, metavar="N", help="rounds in a row that must agree [3]")
    egress.add_argument("--timeout", type=seconds, default=60.0, metavar="DURATION", help="longest wait [60s]")


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text[:20]!a} is not 1 to 100")
    return int(text)


def run(args: argparse.Namespace, clock: Clock | None = None, pause: Callable[[float], None] = time.sleep) -> int:
    """0 started, 1 not in time (the last reasons are printed), 2 usage; of `egress` also 3, 4 and 5. `pause` waits so many seconds."""
    clock = clock or SystemClock()
    if args.action == "egress":
        from robin.cli.wait_egress import wait_egress  # noqa: PLC0415 - it loads TLS

        return wait_egress(args, clock)
    places = admin_places(args)
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
            hint = f"{unanswered}; is it running, and is this its admin address? See --admin"
            last = hint if unanswered.gone else answered or hint  # a last call cut short by the deadline hides no reasons
        left_s = deadline_at - clock.monotonic()
        if left_s <= 0:
            print(f"robin: not started within {args.timeout:g} s: {last}", file=sys.stderr)
            return 1
        pause(min(POLL_S, left_s))
