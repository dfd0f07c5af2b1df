"""This machine: ports that are free, the folder of a socket, the limit of open files, and proxy variables that Robin does not obey."""

import os
import resource
import stat
from collections.abc import Iterator, Mapping

from robin.cli.ask import Unanswered, ask, dialled
from robin.cli.findings.finding import Finding, Health, fail, ok, warn
from robin.config.settings import Settings
from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress
from robin.transport.listen import BindError, bind

SPARE_FILES = 128  # standard streams, listeners, event loop, admin connections, token file
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def look(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Listeners, then limits, then the environment."""
    running = any(_robin_answers(address) for address in settings.admin)
    for variable, addresses in (
        ("ROBIN_LISTEN_UDS" if settings.peercred else "ROBIN_LISTEN_ADDR", settings.listen),
        ("ROBIN_ADMIN_ADDR", settings.admin),
    ):
        for address in addresses:
            yield _place(variable, address, running=running)
    yield _open_files(settings)
    present = [name for name in _PROXY_VARIABLES for name in (name, name.lower()) if environ.get(name)]
    if present:
        fix = "nothing, if the upstream is reached directly; Robin never sends an identity through such a proxy"
        yield warn("proxy variables", f"{', '.join(present)}: set, but not obeyed", fix)


def _robin_answers(address: Address) -> bool:
    try:
        return any(ask((place,), "GET", "/readyz").reasons for place in dialled(address))
    except Unanswered:
        return False


def _place(variable: str, address: Address, *, running: bool) -> Finding:
    if isinstance(address, TcpAddress):
        finding = _port(variable, address)
    elif isinstance(address, UnixAddress):
        finding = _socket_path(variable, address.path)
    else:
        assert isinstance(address, ActivatedAddress)
        return ok("listener", f"{address} of {variable}: systemd passes it at the start")
    if running and finding.health is Health.FAIL:
        return ok(finding.subject, f"{finding.what} (a running Robin answers at ROBIN_ADMIN_ADDR)")
    return finding


def _port(variable: str, address: TcpAddress) -> Finding:
    try:
        bound = bind(address, {}, lambda _event, _text: None)
    except BindError as error:
        what, _, why = str(error).partition(": ")
        why, _, fix = why.partition("; ")
        return fail("port", f"{what or address} of {variable}: {why}", fix or "choose a port above 1023 and an address of this machine")
    for one in bound:
        one.close()
    return ok("port", f"{address} of {variable} is free" if bound else f"{address}: skipped, this machine has no such address")


def _socket_path(variable: str, path: str) -> Finding:
    parent = os.path.dirname(path)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return fail("socket", f"{path} of {variable} is not a socket", "remove it, or choose another path")
    except OSError:
        pass  # not there yet, or its folder is not
    while not os.path.isdir(parent) and parent != "/":
        parent = os.path.dirname(parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        return fail(
            "socket", f"{path} of {variable}: {parent} cannot be written", "let Robin's user write there (systemd: RuntimeDirectory=robin)"
        )
    mode = os.stat(parent).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return warn(
            "socket", f"{path} of {variable}: {parent} can be written by everybody", "make it 0755: another user could replace the socket"
        )
    return ok("socket", f"{path} of {variable} can be made")


def _open_files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + settings.upstream_max_connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return ok("open files", f"{soft} allowed, {wanted} wanted at most")
    fix = f"ulimit -n {wanted} (systemd: LimitNOFILE={wanted}), or lower ROBIN_MAX_CONNECTIONS"
    return warn("open files", f"{soft} allowed (hard limit {hard}), {wanted} wanted at most", fix)
