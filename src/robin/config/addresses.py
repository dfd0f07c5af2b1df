"""Parse the text of one setting, for addresses: where to listen, the Workload API endpoint, the upstream URL.

Hosts of listeners and endpoints are literal IP addresses: a name that resolves anew could open the proxy to the network. Also
decides whether two addresses are, or reach, the same socket.
"""

import ipaddress
import re

from robin.config.names import parse_host
from robin.config.parse import LIST, InvalidValue, Kind, parse_items, shown, write
from robin.model.address import ActivatedAddress, Address, TcpAddress, UnixAddress, reached
from robin.model.origin import Origin, UpstreamUrl

UNIX_PATH_BYTES = 107  # sun_path of Linux holds 108 with the final NUL

_ENDPOINT_FORM = "unix:///absolute/path or tcp://IP:port"
_SYSTEMD_NAME = re.compile(r"[A-Za-z0-9._@-]{1,255}")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[^\]/?#]*\]|[^:/?#\[\]]*)(?::([^/?#]*))?(/[^?#]*)?")
_HOST_PORT = re.compile(r"(\[[^\]/?#]*\]|[^:/?#\[\]]+):([^/?#:]*)")
_BASE_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _parse_port(text: str, *, lowest: int) -> int:
    if _PORT.fullmatch(text) is None or not lowest <= int(text) <= 65535:
        raise InvalidValue(f"{shown(text)} is not a port", f"use {lowest} to 65535")
    return int(text)


def _parse_ip(text: str) -> str:
    """A literal IP address without brackets, in canonical form; raises ValueError."""
    if "%" in text:
        raise ValueError
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise ValueError
    return str(address)


def parse_unix_path(text: str) -> str:
    """An absolute path that fits into a socket address."""
    if text.startswith("@"):
        raise InvalidValue("abstract sockets have no owner and no mode", "use a path such as /run/robin/robin.sock")
    if text.startswith("unix:"):
        raise InvalidValue(f"{shown(text)} has a scheme where a plain path belongs", write("/" + text[5:].lstrip("/"), "the path alone"))
    if not text.startswith("/"):
        raise InvalidValue(f"{shown(text)} is not an absolute path", "use a path such as /run/robin/robin.sock")
    if text.endswith("/"):
        raise InvalidValue(f"{shown(text)} is a directory", "name the socket itself, such as /run/robin/robin.sock")
    if (length := len(text.encode())) > UNIX_PATH_BYTES:
        raise InvalidValue(f"the path has {length} bytes", f"use at most {UNIX_PATH_BYTES}")
    return text


def _parse_tcp(text: str) -> tuple[TcpAddress, ...]:
    host, colon, port_text = text.rpartition(":")
    if text.isdigit():
        raise InvalidValue(f"{shown(text)} is a port alone", write(f"127.0.0.1:{text[:5]}", "host:port"))
    if not colon or text.endswith("]"):
        raise InvalidValue(f"{shown(text)} has no port", write(f"{text}:4000" if text else "host:port", "host:port"))
    if ":" in host and not host.startswith("["):
        raise InvalidValue(f"{shown(text)} is an IPv6 address without brackets", "write [address]:port, such as [::1]:4000")
    port = _parse_port(port_text, lowest=0)
    if host == "localhost":
        return (TcpAddress(host="127.0.0.1", port=port), TcpAddress(host="::1", port=port, best_effort=True))
    if host == "":
        return (TcpAddress(host="", port=port),)
    try:
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
        return (TcpAddress(host=_parse_ip(bare), port=port),)
    except ValueError:
        fix = "use an IP address, localhost, or nothing for every interface, such as 127.0.0.1:4000, [::1]:4000 or :4001"
        raise InvalidValue(f"the host of {shown(text)} is not an IP address", fix) from None


