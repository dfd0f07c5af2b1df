"""`robin gateway --init DIR`: what one machine without Kubernetes needs for programs behind a gateway. Nothing that is there is replaced.

The folder `agent` is what the programs get: `env.sh`, `ca.crt`, `bundle.crt` and the socket of the gateway. The rest is for the gateway and
its operator; `sandbox` runs a command that sees nothing of it.
"""

import datetime
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Final

from robin.cli.gateway_profiles import KEYS, PLACEHOLDER, PLACEHOLDER_VARIABLES, PROFILES
from robin.cli.new_files import write_new
from robin.config.addresses import UNIX_PATH_BYTES
from robin.config.agent_environment import agent_environment, as_exports, quoted
from robin.config.program import program_name
from robin.transport.public_roots import public_roots

_PORT: Final = 8081
LISTEN: Final = f"127.0.0.1:{_PORT}"
_NOBODY: Final = 65534
_DAYS: Final = 365
_FOLDERS: Final = {"": 0o755, "ca": 0o700, "keys": 0o700, "profiles": 0o755, "agent": 0o755}

_ROBIN_YAML: Final = """\
# Made by `robin gateway --init`. docs/reference/gateway.md has every key.
# A change is in force within seconds, all of it or nothing: `robin check --config {yaml}` shows what is wrong with it.
version: 1
gateway:
  listeners:
    # Loopback needs no credential: every program of this machine is the caller `local`.
    - {{name: proxy, listen: "{listen}"}}
{sandbox}
  policy:
    # report: what no rule allows passes all the same, without a credential, and is recorded with `would_deny`.
    # Look at `robin audit tail --calls {audit}`, add the rules that are missing, then write enforce.
    mode: report
    rules:
      # One rule for each thing that the programs need. A rule with methods or paths opens TLS with the CA below and sees
      # each request; one without either leaves TLS closed. `robin explain gateway` shows what a request would get.
      - {{name: git-read, hosts: [github.com], methods: [GET, POST],
         paths: ["/*/*/info/refs", "/*/*/git-upload-pack"]}}
      - {{name: npm, hosts: [registry.npmjs.org], methods: [GET, HEAD]}}
      - {{name: pip, hosts: [pypi.org, files.pythonhosted.org], methods: [GET, HEAD]}}

  # Credentials: each is written into requests to its own host, and no program sees it. Put a key into its file, and take the
  # mark "#: " off `providers` and off its line. A provider allows its hosts; a key that is not there fails its own requests.
  # `callers` are those of the sandbox; add local for every other program and user of this machine.
  profiles: ["profiles/*.yaml"]
#:   providers:
{providers}
  bridge: {{slots: {{a: {ca}}}}}

  drain: {{min: 0s}}   # nothing else has to notice that it ends

  # Probes and metrics.
  admin: {{listen: "127.0.0.1:9464"}}

  # What was asked for and decided, one record each: `robin audit verify` shows that none was changed.
  audit: {{file: {audit}}}
"""

_SOCKET: Final = """\
    # For the script `sandbox`; the caller is `unix:UID`.
    - {{name: sandbox, listen: {listen}, auth: unix, uids: [{uid}]}}
"""

_SANDBOX: Final = """\
#!/bin/sh
# Runs a command that has no network but the gateway's socket, no key in its environment, and of the files only the programs
# of the system, the folder it is started in, and {comment}. Needs bubblewrap and socat.
# Programs in other places than /usr need a line of their own, such as: --ro-bind /opt /opt
# A program that uses the terminal needs it without --new-session; do that only where `sysctl dev.tty.legacy_tiocsti` is 0.
[ $# -gt 0 ] || {{ echo "usage: $0 COMMAND [ARGUMENT]..." >&2; exit 2; }}
here=$(pwd -P)
case {folder}/ in
  "${{here%/}}"/*) echo "robin: this folder holds that of the gateway, with its keys; start it in another one" >&2; exit 2 ;;
esac
case "$here"/ in
  {folder}/*) echo "robin: this is the gateway's own folder; start it in another one" >&2; exit 2 ;;
esac
exec bwrap --unshare-all --die-with-parent --new-session --clearenv \\
  --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/sbin /sbin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \\
  --ro-bind-try /etc/passwd /etc/passwd --ro-bind-try /etc/group /etc/group --ro-bind-try /etc/alternatives /etc/alternatives \\
  --ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/ssl /etc/ssl --ro-bind-try /etc/pki /etc/pki \\
  --proc /proc --dev /dev --tmpfs /tmp --ro-bind {agent} {agent} --bind "$here" "$here" --chdir "$here" \\
  --setenv PATH /usr/local/bin:/usr/bin:/bin --setenv HOME "$here" --setenv TERM "${{TERM:-dumb}}" \\
  /bin/sh -c '. "$0/env.sh"
    socat TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork "UNIX-CONNECT:$0/proxy.sock" &
    until grep -q ":{port:04X} 00000000:0000 0A" /proc/net/tcp; do sleep 0.02; done
    exec "$@"' {agent} "$@"
"""

