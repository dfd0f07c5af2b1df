"""The reference page of the settings, made from the table: `python -m robin.config.reference > docs/reference/settings.md`.

A test holds the page equal to what this renders, so the table is the only place to change.
"""

from robin.config.table import SECTIONS, Setting

_HEAD = """\
# Settings

Made from the table in `src/robin/config/table.py` by `python -m robin.config.reference`; a test keeps it so.

Every setting is one flat scalar. It can be given as a flag, as an environment variable, or as a line of a file, and for each key the
strongest wins: **flag > environment > file > default**. An empty value counts as unset. `robin check` shows what is in force and where it
came from; `robin check --json` says the same to machines.

| kind | written as |
|---|---|
| boolean | `true`, `false`, `1`, `0`; as flags `--admin-quit` and `--no-admin-quit` |
| duration | whole numbers with `ms`, `s`, `m` or `h`, repeatable: `500ms`, `10s`, `1h30m`; a bare number is refused, except `0` |
| size | a whole number of bytes, or one with `KiB` or `MiB` |
| list | items between commas, spaces and tabs around them trimmed; an empty item is an error; `none` is the empty list |
| address | `127.0.0.1:4000`, `[::1]:4000`, `localhost:4000` (both), `:4001` (every interface), `systemd:NAME` (a passed socket) |

A flag is the variable in lower case, with `-` for `_` and without the prefix: `ROBIN_TOKEN_FILE` is `--token-file`.

No setting holds a token. `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are never obeyed; `robin doctor` says so.
"""

_TAIL = """\
## The file

`ROBIN_CONFIG`, or `--config`, names a file of `KEY=value` lines with the variables of this page, except `ROBIN_CONFIG` itself.

- UTF-8 without byte order mark and without control characters; at most 64 KiB; lines end in LF or CRLF; a regular file that not everybody
  can write; not named `.yaml`, `.yml`, `.json` or `.toml`.
- A line is blank, starts with `#`, or is `KEY=value`, with an optional `export ` before it. No space before the `=`.
- The value is trimmed, then loses one layer of matching `'` or `"`; text after the closing quote is an error. There are no escapes, no
  `${}`, no inline comments and no continuation lines.
- A key that is set twice is an error, and so is a key that is no setting.

```
# /etc/robin/robin.env
ROBIN_UPSTREAM_URL=https://broker.example:8443
export ROBIN_AUDIENCE="broker.example"
```

## Errors

Everything that is wrong is said in one run, before anything is bound, one line each on standard error; the exit code is 2:

```
robin: ROBIN_UPSTREAM_URL is required: set it to https://host[:port][/base], or give --upstream-url
robin: ROBIN_DRAIN_MAX (from env): shorter than ROBIN_DRAIN_MIN (from flag); make ROBIN_DRAIN_MAX at least as long as ROBIN_DRAIN_MIN
robin: ROBIN_CONFIG (from flag): line 3: has no =; write KEY=value
```

A `ROBIN_` name that is no setting is an error wherever it stands, so that a typo cannot open an allow-list; the message names the one
that was most likely meant, where one is close.
In the environment only, the shapes that Kubernetes gives to a Service named `robin` are ignored: `ROBIN_[X_]SERVICE_HOST`,
`ROBIN_[X_]SERVICE_PORT[_N]` and `ROBIN_[X_]PORT[_n_PROTO[_PROTO|_PORT|_ADDR]]`.

These clash, and are refused:

| settings | fix |
|---|---|
| `http:` upstream that is not loopback | `https:`, or `ROBIN_UNSAFE_UPSTREAM_HTTP` |
| upstream that is one of Robin's own addresses | name the broker |
| a proxy address beyond loopback | loopback, or `ROBIN_UNSAFE_LISTEN` |
| `ROBIN_LISTEN_UDS` with `ROBIN_LISTEN_ADDR` | one of them |
| `ROBIN_PEERCRED_ALLOW_UIDS` without `ROBIN_LISTEN_UDS` | set the socket, or drop the list |
| an admin address that is also a proxy address | another port or path |
| `ROBIN_ADMIN_QUIT` with `ROBIN_ADMIN_ADDR=off` | one of them |
| source `jwtsvid` without `ROBIN_AUDIENCE`, or without a Workload API address | set them |
| format `opaque` with source `jwtsvid`, or with `ROBIN_AUDIENCE` | format `jwt` |
| `ROBIN_DRAIN_MAX` shorter than `ROBIN_DRAIN_MIN` | make it longer |
"""


def settings_page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, settings in SECTIONS:
        rows = "\n".join(_row(setting) for setting in settings)
        parts.append(f"## {title}\n\n| variable | default | kind and bounds | meaning |\n|---|---|---|---|\n{rows}\n")
    return "\n".join([*parts, _TAIL])


def _row(setting: Setting) -> str:
    kind = f"{setting.kind.name}: {setting.kind.bounds}" if setting.kind.bounds else setting.kind.name
    default = setting.default_text if setting.default is None else f"`{setting.default}`"
    sentence = setting.help[0].upper() + setting.help[1:]
    meaning = f"{sentence}. {setting.meaning}".rstrip()
    return f"| `{setting.key}` | {default} | {kind} | {meaning} |".replace("\n", " ")


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201 - printing the page is what it is run for
