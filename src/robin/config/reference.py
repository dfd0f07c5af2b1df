"""The reference page of the settings, made from the table: `python -m robin.config.reference > docs/reference/settings.md`.

A test holds the page equal to what this renders, so the table is the only place to change.
"""

from robin.config.table import SECTIONS, Setting

_HEAD = """\
# Settings

Made from the table in `src/robin/config/table.py` by `python -m robin.config.reference`; a test keeps it so.

Every setting can be given as a flag, as an environment variable, or in a file, and for each the strongest wins:
**flag > environment > file > default**. An empty value counts as unset. `robin check` shows what is in force and where it came from;
`robin check --json` does the same for programs.

| kind | written as |
|---|---|
| boolean | `true`, `false`, `1`, `0`; as flags `--admin-quit` and `--no-admin-quit` |
| duration | whole numbers with `ms`, `s`, `m` or `h`, repeatable: `500ms`, `10s`, `1h30m`; a bare number is refused, except `0` |
| size | a whole number of bytes, or one with `KiB` or `MiB` |
| list | items between commas, spaces and tabs around them trimmed; an empty item is an error; `none` is the empty list |
| address | `127.0.0.1:4000`, `[::1]:4000`, `localhost:4000` (both), `:4001` (every interface), `systemd:NAME` (a passed socket) |

A flag is the variable in lower case, with `-` for `_` and without the prefix: `ROBIN_TOKEN_FILE` is `--token-file`. The second column
below is the key in the section `sidecar` of [robin.yaml](#robinyaml).

No setting holds a token. `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are never obeyed; `robin doctor` reports them.
"""

_TAIL = """\
## The file

`ROBIN_CONFIG`, or `--config`, names a file in one of two formats; its first line that is neither blank nor a comment decides which.
Both set the settings of this page, except `ROBIN_CONFIG` itself. The file is a regular one that is not world-writable, in UTF-8 without
byte order mark and control characters, and its lines end in LF or CRLF. Symlinks are followed, since the files of a mounted ConfigMap are
symlinks.

### KEY=value lines

- At most 64 KiB; not named `.yaml`, `.yml`, `.json` or `.toml`.
- A line is blank, starts with `#`, or is `KEY=value`, with an optional `export ` before it. No space before the `=`.
- The value is trimmed, then loses one layer of matching `'` or `"`; text after the closing quote is an error. There are no escapes, no
  `${}`, no inline comments and no continuation lines.
- A key that is set twice is an error, and so is a key that is not a setting.

```
# /etc/robin/robin.env
ROBIN_UPSTREAM_URL=https://broker.example:8443
export ROBIN_AUDIENCE="broker.example"
```

### robin.yaml

One file for every plane: `version: 1`, and one section for each plane. The keys of the section `sidecar` are in the tables above.

```yaml
version: 1
sidecar:
  upstream: {url: "https://broker.example:8443"}
  identity:
    audience: broker.example
    min_validity: 10s
  listeners:
    proxy: ["127.0.0.1:4000", "[::1]:4000"]
    admin: []                          # none
  timeouts: {response: 30m}
```

- At most 1 MiB, 20000 values and 32 levels. One document. `robin schema sidecar` prints the JSON Schema of the section for editors.
- Refused: unknown and duplicate keys, anchors, aliases, tags, merge keys, directives, and `${NAME}`. There is no expansion of any kind.
- A list is a YAML list, and `[]` is the empty one. A duration is one number with one unit (`90m`, not `1h30m`; `0s`, not `0`). Booleans are
  `true` and `false`. What YAML 1.1 or 1.2 would read as something else than text is put in quotes: `unix_mode: "0660"`, `audience: "no"`.
- A key without a value, `null` and an empty text are refused: leave the key out.

## Errors

Every error is reported in one run, before anything is bound, one line each on standard error; the exit code is 2:

```
robin: ROBIN_UPSTREAM_URL is required: set it to https://host[:port][/base], or give --upstream-url
robin: ROBIN_DRAIN_MAX (from env): shorter than ROBIN_DRAIN_MIN (from flag); make ROBIN_DRAIN_MAX at least as long as ROBIN_DRAIN_MIN
robin: ROBIN_CONFIG (from flag): line 3: has no =; write KEY=value
robin.yaml:2:1: error: key_missing: sidecar.upstream.url is required. Fix: set it to https://host[:port][/base], or give --upstream-url.
robin.yaml:5:5: error: unknown_key: "token_fil" is not a key of sidecar.identity. Fix: write token_file (the nearest), or remove it.
```

A line about robin.yaml is `FILE:LINE:COL: error: CODE: message. Fix: ...`, and in `robin check --json` an entry of `diagnostics` with the
keys `file`, `line`, `col`, `severity`, `code`, `message` and `fix`. It names each setting by its place in the file. The codes:

| code | meaning |
|---|---|
| `yaml_invalid` | not YAML, not plain YAML (anchors, tags, duplicate keys), or beyond a limit |
| `unknown_key` | not a key at that place |
| `key_missing` | a required key is absent; the line is that of the section |
| `value_invalid` | of another type, or not a value of its kind |
| `env_expansion` | `${NAME}`, which is not expanded |
| `settings_conflict` | valid alone, but not together with another setting |
| `too_many_errors` | more than 50 errors; the rest is not shown |

A `ROBIN_` name that is not a setting is an error wherever it stands, so that a typo cannot open an allow-list; the message names the
nearest setting, where one is close.
In the environment only, the shapes that Kubernetes gives to a Service named `robin` are ignored: `ROBIN_[X_]SERVICE_HOST`,
`ROBIN_[X_]SERVICE_PORT[_N]` and `ROBIN_[X_]PORT[_n_PROTO[_PROTO|_PORT|_ADDR]]`.

These conflict, and are refused:

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
        parts.append(f"## {title}\n\n| variable | robin.yaml | default | kind and bounds | meaning |\n|---|---|---|---|---|\n{rows}\n")
    return "\n".join([*parts, _TAIL])


def _row(setting: Setting) -> str:
    kind = f"{setting.kind.name}: {setting.kind.bounds}" if setting.kind.bounds else setting.kind.name
    default = setting.default_text if setting.default is None else f"`{setting.default}`"
    sentence = setting.help[0].upper() + setting.help[1:]
    meaning = f"{sentence}. {setting.meaning}".rstrip()
    path = f"`{setting.path}`" if setting.path else ""
    return f"| `{setting.key}` | {path} | {default} | {kind} | {meaning} |".replace("\n", " ")


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201 - printing the page is what it is run for
