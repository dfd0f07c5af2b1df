"""The way in for people: `robin [command] [flags]`; a command is one file, imported only when it is asked for.

Exit codes: planes 0 drained, 1 internal, 2 settings or usage, 3 cannot bind, 4 cut at the drain deadline, 5 start-up timeout, 128+n second
signal; other commands 0 yes, 1 no, 2 usage.
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Final, NoReturn

from robin.cli.output import is_of_output
from robin.transport.inspection import refuse_inspection


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name, the module in `cli/commands` that has `configure(parser)` and `run(args) -> int`, and what it does."""

    name: str
    summary: str

    @property
    def module(self) -> str:
        """Its module, by the one rule."""
        return f"robin.cli.commands.{self.name}"


COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("sidecar", "run the sidecar; plain `robin` does the same"),
        Command("gateway", "run the egress gateway: a forward proxy with rules"),
        Command("kube", "run the Kubernetes plane: a token is minted for each request of an agent"),
        Command("kubeconfig", "write a kubeconfig with which an agent reaches the Kubernetes plane"),
        Command("explain", "show what a plane would decide about a request; no network"),
        Command("up", "try it here: a development authority, a demonstration broker and the sidecar"),
        Command("broker", "issue passports to local peers, and verify them"),
        Command("passport", "ask the broker for a passport, verify one, make a bundle"),
        Command("check", "show every setting, its value and origin; no network"),
        Command("schema", "print the JSON Schema of a plane's section of robin.yaml"),
        Command("ca", "make a CA for the TLS bridge, publish what agents must trust, show a fingerprint"),
        Command("doctor", "look for what would go wrong, and show the fix"),
        Command("wait", "wait until a Robin has started, or until this pod's egress is closed"),
        Command("lockdown", "close this pod's own egress with nft, all but the gateway; for an init container"),
        Command("canary", "run the canary of an egress gateway: it accepts and closes"),
        Command("shutdown", "end the sidecar, for Jobs"),
        Command("token", "show the claims of the identity, never the token"),
        Command("audit", "verify an audit log, or show its last records; the sidecar writes none"),
    )
}


_CHOICE: Final = re.compile(r"argument (.+?): invalid choice: (.+) \(choose from (.+)\)", re.DOTALL)  # as argparse has it
_CHOICES: Final = re.compile(r"[^', ]+")
_FEW_CHOICES: Final = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Usage errors leave through SystemExit(2), as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a value must not break the message about it
    try:
        try:
            return _run(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if not is_of_output(error):
            raise
        if not isinstance(error, BrokenPipeError):  # of `robin check | head`: the reader has seen enough
            print(f"robin: the output cannot be written: {error.strerror}; write it elsewhere, or make space", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered would fail again
        return 1


def _run(words: list[str]) -> int:
    first = words[0] if words else ""
    if first in ("-h", "--help", "help"):
        from robin.cli.help import overview  # noqa: PLC0415 - only help pays for it

        print(overview((command.name, command.summary) for command in COMMANDS.values()))
        return 0
    if first in ("-V", "--version", "version"):
        from robin import __version__  # noqa: PLC0415

        print(f"robin {__version__}")
        return 0
    if first in COMMANDS:
        return _run_command(COMMANDS[first], words[1:])
    if first and not first.startswith("-"):
        return _unknown_command(first)
    return _run_command(COMMANDS["sidecar"], words)


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, with the fix."""

    def error(self, message: str) -> NoReturn:
        last = message.rpartition(" ")[2]
        fix = f"a command comes first: robin {last} ..." if last in COMMANDS else f"{self.prog} --help lists what there is"
        if message.startswith("argument ") and ": expected " not in message:
            fix = ""  # the message about a value has its own
        if found := _CHOICE.fullmatch(message):
            message, fix = _explain_choice(found[1].replace(" | ", " or "), found[2].strip("'\""), _CHOICES.findall(found[3])), ""
        if message.startswith("unrecognized arguments: --"):
            from robin.config.parse import nearest  # noqa: PLC0415 - only a mistake pays for it

            flag = message.split()[2].partition("=")[0]  # never its value, which may be a secret
            message = f"{flag} is not a flag of {self.prog}"
            meant = nearest(flag[2:], (known[2:] for known in self._option_string_actions if known.startswith("--")))
            fix = f"the nearest is --{meant}" if meant else fix
        plain = ascii(message.replace("'", ""))[1:-1][:300]  # of what argparse quotes, some is the user's text
        print(f"robin: {plain}; {fix}" if fix else f"robin: {plain}", file=sys.stderr)
        raise SystemExit(2)


def _explain_choice(name: str, given: str, known: list[str]) -> str:
    """The message about a word that is none of those that there are: all of a few, the nearest of many."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake pays for it

    near = get_close_matches(given[:80], known, n=3)
    if near or len(known) <= _FEW_CHOICES:
        return f"{given[:80]} is no {name}; " + (f"the nearest: {', '.join(near)}" if near else f"use {', '.join(known)}")
    return f"{given[:80]} is no {name}; the reference pages list what there is"


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of one command, with its flags."""
    module = import_module(command.module)
    usage = f"robin {command.name} [flags]"
    parser = _Parser(prog=f"robin {command.name}", usage=usage, description=module.__doc__, allow_abbrev=False)
    module.configure(parser)
    return parser


def _run_command(command: Command, words: list[str]) -> int:
    args = parser_of(command).parse_args(words)
    refuse_inspection()  # before anything is read that may be secret
    code: int = import_module(command.module).run(args)
    return code


def _unknown_command(word: str) -> int:
    from robin.config.parse import nearest  # noqa: PLC0415 - only a mistake pays for it

    meant = nearest(word, COMMANDS)
    advice = f"the nearest is {meant}; " if meant else ""
    print(f"robin: {word[:80]!a} is not a command; {advice}robin --help lists them", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
