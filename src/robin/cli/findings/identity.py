"""The identity: whether a token can be had, whether it is the right one, and whether this machine's clock agrees with it."""

import json
import os
import socket
import stat
from collections.abc import Iterator

from robin.cli.findings.finding import Finding, fail, from_detail, ok, warn
from robin.cli.one_token import NoToken, OneToken, fetch_one
from robin.config.settings import SidecarSettings
from robin.identity.settings import FileIdentitySettings, IdentitySettings
from robin.model.address import TcpAddress, UnixAddress
from robin.transport.clock import Clock
from robin.wire.jwt_inspection import NOT_BEFORE_LEEWAY_S, numeric_date

CONNECT_S = 2.0


def look(settings: SidecarSettings, clock: Clock) -> Iterator[Finding]:
    """The file or the Workload API, then one token."""
    identity = settings.identity
    if isinstance(identity, FileIdentitySettings):
        yield from _file(identity.token_file)
    else:
        yield from _workload_api(identity.spiffe_socket)
    try:
        token = fetch_one(identity, clock)
    except NoToken as none:
        yield from_detail("token", str(none))
        return
    yield from _token(identity, token)


def _file(path: str) -> Iterator[Finding]:
    try:
        found = os.stat(path)
    except OSError:
        return  # reading it gives the reason and the fix
    if not stat.S_ISREG(found.st_mode):
        return
    mode = f"mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid}"
    if found.st_mode & stat.S_IWOTH:
        yield fail("token file", f"{path} can be written by every user ({mode})", "chmod o-w it, or let the platform write it")
    elif found.st_mode & stat.S_IROTH:
        fix = "make it 0600 or 0640 with Robin's group; in a pod set defaultMode and fsGroup"
        yield warn("token file", f"{path} can be read by every user of this machine ({mode})", fix)
    else:
        yield ok("token file", f"{path} ({mode})")


def _workload_api(address: UnixAddress | TcpAddress) -> Iterator[Finding]:
    family, place = (
        (socket.AF_UNIX, address.path)
        if isinstance(address, UnixAddress)
        else (socket.AF_INET6 if ":" in address.host else socket.AF_INET, (address.host, address.port))
    )
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(place)
        except OSError as error:
            why = error.strerror or "no answer in time"
            yield fail("workload api", f"{address}: {why}", "start the SPIRE agent, mount its socket, or correct ROBIN_SPIFFE_SOCKET")
        else:
            yield ok("workload api", f"{address} accepts connections")


def _token(settings: IdentitySettings, token: OneToken) -> Iterator[Finding]:
    claims = token.laid_open.claims or {}
    if token.raw.warning:
        yield warn("token", token.raw.warning, "choose one")
    refused = [check for check in token.laid_open.checks if not check.passed]
    for check in refused:
        what = f"{check.code}: {check.text}"
        if check.code == "audience_mismatch":
            what += f": it has {json.dumps(claims.get('aud'))[:300]}, ROBIN_AUDIENCE is {json.dumps(settings.audience)}"
        yield fail(f"token {check.name}", what, check.fix)
    if not refused:
        results = "; ".join(f"{check.name}: {check.text}" for check in token.laid_open.checks)
        yield ok("token", results if claims else f"{results} (opaque: nothing else is checked)")
    yield from _clock(token, claims.get("iat"))


def _clock(token: OneToken, issued_at: object) -> Iterator[Finding]:
    issued = numeric_date(issued_at)
    if issued is None:
        return
    age_s = token.fetched_at - issued
    if age_s < -NOT_BEFORE_LEEWAY_S:
        yield fail("clock", f"the token was issued {-age_s:.0f} s in the future", "set this machine's clock, or the issuer's")
    elif age_s < 0:
        yield warn(
            "clock", f"the token was issued {-age_s:.0f} s in the future", "check the time service of this machine and of the issuer"
        )
    else:
        yield ok("clock", f"the token was issued {age_s:.0f} s ago")
