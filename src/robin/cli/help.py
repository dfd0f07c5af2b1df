"""The text of `robin --help`: what Robin is, how to start, the commands, every setting with its default, where to read on."""

from collections.abc import Iterable

from robin.config.table import SECTIONS

_WHAT = """\
robin - workload identity for programs that hold no credentials

Robin is a streaming HTTP proxy beside one workload. It holds the workload's short-lived identity (a projected
Kubernetes token or a SPIFFE JWT-SVID), keeps it fresh, and puts it as `Authorization: Bearer` on every outbound
request. The application holds no credential and speaks plain HTTP to Robin on loopback.

Start:
  robin --upstream-url https://broker.example:8443 --token-file /var/run/secrets/tokens/token
  curl http://127.0.0.1:4000/v1/models

Commands (robin COMMAND --help lists their flags):"""

_SETTINGS = """\

Settings, each as flag, environment variable, or in a file (--config, KEY=value lines or robin.yaml):
flag > environment > file > default. ROBIN_TOKEN_FILE is --token-file. Durations: 500ms, 10s, 1h30m. Sizes: 64KiB.
Lists: a,b or none. Booleans: true or false, as flags --admin-quit or --no-admin-quit. An empty value counts as unset.
An unknown ROBIN_ name is an error, except those that Kubernetes makes for a Service named robin, such as ROBIN_PORT."""

_MORE = """\

Exit codes: 0 drained; 1 internal error; 2 settings or usage; 3 cannot bind; 4 exchanges cut at the drain deadline;
5 no identity within ROBIN_STARTUP_TIMEOUT; 128+n second signal. Other commands: 0 yes, 1 no, 2 usage.

Read on: docs/tutorials to try it, docs/reference/settings.md for bounds and reasons, `robin check` for what is in
force here, `robin doctor` when something does not work."""


def overview(commands: Iterable[tuple[str, str]]) -> str:
    """The whole text; `commands` are names and what they do."""
    lines = [_WHAT, *(f"  {name:<12}{summary}" for name, summary in commands), _SETTINGS]
    for title, settings in SECTIONS:
        lines += ["", f"{title}:"]
        for setting in settings:
            default = "" if len(setting.default_text) > 30 else f" [{setting.default_text}]"
            choices = f"{setting.choices} " if setting.choices else ""
            lines.append(f"  {setting.key:<33}{choices}{setting.help}{default}")
            if not default:
                lines.append(f"  {'':<33}[{setting.default_text}]")
    return "\n".join([*lines, _MORE])
