"""The way in for people: `robin [command] [flags]`; a command is one file, imported only when it is asked for.

Exit codes: planes 0 drained, 1 internal, 2 settings or usage, 3 cannot bind, 4 cut at the drain deadline, 5 start-up timeout, 128+n second
signal; other commands 0 yes, 1 no, 2 usage.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn


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
        Command("up", "try it here: a development authority, a demonstration broker and the sidecar"),
        Command("check", "show every setting, its value and origin; no network"),
        Command("schema", "print the JSON Schema of a plane's section of robin.yaml"),
        Command("doctor", "look for what would go wrong, and show the fix"),
        Command("wait", "wait until the sidecar has started"),
        Command("shutdown", "end the sidecar, for Jobs"),
        Command("token", "show the claims of the identity, never the token"),
        Command("audit", "verify an audit log, or show its last records; the sidecar writes none"),
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Usage errors leave through SystemExit(2), as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a value must not break the message about it
    try:
        return _run(words)
    except BrokenPipeError:  # `robin check | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


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
        if message.startswith("unrecognized arguments: --"):
            from robin.config.parse import nearest  # noqa: PLC0415 - only a mistake pays for it

            flag = message.split()[2].partition("=")[0]  # never its value, which may be a secret
            message = f"{flag} is not a flag of {self.prog}"
            meant = nearest(flag[2:], (known[2:] for known in self._option_string_actions if known.startswith("--")))
            fix = f"the nearest is --{meant}" if meant else fix
        plain = ascii(message.replace("'", ""))[1:-1][:300]  # of what argparse quotes, some is the user's text
        print(f"robin: {plain}; {fix}" if fix else f"robin: {plain}", file=sys.stderr)
        raise SystemExit(2)


def parser_of(command: Command) -> argparse.ArgumentParser:
    """The parser of one command, with its flags."""
    module = import_module(command.module)
    usage = f"robin {command.name} [flags]"
    parser = _Parser(prog=f"robin {command.name}", usage=usage, description=module.__doc__, allow_abbrev=False)
    module.configure(parser)
    return parser


def _run_command(command: Command, words: list[str]) -> int:
    args = parser_of(command).parse_args(words)
    code: int = import_module(command.module).run(args)
    sys.stdout.flush()
    return code


def _unknown_command(word: str) -> int:
    from robin.config.parse import nearest  # noqa: PLC0415 - only a mistake pays for it

    meant = nearest(word, COMMANDS)
    advice = f"the nearest is {meant}; " if meant else ""
    print(f"robin: {word[:80]!a} is not a command; {advice}robin --help lists them", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
