"""This machine: who holds each address, the folder of a socket, the limit of open files, and proxy variables that Robin does not obey.

Who listens where Robin would is asked: an admin plane for its readiness, a proxy plane with a TRACE, which Robin refuses by itself. Neither
question carries a credential, and neither answer can come from another program by chance.
"""

import errno
import os
import resource
import stat
from collections.abc import Iterator, Mapping

from robin.cli.ask import Unanswered, ask, dialled
from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.config.settings import SidecarSettings
from robin.model.address import Address, TcpAddress, UnixAddress
from robin.transport.listen import BindError, bind

SPARE_FILES = 128  # standard streams, listeners, event loop, admin connections, token file
_OTHERWISE = " (if it is another one, yours cannot start: exit 3)"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def look(settings: SidecarSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Listeners, then limits, then the environment."""
    for variable, addresses in (
        ("ROBIN_LISTEN_UDS" if settings.listeners.peer_credentials else "ROBIN_LISTEN_ADDR", settings.listeners.proxy),
        ("ROBIN_ADMIN_ADDR", settings.listeners.admin),
    ):
        for address in addresses:
            yield _place(variable, address)
    yield _open_files(settings)
    proxies, exceptions = _present(environ, *_PROXIES), _present(environ, "NO_PROXY")
    if proxies:
        fix = "nothing, if the upstream is reached directly; Robin never sends an identity through such a proxy"
        yield warn("proxy variables", f"{', '.join(proxies + exceptions)}: set, but not obeyed", fix)


def _present(environ: Mapping[str, str], *names: str) -> list[str]:
    """Those that are set, in either case."""
    return [spelt for name in names for spelt in (name, name.lower()) if environ.get(spelt)]


def _robin_answers(variable: str, address: Address) -> bool:
    """Whether a Robin's plane of that variable is there. Raises Unanswered."""
    places = dialled(address)
    return ask(places, "GET", "/readyz").readiness if variable == "ROBIN_ADMIN_ADDR" else ask(places, "TRACE", "/").refusal


def _place(variable: str, address: Address) -> Finding:
    if isinstance(address, TcpAddress):
        return _port(variable, address)
    if isinstance(address, UnixAddress):
        return _socket_path(variable, address)
    return ok("listener", f"{address} of {variable}: systemd passes it at the start")


def _port(variable: str, address: TcpAddress) -> Finding:
    try:
        bound = bind(address, {}, lambda _event, _text: None)
    except BindError as error:
        if error.taken:
            return _taken(variable, address)
        what, _, why = str(error).partition(": ")
        why, _, fix = why.partition("; ")
        return fail("port", f"{what or address} of {variable}: {why}", fix or "choose a port above 1023 and an address of this machine")
    for one in bound:
        one.close()
    return ok("port", f"{address} of {variable} is free" if bound else f"{address}: skipped, this machine has no such address")


def _taken(variable: str, address: TcpAddress) -> Finding:
    try:
        ours = _robin_answers(variable, address)
    except Unanswered:
        ours = False
    if ours:
        return ok("port", f"{address} of {variable} is held by a running Robin{_OTHERWISE}")
    return fail(
        "port", f"{address} of {variable} is held by another program", f"change {variable}, or end that program (ss -ltnp shows it)"
    )


def _socket_path(variable: str, address: UnixAddress) -> Finding:
    path = address.path
    how = "can be made"
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return fail("socket", f"{path} of {variable} is not a socket", "remove it, or choose another path")
        if not _robin_answers(variable, address):
            return fail("socket", f"{path} of {variable} is served by another program", f"change {variable}, or end that program")
        return _folder(variable, path, f"is served by a running Robin{_OTHERWISE}")
    except Unanswered as unanswered:
        if unanswered.code in (errno.EACCES, errno.EPERM):
            return warn("socket", f"{path} of {variable} is not open to this user, so who serves it is unknown", "ask as Robin's user")
        if not unanswered.gone:
            return fail("socket", f"{path} of {variable} is served by another program", f"change {variable}, or end that program")
        how = "is a dead socket of an earlier run, which Robin replaces"
    except OSError:
        pass  # not there yet, or its folder is not
    parent = _parent(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        fix = "let Robin's user write there (systemd: RuntimeDirectory=robin)"
        return fail("socket", f"{path} of {variable}: {parent} cannot be written", fix)
    return _folder(variable, path, how)


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
        return warn("socket", f"{path} of {variable}: {parent} can be written by everybody", fix)
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