def _parse_address(text: str, *, unix: bool) -> tuple[Address, ...]:
    if text.startswith("systemd:"):
        if _SYSTEMD_NAME.fullmatch(text[8:]) is None:
            raise InvalidValue(
                f"{shown(text)} names no systemd socket", "write systemd:NAME with the FileDescriptorName= of the socket unit"
            )
        return (ActivatedAddress(name=text[8:]),)
    if text.startswith("unix:"):
        if not unix:
            raise InvalidValue(f"{shown(text)} is a Unix socket", "set ROBIN_LISTEN_UDS to the path instead")
        return (UnixAddress(path=parse_unix_path("/" + text[5:].lstrip("/") if text.startswith("unix:///") else text[5:])),)
    if text.startswith("/"):
        fix = write(f"unix:{text}", "unix:/path") if unix else "set ROBIN_LISTEN_UDS to the path instead"
        raise InvalidValue(f"{shown(text)} is a path", fix)
    return _parse_tcp(text)


def _parse_addresses(text: str, *, unix: bool) -> tuple[Address, ...]:
    addresses = tuple(address for item in parse_items(text) for address in _parse_address(item, unix=unix))
    for index, address in enumerate(addresses):
        for earlier in addresses[:index]:
            if overlaps(earlier, address):
                raise InvalidValue(f"{earlier} and {address} are the same socket", "keep one of them")
    return addresses


def parse_listen(text: str) -> tuple[Address, ...]:
    """TCP addresses and `systemd:NAME`, at least one."""
    addresses = _parse_addresses(text, unix=False)
    if not addresses:
        raise InvalidValue("the list is empty, so nothing would listen", "name an address such as 127.0.0.1:4000")
    return addresses


def parse_admin(text: str) -> tuple[Address, ...]:
    """TCP addresses, `unix:/path` and `systemd:NAME`; empty for `off`."""
    return () if text == "off" else _parse_addresses(text, unix=True)


def parse_listen_uds(text: str) -> Address:
    """A socket path, or `systemd:NAME`."""
    if text.startswith("systemd:"):
        return _parse_address(text, unix=False)[0]
    return UnixAddress(path=parse_unix_path(text))


def parse_endpoint(text: str) -> UnixAddress | TcpAddress:
    """A Workload API endpoint, `unix:///abs` or `tcp://IP:port` (SPIFFE Workload Endpoint section 4); the error shows the corrected URI."""
    scheme, colon, rest = text.partition(":")
    if "?" in rest or "#" in rest or "%" in rest:
        raise InvalidValue("the endpoint has a query, fragment or percent escape", f"write {_ENDPOINT_FORM}")
    if scheme == "unix" and colon:
        if rest.startswith("//") and not rest.startswith("///"):
            raise InvalidValue(f"{shown(text)} has a host where the path belongs", write(f"unix:///{rest[2:]}", _ENDPOINT_FORM))
        path = "/" + rest.lstrip("/")
        if not rest.startswith("/") or path == "/":
            raise InvalidValue(
                f"{shown(text)} has no absolute path", write(f"unix://{path}" if path != "/" else _ENDPOINT_FORM, _ENDPOINT_FORM)
            )
        return UnixAddress(path=parse_unix_path(path))
    if scheme == "tcp" and colon:
        return _parse_tcp_endpoint(text, rest)
    if text.startswith("/"):
        raise InvalidValue(f"{shown(text)} has no scheme", write(f"unix://{text}", _ENDPOINT_FORM))
    raise InvalidValue(f"{shown(text)} is not a Workload API endpoint", f"write {_ENDPOINT_FORM}")


def _parse_tcp_endpoint(text: str, rest: str) -> TcpAddress:
    authority, slash, _path = rest.lstrip("/").partition("/")
    host, colon, port_text = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        raise InvalidValue(f"{shown(text)} has no port", write(f"tcp://{authority or 'IP'}:PORT", _ENDPOINT_FORM))
    port = _parse_port(port_text, lowest=1)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = TcpAddress(host=_parse_ip("127.0.0.1" if bare == "localhost" else bare), port=port)
    except ValueError:
        raise InvalidValue(f"the host of {shown(text)} is not an IP address", f"write tcp://IP:{port}") from None
    if f"tcp://{address}" != f"tcp:{rest}" or slash:
        raise InvalidValue(f"{shown(text)} is not of the form tcp://IP:port", f"write tcp://{address}")
    return address


