"""The network of an agent behind a gateway: relay, gateway, which CA signs there, name servers, and whether egress is closed.

One request for a name that no host has goes through the proxy: what refuses it shows how far it came. It is in the gateway's records.
"""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from robin.cli.enforcement import Document, GatewayPlace, GatewayReader, GatewayUnreachable, Place, shown_place
from robin.cli.findings.egress_environment import Trusted
from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.cli.nft_table import name_servers
from robin.cli.wait_egress import NOT_ENFORCED, prove, trusting
from robin.transport.clock import Clock
from robin.transport.tls import TlsFileError, new_context

_WAIT_S: Final = 5.0
_DNS_S: Final = 2.0
_NOBODY: Final = "robin-doctor.invalid"
_STATUS: Final = re.compile(r'[a-z0-9-]{1,63}; error=[a-z_]+; details="([a-z_]+)"')
_FIXES: Final = {
    "parent_refused": "look at the token of the relay, and at the issuer and audience of the gateway's listener",
    "parent_unreachable": "look at --parent and --ca-file of the relay, and at the NetworkPolicy",
    "identity_unavailable": "mount the projected token in the relay",
    "identity_malformed": "mount the projected token in the relay",
    "caller_unauthenticated": "start the relay, which authenticates for the agent, and name it in the proxy variables",
    "caller_token_invalid": "start the relay, which authenticates for the agent, and name it in the proxy variables",
}


def look_at_relay(place: Place | None) -> Iterator[Finding]:
    """The proxy that the variables name."""
    if place is None:
        return
    call = http.client.HTTPConnection(*place, timeout=_WAIT_S)
    try:
        call.request("GET", f"http://{_NOBODY}/", headers={"Host": _NOBODY, "Connection": "close"})
        response = call.getresponse()
        found = _STATUS.fullmatch(response.getheader("Proxy-Status", ""))
    except (OSError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        yield fail("relay_unreachable", f"the proxy at {shown_place(place)} gives no answer: {why}", "start the relay before the agent")
        return
    finally:
        call.close()
    if found is None:
        yield fail("relay_foreign", f"what answers at {shown_place(place)} is no Robin, or lets {_NOBODY} pass", "name the relay")
    elif fix := _FIXES.get(found[1]):
        yield fail(found[1], f"the proxy at {shown_place(place)} answers {response.status} {found[1]}", fix)
    else:
        yield ok("relay", f"the proxy at {shown_place(place)} brings requests to the gateway, which answered {found[1]}")


def look_at_gateway(place: GatewayPlace | None, trusted: Trusted, forbidden: tuple[Place, ...], clock: Clock) -> Iterator[Finding]:
    """The gateway, what signs there, and the probe."""
    if place is None:
        yield warn("gateway_unknown", "neither the gateway's CA nor the probe was looked at", "give --gateway HOST:PORT")
        return
    context = None
    if place.ca_file is not None:
        try:
            context = trusting(place.ca_file)
        except (TlsFileError, OSError):
            context = unverified()  # that the file is no use is a finding already
    reader = GatewayReader(place, clock, context)
    try:
        try:
            document = reader.read()
        except GatewayUnreachable as error:
            fix = error.fix or "look at the NetworkPolicy, and at the Service"
            yield fail("gateway_unreachable", f"the gateway gives no answer: {error}", fix)
            if context is not None and not error.fix:
                yield from _stale(GatewayReader(place, clock, unverified()), trusted)
            return
        yield ok("gateway", f"the gateway at {place} answers")
        yield from _compare(document, trusted)
        yield _verdict(*prove(reader, place, forbidden, clock, hold=1, within_s=0.0))
    finally:
        reader.close()


def unverified() -> ssl.SSLContext:
    """Only to find out what signs there: nothing that is read so is relied on."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _stale(reader: GatewayReader, trusted: Trusted) -> Iterator[Finding]:
    try:
        yield from _compare(reader.read(), trusted)
    except GatewayUnreachable:
        return
    finally:
        reader.close()


def _compare(document: Document, trusted: Trusted) -> Iterator[Finding]:
    missing = [digest for digest in document.ca if digest not in trusted.cas]
    if missing:
        has = ", ".join(trusted.cas) or "none"
        text = f"the gateway has the CA {', '.join(missing)}, which is not in {trusted.path}; there: {has}"
        yield fail("ca_stale", text, "publish it: robin ca bundle; a program that has read the old file must start again")
    elif document.ca:
        yield ok("ca", f"{trusted.path} has each CA of the gateway")


def _verdict(code: int, said: str) -> Finding:
    if code == 0:
        return ok("egress_closed", said)
    if code == NOT_ENFORCED:
        return fail("egress_open", said, "look at the NetworkPolicy robin-agent-egress, and whether the cluster enforces any")
    return fail("egress_unproven", said, "set gateway.canary, and look at the canary")


def look_at_dns(path: str = "/etc/resolv.conf") -> Iterator[Finding]:
    """Whether the name servers of this pod answer: where they do, names are a way out."""
    import dns.message  # noqa: PLC0415 - only here

    try:
        servers = name_servers(path)
    except OSError as error:
        yield warn("dns_unknown", f"{path}: {error.strerror}", "mount resolv.conf")
        return
    query = dns.message.make_query(f"{_NOBODY}.", "A").to_wire()
    answering = [server for server in servers if _answers(server, query)]
    if answering:
        yield ok("dns_open", f"names are asked at {', '.join(map(shown_place, answering))}: with dns.mode none they would be no way out")
    else:
        yield ok("dns_closed", "no name server answers: dns.mode is none")


def _answers(server: Place, query: bytes) -> bool:
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_DNS_S)
            sock.connect(server)
            sock.send(query)
            return sock.recv(4096)[:2] == query[:2]
    except OSError:
        return False
