"""Run the main job on this machine: a development identity authority, a demonstration broker that verifies, and the sidecar between.

Nothing outside is contacted and nothing is left behind: Ctrl-C ends the sidecar, the servers and the temporary folder. With `--demo NAME`
it runs that demonstration instead, which checks what it shows and ends by itself.
"""

import argparse
import asyncio
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from robin.cli.flags import seconds
from robin.config.load import environment
from robin.testing.demos.catalog import DEMOS, find_demo
from robin.transport.clock import SystemClock
from robin.transport.tasks import TaskOwner

if TYPE_CHECKING:
    from robin.cli.live_view import LiveView
    from robin.testing.demonstration import Demonstration

EXIT_ENDED, EXIT_FAILED, EXIT_USAGE, EXIT_BIND, EXIT_HURRIED = 0, 1, 2, 3, 130
TICK_S = 0.25
ROTATE_LEAST_S, ROTATE_MOST_S = 1.0, 3600.0
_DEFAULTS = {"source": "file", "port": 4000, "rotate": 20.0}
_FIRST_PORT_MOST = 65531  # the ports of a demonstration are up to four in a row


def configure(parser: argparse.ArgumentParser) -> None:
    """The source, the port and the pace."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # a demonstration is a line
    parser.set_defaults(**_DEFAULTS)
    parser.add_argument("--source", choices=("file", "jwtsvid"), help="where the sidecar gets its identity [file]")
    parser.add_argument("--port", type=_port, metavar="PORT", help="the sidecar's port; its admin port is the next one [4000]")
    parser.add_argument("--rotate", type=_pace, metavar="DURATION", help="a new token this often, 1s to 1h [20s]")
    demos = parser.add_argument_group("demonstrations", "\n".join(f"{name}: {summary}" for name, summary in DEMOS.items()))
    demos.add_argument("--demo", choices=tuple(DEMOS), metavar="NAME", help=f"run one of {', '.join(DEMOS) or '(none yet)'}")
    demos.add_argument("--json", action="store_true", help="with --demo: print one JSON object")
    demos.add_argument("--keep", action="store_true", help="with --demo: stay up after the checks, until Ctrl-C")
    demos.add_argument(
        "--port-base", type=_first_port, metavar="PORT", help="with --demo: the first of its ports [grants: 18080; else free ones]"
    )


def run(args: argparse.Namespace) -> int:
    """0 ended by a signal, 1 a part failed, 2 usage, 3 a port is taken, 130 ended by a second signal; a demonstration: 0 it passed."""
    if args.demo is not None:
        given = [f"--{name}" for name, default in _DEFAULTS.items() if getattr(args, name) != default]
        if given:
            print(f"robin up: {', '.join(given)}: not for --demo; the ports of a demonstration begin at --port-base", file=sys.stderr)
            return EXIT_USAGE
        return asyncio.run(_run_demo(args))
    if args.json or args.keep or args.port_base is not None:
        print("robin up: --json, --keep and --port-base are for --demo NAME; robin up --help lists the demonstrations", file=sys.stderr)
        return EXIT_USAGE
    print("robin up: starting an identity authority, a demonstration broker and the sidecar ...", flush=True)
    return asyncio.run(_run(args))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65534:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65534, or 0 to let the kernel choose")
    return int(text)


def _first_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= _FIRST_PORT_MOST:
        raise argparse.ArgumentTypeError(f"the first of up to four ports is a number from 1 to {_FIRST_PORT_MOST}")
    return int(text)


def _pace(text: str) -> float:
    pace_s = seconds(text)
    if not ROTATE_LEAST_S <= pace_s <= ROTATE_MOST_S:
        raise argparse.ArgumentTypeError("use 1s to 1h")
    return pace_s


async def _run_demo(args: argparse.Namespace) -> int:
    from robin.testing.demos.demo import DemoRefused, run_demo  # noqa: PLC0415 - only a demonstration pays for it

    try:
        return await run_demo(args.demo, find_demo(args.demo), out=sys.stdout, as_json=args.json, keep=args.keep, port_base=args.port_base)
    except DemoRefused as refused:
        print(f"robin up: {refused}", file=sys.stderr)
        return EXIT_USAGE


async def _run(args: argparse.Namespace) -> int:
    from robin.cli.live_view import LiveView  # noqa: PLC0415 - the first line is on the screen before the rest is loaded
    from robin.testing.demonstration import Demonstration, PortTaken  # noqa: PLC0415
    from robin.testing.process import ChildFailed  # noqa: PLC0415

    signals: list[int] = []
    stop = asyncio.Event()
    environ = environment()
    live = sys.stdout.isatty() and environ.get("TERM", "dumb") != "dumb"
    view = LiveView(
        sys.stdout,
        clock=SystemClock(),
        live=live,
        colour=live and not environ.get("NO_COLOR"),
        width=shutil.get_terminal_size().columns,
        on_gone=stop.set,
    )
    demonstration = Demonstration(on_event=view.on_event, source=args.source, port=args.port, rotate_s=args.rotate)

    def signalled(number: int) -> None:
        signals.append(number)
        stop.set()
        if len(signals) > 1:
            demonstration.hurry()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled, number)
    try:
        why = await _serve(demonstration, view, stop)
    except PortTaken as taken:
        other = args.port + 1000 if args.port < 60000 else 4000
        why = f"{taken}; end what listens there, or take two others: robin up --port {other} (the admin port is the next one)"
        why += f", or make up ARGS='--port {other}'"
        print(f"robin up: {why}", file=sys.stderr)
        return EXIT_BIND
    except (ChildFailed, OSError) as error:
        why = str(error)
    if why is not None:
        print(f"robin up: {why}", file=sys.stderr)
        return EXIT_FAILED
    view.say("robin up: ended, nothing is left behind")
    return EXIT_HURRIED if len(signals) > 1 else EXIT_ENDED


async def _serve(demonstration: "Demonstration", view: "LiveView", stop: asyncio.Event) -> str | None:
    """Run it until `stop` (None) or until it cannot go on (why)."""
    tasks = TaskOwner(lambda _name, _error: None)  # each task's error is raised below, from its result

    async def show() -> str:
        async with demonstration:
            _introduce(view, demonstration)
            tasks.start(_tick(view), "tick")
            return await demonstration.ended()

    shown = tasks.start(show(), "demonstration")
    stopped = tasks.start(stop.wait(), "stop")
    await asyncio.wait((shown, stopped), return_when=asyncio.FIRST_COMPLETED)
    view.close()
    if not shown.done():
        view.say("robin up: ending; an exchange that still runs has 5 s (Ctrl-C again ends it at once)")
    await tasks.close()
    return None if shown.cancelled() else shown.result()


async def _tick(view: "LiveView") -> None:
    while True:
        view.tick()
        await asyncio.sleep(TICK_S)


def _introduce(view: "LiveView", demonstration: "Demonstration") -> None:
    from robin.testing.demonstration import AUDIENCE  # noqa: PLC0415 - it is loaded already when there is something to introduce

    url, admin = demonstration.sidecar.url, demonstration.sidecar.admin_url
    what = "the projected token file" if demonstration.source == "file" else "JWT-SVIDs, by a SPIFFE Workload API socket"
    stream = f"curl -N '{url}/stream?events=5'"
    view.say()
    view.say(f"  sidecar    {view.style('bold', url)}   adds the identity to every request (health: {admin}/readyz)")
    view.say(f"  broker     {demonstration.broker.url}   verifies it, and echoes what it saw")
    view.say(f"  authority  {demonstration.issuer}   signs {what}: a new token every {demonstration.rotate_s:g} s")
    view.say()
    view.say(f"  try        {view.style('bold', f'curl {url}/hello')}")
    view.say(f"             {view.style('bold', stream)}")
    view.say("  end        Ctrl-C: nothing is left behind")
    view.say()
    view.say("You need these lines only for a robin.env of your own, as in the how-to guides (start this with --port 5000 for them):")
    view.say("with them another Robin uses this broker and identity while this runs.")
    view.say(f"ROBIN_UPSTREAM_URL={demonstration.broker.url}")
    view.say(f"ROBIN_AUDIENCE={AUDIENCE}")
    if demonstration.source != "file":
        view.say(f"ROBIN_TOKEN_SOURCE={demonstration.source}")
    view.say(demonstration.identity)
    view.say()
    view.begin()