_ENV_SH: Final = """\
# For programs behind the gateway: . {path}
# No value here is a secret.
# Java and Go on macOS read none of it, and aiohttp only with trust_env=True; see docs/how-to/give-an-agent-the-internet.md.
"""


def write_folder(name: str) -> int:
    """Write the folder, and print what to do next. Returns 0, or 1 where something is there already or cannot be written."""
    folder = Path(name).resolve()
    if not str(folder).isprintable():
        return _refuse("the name of the folder has characters that cannot be shown; name another one")
    roots = public_roots(named=False)
    if not roots:
        return _refuse("this machine has no file of public roots; install ca-certificates")
    files = _files(folder, roots)
    present = [path for path in files if path.is_symlink() or path.exists()]
    if present:
        return _refuse(f"{present[0]} is there already, and nothing was written; name another folder")
    written: list[Path] = []
    try:
        for part, mode in _FOLDERS.items():
            (folder / part).mkdir(mode=mode, parents=True, exist_ok=True)
        for path, (content, mode) in files.items():
            write_new(path, content, mode)
            written.append(path)
    except OSError as error:
        for path in written:  # a part of it would stand in the way of the next attempt
            path.unlink(missing_ok=True)
        return _refuse(f"{error.filename or folder}: {error.strerror}")
    for line in _next_steps(folder):
        print(line)
    return 0


def _next_steps(folder: Path) -> tuple[str, ...]:
    yaml, keys, sandbox, env_sh = (quoted(str(folder / name)) for name in ("robin.yaml", "keys", "sandbox", "agent/env.sh"))
    return (
        f"{quoted(program_name())} gateway --config {yaml}   # run it; at first with mode: report, so what no rule allows passes",
        f"{sandbox} COMMAND   # run a program that has no network but the gateway, and no key",
        f". {env_sh}   # or, without a sandbox, in the shell of the programs, which need the files of agent/ and no others",
        f"# keys: a file for each in {keys}, then take the marks #: off in robin.yaml",
    )


def _refuse(text: str) -> int:
    print(f"robin: {text}", file=sys.stderr)
    return 1


def _files(folder: Path, roots: bytes) -> dict[Path, tuple[bytes, int]]:
    """Content and mode by path. The key is made here, for this folder alone."""
    from robin.planes.gateway.new_authority import make_authority  # noqa: PLC0415 - cryptography is loaded only here

    name = f"robin-bridge-ca-{secrets.token_hex(4)}"
    certificate, key = make_authority(name, days=_DAYS, permit_dns=[], now=datetime.datetime.now(datetime.UTC))  # noqa: TID251 - a command
    agent, yaml = folder / "agent", folder / "robin.yaml"
    places = {"ca": folder / "ca", "audit": folder / "audit.jsonl"}
    sandboxed, caller = _socket(agent / "proxy.sock")
    parts = {"sandbox": sandboxed, "providers": _providers(folder, caller)}
    written = {key: json.dumps(str(path)) for key, path in places.items()}
    text = _ROBIN_YAML.format(yaml=yaml, listen=LISTEN, **parts, **written)
    sandbox = _SANDBOX.format(folder=quoted(str(folder)), agent=quoted(str(agent)), comment=agent, port=_PORT)
    trust = {"ca_file": str(agent / "ca.crt"), "bundle_file": str(agent / "bundle.crt")}
    environment = dict.fromkeys(PLACEHOLDER_VARIABLES, PLACEHOLDER) | agent_environment(proxy_url=f"http://{LISTEN}", **trust)
    env_sh = _ENV_SH.format(path=quoted(str(agent / "env.sh"))) + as_exports(environment)
    return {
        yaml: (text.encode(), 0o644),
        folder / "sandbox": (sandbox.encode(), 0o755),
        folder / "ca" / "tls.key": (key, 0o600),
        folder / "ca" / "tls.crt": (certificate, 0o644),
        agent / "ca.crt": (certificate, 0o644),
        agent / "bundle.crt": (certificate + roots, 0o644),
        agent / "env.sh": (env_sh.encode(), 0o644),
        **{folder / "profiles" / f"{name}.yaml": (profile.encode(), 0o644) for name, profile in PROFILES.items()},
    }


def _providers(folder: Path, callers: str) -> str:
    """One line for each profile, marked so that none is in force yet."""
    files = {profile: json.dumps(str(folder / "keys" / KEYS[profile])) for profile in PROFILES}
    return "".join(f"#:     - {{profile: {profile}, callers: [{callers}], files: {{token: {file}}}}}\n" for profile, file in files.items())


def _socket(path: Path) -> tuple[str, str]:
    """The listener for the sandbox and its caller; none, and `local`, where its path is too long for a socket or the user is unmapped."""
    uid = os.getuid()
    if len(os.fsencode(path)) > UNIX_PATH_BYTES or uid == _NOBODY:
        return "", "local"
    return _SOCKET.format(listen=json.dumps(f"unix:{path}"), uid=uid), f'"unix:{uid}"'
