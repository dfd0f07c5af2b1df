"""The flags of the settings, made from the table, and Settings or exit 2 from what was given."""

import argparse
import sys
from collections.abc import Container, Iterable
from typing import NoReturn

from robin.config.load import Loaded, Problem, environment, load, load_identity
from robin.config.parse import InvalidValue, duration
from robin.config.table import SECTIONS, SETTINGS, Setting
from robin.identity.settings import IdentitySettings

_WAIT = duration("0s")


def add_settings(parser: argparse.ArgumentParser, *, shown: Container[str] = SETTINGS) -> None:
    """A flag for each setting, in the sections of the table; the help lists those that are `shown`."""
    for title, settings in SECTIONS:
        group = parser.add_argument_group(title)
        for setting in settings:
            text = f"{setting.help} [{setting.default_text}]".replace("%", "%%")
            _add(group, setting, text if setting.key in shown else argparse.SUPPRESS)


def _add(group: argparse._ArgumentGroup, setting: Setting, text: str) -> None:
    if setting.kind.name == "boolean":
        group.add_argument(setting.flag, dest=setting.key, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        metavar = setting.choices or setting.kind.name.upper().replace(" ", "-")
        group.add_argument(setting.flag, dest=setting.key, metavar=metavar, default=None, help=text)


def add_grant(parser: argparse.ArgumentParser) -> None:
    """The flags with which a command is about one grant of the gateway."""
    group = parser.add_argument_group("a grant of the gateway, in place of the identity of the sidecar")
    group.add_argument("--grant", metavar="PROVIDER/CREDENTIAL", help="obtain this credential of the robin.yaml of --config once")
    group.add_argument("--grant-audience", metavar="AUDIENCE", help="with --grant: for this audience, where requests get tokens of several")


def given(args: argparse.Namespace) -> dict[str, str]:
    """The settings that were given as flags, as text by key."""
    chosen = {key: getattr(args, key) for key in SETTINGS if getattr(args, key, None) is not None}
    return {key: str(value).lower() if isinstance(value, bool) else value for key, value in chosen.items()}


def seconds(text: str) -> float:
    """A duration in the settings' own grammar, for flags that are no settings."""
    try:
        wait_s: float = _WAIT.parse(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.fix}") from None
    return wait_s


def load_or_exit(args: argparse.Namespace) -> Loaded:
    """The settings; when anything is wrong with them, every error on its own line of standard error, and exit 2."""
    outcome = load(given(args), environment())
    if isinstance(outcome, tuple):
        refuse(outcome)
    return outcome


def identity_or_exit(args: argparse.Namespace) -> IdentitySettings:
    """The same for the identity's settings alone."""
    outcome = load_identity(given(args), environment())
    if isinstance(outcome, tuple):
        refuse(outcome)
    return outcome


def refuse(errors: Iterable[Problem | str]) -> NoReturn:
    """Say what is wrong with the settings, and exit 2."""
    for error in errors:
        print(error, file=sys.stderr)
    raise SystemExit(2)
