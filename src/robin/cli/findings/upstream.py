"""The upstream: name, route, TLS. It is connected to in the steps of the engine (resolve, judge, connect, secure); nothing is sent."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence

from robin.cli.findings.finding import Finding, fail, ok, warn
from robin.config.addresses import reaches
from robin.config.settings import SidecarSettings
from robin.config.table import SETTING_NAMES
from robin.model.address import ResolvedAddress
from robin.model.faults import Fault, name_settings
from robin.model.origin import Origin
from robin.model.verdict import Permit
from robin.planes.sidecar.build import build_endpoint
from robin.policy.addresses import refuse_own_listeners
from robin.policy.guards import permit_probe
from robin.transport.clock import Clock
from robin.transport.deadlines import Sweeper
from robin.transport.dial import Dialer, connect
from robin.transport.resolve import Resolver
from robin.transport.stream import Stream
from robin.transport.tls import TlsFileError, UpstreamTls

DAY_S = 86400.0
SOON_S = 7 * DAY_S
_TCP_S = 2.0


def look(settings: SidecarSettings, clock: Clock) -> Iterator[Finding]:
    """Roots, name, connection, certificate."""
    endpoint = build_endpoint(settings.upstream.url, settings.upstream.ca_file)
    tls = None
    if endpoint.tls is not None:
        try:
            tls = UpstreamTls(lambda _profile, _result: None, profiles=[endpoint.tls])
        except TlsFileError as error:
            yield fail("upstream roots", f"{settings.upstream.ca_file}: {error}", "name a readable PEM bundle in ROBIN_UPSTREAM_CA_FILE")
            return
        roots = tls.client(endpoint.tls).context.cert_store_stats()["x509_ca"]
        if roots or settings.upstream.ca_file:
            yield ok("upstream roots", f"{roots} CA certificates from {settings.upstream.ca_file or 'the system'}")
        else:
            yield warn("upstream roots", "the system has no CA certificates in one file", "set ROBIN_UPSTREAM_CA_FILE, or install them")
    yield from asyncio.run(_connect(settings, permit_probe(endpoint), tls, clock))


async def _connect(settings: SidecarSettings, permit: Permit, tls: UpstreamTls | None, clock: Clock) -> list[Finding]:
    loop = asyncio.get_running_loop()
    origin = permit.endpoint.origin

    def is_own_listener(host: str, port: int) -> bool:
        reached = Origin(scheme=origin.scheme, host=host, port=port, authority=b"")
        return any(reaches(reached, address) for address in (*settings.listeners.proxy, *settings.listeners.admin))

    resolver = Resolver(loop, is_own_listener=is_own_listener)
    permitted: list[ResolvedAddress] = []

    def judge(permit: Permit, found: Sequence[ResolvedAddress]) -> Sequence[ResolvedAddress]:
        permitted[:] = refuse_own_listeners(permit, found)
        return permitted

    sweeper = Sweeper(loop)
    sweeper.start()
    dialer = Dialer(loop, sweeper, resolver=resolver, judge=judge, tls=tls, connect_s=settings.deadlines.connect_s)
    reached: list[ResolvedAddress] = []

    def build(address: ResolvedAddress) -> Stream:
        reached.append(address)
        return Stream(loop, sweeper)

    try:
        stream = await dialer.dial(permit, build)
    except Fault as fault:
        if fault.code == "connect_timeout" and origin.tls and await _accepts_tcp(permitted):
            what = f"connect_timeout: {origin.host} port {origin.port}: it accepts TCP connections, but TLS is not finished within"
            fix = "check that the port speaks TLS, or use http in ROBIN_UPSTREAM_URL"
            return [fail("upstream tls", f"{what} ROBIN_UPSTREAM_CONNECT_TIMEOUT", fix)]
        return [_refused(fault, settings)]
    try:
        certificate = stream.transport.get_extra_info("ssl_object")
        where = f"{reached[0].host} port {reached[0].port}"
        return [ok("upstream", f"{origin} accepts connections at {where}"), *_certificate(certificate, clock)]
    finally:
        stream.transport.abort()


async def _accepts_tcp(addresses: Sequence[ResolvedAddress]) -> bool:
    try:
        async with asyncio.timeout(_TCP_S):
            sock, _ = await connect(asyncio.get_running_loop(), addresses)
    except OSError:  # TimeoutError is one
        return False
    sock.close()
    return True


_CERTIFICATES = {
    "expired": "its certificate has expired",
    "not_yet_valid": "its certificate is not valid yet, or this machine's clock is wrong",
    "name_mismatch": "its certificate is for another name",
    "unknown_ca": "its certificate is signed by a CA that is not trusted here",
}
_CONNECTIONS = {
    "connect_refused": "nothing listens there",
    "connect_timeout": "no connection within ROBIN_UPSTREAM_CONNECT_TIMEOUT",
    "unroutable": "there is no route to it",
    "dns_failed": "the name does not resolve",
    "dns_timeout": "the resolver did not answer within ROBIN_UPSTREAM_CONNECT_TIMEOUT",
}


def _refused(fault: Fault, settings: SidecarSettings) -> Finding:
    place = f"{settings.upstream.url.origin.host} port {settings.upstream.url.origin.port}"
    detail = name_settings(fault.detail, SETTING_NAMES)
    word, _, fix = detail.partition(": ")
    if fault.code == "upstream_certificate":
        return fail("upstream tls", f"{word}: {place}: {_CERTIFICATES.get(word, 'its certificate is not trusted')}", fix)
    if fault.code == "upstream_tls":
        return fail(
            "upstream tls", f"{word}: {place}: {fix}", "check that the port speaks TLS 1.2 or newer, or use http in ROBIN_UPSTREAM_URL"
        )
    if fault.code in _CONNECTIONS:
        return fail(
            "upstream", f"{fault.code}: {place}: {_CONNECTIONS[fault.code]}", "check ROBIN_UPSTREAM_URL, the resolver and firewalls"
        )
    return fail("upstream", f"{fault.code}: {place}: {fix or detail}", "name the broker in ROBIN_UPSTREAM_URL")


def _certificate(connection: ssl.SSLObject | None, clock: Clock) -> Iterator[Finding]:
    if connection is None:
        return
    certificate = connection.getpeercert() or {}
    left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - clock.wall()
    left = f"{left_s / DAY_S:.0f} more days" if left_s > 2 * DAY_S else f"{left_s / 3600:.1f} more hours"
    what = f"{connection.version()}, certificate valid for {left}"
    yield ok("upstream tls", what) if left_s > SOON_S else warn("upstream tls", what, "renew the upstream's certificate soon")