def parse_upstream(text: str) -> UpstreamUrl:
    """`http[s]://host[:port][/base]`; no userinfo, query, fragment or dot segment. The base path keeps its bytes, less a final `/`."""
    if "@" in text.split("://", 1)[-1].split("/", 1)[0]:
        raise InvalidValue("the URL has a user name or password", "remove it: the only credential is the workload identity")
    if "?" in text or "#" in text:
        raise InvalidValue("the URL has a query or fragment", "remove everything from the ? or #")
    match = _URL.fullmatch(text)
    if match is None or match[2] == "":
        raise InvalidValue(f"{shown(text)} is not a URL", "write https://host[:port][/base]")
    scheme = match[1].lower()
    if scheme not in _DEFAULT_PORTS:
        raise InvalidValue(f"{shown(text)} is neither https nor http", "write https://host[:port][/base]")
    host = parse_host(match[2])
    port = _DEFAULT_PORTS[scheme] if match[3] is None else _parse_port(match[3], lowest=1)
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    origin = Origin(scheme=scheme, host=host.strip("[]"), port=port, authority=authority.encode("ascii"))
    return UpstreamUrl(origin=origin, base_path=_parse_base_path(match[4] or ""))


def parse_host_port(text: str) -> tuple[str, int]:
    """Canonical host, without brackets, and port of `host:port`."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise InvalidValue(f"{shown(text)} is not host:port", "write a name or an IP address with a port, IPv6 in brackets")
    return parse_host(match[1]).strip("[]"), _parse_port(match[2], lowest=1)


def _parse_base_path(text: str) -> bytes:
    path = text.removesuffix("/")
    if _BASE_PATH.fullmatch(path) is None:
        raise InvalidValue("the base path has an empty segment or an unescaped byte", "use plain segments such as /v1, with %XX escapes")
    segments = path.lower().replace("%2e", ".").split("/")
    if "." in segments or ".." in segments:
        raise InvalidValue("the base path has a dot segment", "write the path without . and ..")
    return path.encode("ascii")


def _covered(host: str) -> frozenset[int]:
    """The IP versions of which a bound host covers every address."""
    if host == "":
        return frozenset((4, 6))
    address = ipaddress.ip_address(host)
    return frozenset((address.version,)) if address.is_unspecified else frozenset()


def overlaps(one: Address, other: Address) -> bool:
    """True if binding both would fail: the same path, name, or port on overlapping hosts. Port 0 never clashes."""
    if isinstance(one, TcpAddress) and isinstance(other, TcpAddress):
        if one.port != other.port or one.port == 0:
            return False
        if one.host == other.host or (_covered(one.host) & _covered(other.host)):
            return True
        return any(a.host and ipaddress.ip_address(a.host).version in _covered(b.host) for a, b in ((one, other), (other, one)))
    if isinstance(one, UnixAddress) and isinstance(other, UnixAddress):
        return one.path == other.path
    return one == other


def reaches(origin: Origin, address: Address) -> bool:
    """True if dialling `origin` would reach a listener at `address`, as far as the texts say (a name may resolve there later)."""
    if not isinstance(address, TcpAddress) or origin.port != address.port:
        return False
    if origin.host == "localhost":
        return address.host in ("127.0.0.1", "::1") or bool(_covered(address.host))
    try:
        target = reached(origin.host)
    except ValueError:  # a name
        return False
    return str(target) == address.host or (target.is_loopback and target.version in _covered(address.host))


UPSTREAM = Kind(name="URL", parse=parse_upstream, bounds="https://host[:port][/base]")
HOST_PORT = Kind(name="place", parse=parse_host_port, bounds="host:port")
LISTEN = Kind(name="list of addresses", parse=parse_listen, bounds="host:port, [v6]:port, localhost:port, systemd:NAME", form=LIST)
LISTEN_UDS = Kind(name="path", parse=parse_listen_uds, bounds=f"at most {UNIX_PATH_BYTES} bytes, or systemd:NAME")
ADMIN = Kind(name="list of addresses", parse=parse_admin, bounds="host:port, :port, unix:/path, systemd:NAME, off", form=LIST)
ENDPOINT = Kind(name="endpoint", parse=parse_endpoint, bounds="unix:///abs or tcp://IP:port")
