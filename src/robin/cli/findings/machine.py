"""This machine: who holds each address, the folder of a socket, the limit of open files, and proxy variables that Robin does not obey.

A running Robin is recognised by its admin listener alone: /readyz shows that it is one, and /metrics where its proxy listens. No request is
sent to the place of a proxy, where it would be logged and counted as one of a caller.
"""

import errno
import os
import re
import resource
import socket
import stat
from collections.abc import Iterator, Mapping

from robin.cli.ask import Unanswered, ask, dialled
from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.config.settings import SidecarSettings
from robin.model.address import Address, TcpAddress, UnixAddress
from robin.transport.listen import BindError, bind

SPARE_FILES = 128  # standard streams, listeners, event loop, admin connections, token file
_HELD = "nothing, if it is the Robin that you mean; another one cannot start there (exit 3)"
_CONNECT_S = 2.0
_DEAD = frozenset((errno.ECONNREFUSED, errno.ENOENT))
_LISTENER = re.compile(r'^robin_downstream_connections\{[^}]*listener="([^"]*)"', re.MULTILINE)
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def look(settings: SidecarSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Listeners, then limits, then the environment."""
    held = _held_by_robin(settings.listeners.admin)
    for variable, addresses in (
        ("ROBIN_LISTEN_UDS" if settings.listeners.on_unix_socket else "ROBIN_LISTEN_ADDR", settings.listeners.proxy),
        ("ROBIN_ADMIN_ADDR", settings.listeners.admin),
    ):
        for address in addresses:
            yield _place(variable, address, held)
    yield _open_files(settings)
    proxies, exceptions = _present(environ, *_PROXIES), _present(environ, "NO_PROXY")
    if proxies:
        fix = "nothing, if the upstream is reached directly; Robin never sends an identity through such a proxy"
        yield warn("proxy variables", f"{', '.join(proxies + exceptions)}: set, but not obeyed", fix)


def _present(environ: Mapping[str, str], *names: str) -> list[str]:
    """Those that are set, in either case."""
    return [spelt for name in names for spelt in (name, name.lower()) if environ.get(spelt)]


Held = frozenset[tuple[str, str]]  # variables and addresses


def _held_by_robin(admin: tuple[Address, ...]) -> Held:
    """The admin addresses at which a Robin answers, and where the proxies of these listen."""
    held = set()
    for address in admin:
        places = dialled(address)
        try:
            if not places or not ask(places, "GET", "/readyz").readiness:
                continue
            held.add(("ROBIN_ADMIN_ADDR", str(address)))
            metrics = ask(places, "GET", "/metrics").body.decode("ascii", "replace")
        except Unanswered:
            continue
        held |= {(variable, listener) for listener in _LISTENER.findall(metrics) for variable in ("ROBIN_LISTEN_ADDR", "ROBIN_LISTEN_UDS")}
    return frozenset(held)


def _place(variable: str, address: Address, held: Held) -> Finding:
    by_robin = (variable, str(address)) in held
    if isinstance(address, TcpAddress):
        return _port(variable, address, by_robin=by_robin)
    if isinstance(address, UnixAddress):
        return _socket_path(variable, address, by_robin=by_robin)
    return ok("listener", f"{address} of {variable}: systemd passes it at the start")


def _port(variable: str, address: TcpAddress, *, by_robin: bool) -> Finding:
    try:
        bound = bind(address, {}, lambda _event, _text: None)
    except BindError as error:
        if error.taken:
            return _taken(variable, address, by_robin=by_robin)
        what, _, why = str(error).partition(": ")
        why, _, fix = why.partition("; ")
        return fail("port", f"{what or address} of {variable}: {why}", fix or "choose a port above 1023 and an address of this machine")
    for one in bound:
        one.close()
    return ok("port", f"{address} of {variable} is free" if bound else f"{address}: skipped, this machine has no such address")


def _taken(variable: str, address: TcpAddress, *, by_robin: bool) -> Finding:
    if by_robin:
        return warn("port", f"{address} of {variable} is held by a running Robin", _HELD)
    return fail(
        "port", f"{address} of {variable} is held by another program", f"change {variable}, or end that program (ss -ltnp shows it)"
    )


def _socket_path(variable: str, address: UnixAddress, *, by_robin: bool) -> Finding:
    path = address.path
    if by_robin:
        return warn("socket", f"{path} of {variable} is served by a running Robin", _HELD)
    how = "can be made"
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return fail("socket", f"{path} of {variable} is not a socket", "remove it, or choose another path")
        code = _connect_code(path)
        if code in (errno.EACCES, errno.EPERM):
            return warn("socket", f"{path} of {variable} is not open to this user, so who serves it is unknown", "ask as Robin's user")
        if code not in _DEAD:
            return fail("socket", f"{path} of {variable} is served by another program", f"change {variable}, or end that program")
        how = "is a dead socket of an earlier run, which Robin replaces"
    except OSError:
        pass  # not there yet, or its folder is not
    parent = _parent(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        fix = "let Robin's user write there (systemd: RuntimeDirectory=robin)"
        return fail("socket", f"{path} of {variable}: {parent} cannot be written", fix)
    return _folder(variable, path, how)


def _connect_code(path: str) -> int | None:
    """Connect and send nothing. The errno, None where there is none: something accepts, or does not respond."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(path)
        except OSError as error:
            return error.errno
    return None


def _parent(path: str) -> str:
    """The nearest folder of `path` that is there already."""
    parent = os.path.dirname(path)
    while not os.path.isdir(parent) and parent != "/":
        parent = os.path.dirname(parent)
    return parent


def _folder(variable: str, path: str, how: str) -> Finding:
    parent = _parent(path)
    mode = os.stat(parent).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        fix = "make it 0755: another user could replace the socket"
        return warn("socket", f"{path} of {variable}: {parent} can be written by every user", fix)
    return ok("socket", f"{path} of {variable} {how}")


def _open_files(settings: SidecarSettings) -> Finding:
    """The hard limit counts: the sidecar raises the soft one to it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.limits.connections + settings.limits.upstream_connections + SPARE_FILES
    allowed = "any number" if hard == resource.RLIM_INFINITY else str(hard)
    what = f"{allowed} allowed at most (`ulimit -Hn`), {wanted} wanted at most"
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return ok("open files", what)
    return warn("open files", what, f"ulimit -Hn {wanted} (systemd: LimitNOFILE={wanted}), or lower ROBIN_MAX_CONNECTIONS")
