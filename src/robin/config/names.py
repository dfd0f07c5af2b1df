"""Parse the text of one setting, for names of HTTP and SPIFFE: Host names, browser origins, field names, upgrade tokens, SPIFFE IDs.

Everything that is compared while a request is served is brought into its one comparable form here: lower case, `_` as `-` in field
names, IPv6 compressed and in brackets.
"""

import ipaddress
import re

from robin.config.parse import LIST, InvalidValue, Kind, parse_items, shown, write
from robin.model.message import RequiredField
from robin.wire.forwarding import OURS_UPSTREAM

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ENDS_IN_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_FIELD_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[^/?#:@\[\]]+)(?::([0-9]{1,5}))?")
_PROTOCOL = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})?")
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}((?:/[A-Za-z0-9._-]+)*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Fields that frame or route a message: Robin makes or judges them itself, so no list may remove or demand them.
_ENGINE_FIELDS = frozenset(name.decode("ascii") for name in OURS_UPSTREAM | {b"max-forwards"})


def parse_host(text: str) -> str:
    """A DNS name or IP literal (IPv6 in brackets), lower case and canonical; no port. Raises InvalidValue."""
    if text.startswith("["):
        inner = text[1:-1] if text.endswith("]") else ""
        try:
            return f"[{ipaddress.IPv6Address(inner.replace('%', '/'))}]"  # a zone is not part of a name
        except ValueError:
            raise InvalidValue(
                f"{shown(text)} is not an IPv6 address in brackets", "write it such as [::1], without port and zone"
            ) from None
    if _ENDS_IN_A_NUMBER.fullmatch(text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise InvalidValue(f"{shown(text)} is not an IPv4 address", "write four decimal numbers such as 127.0.0.1") from None
    if len(text) > 253 or _HOST_NAME.fullmatch(text) is None:
        if text.endswith("."):
            raise InvalidValue(f"{shown(text)} ends in a dot", "remove the trailing dot")
        raise InvalidValue(f"{shown(text)} is not a host name", "write a DNS name (xn-- for non-ASCII) or an IP address")
    return text.lower()


def parse_allowed_hosts(text: str) -> tuple[str, ...]:
    """Host names as they are compared: lower case, no port."""
    hosts = []
    for item in parse_items(text):
        if "*" in item:
            raise InvalidValue(f"{shown(item)} has a wildcard", "list each name; ROBIN_UNSAFE_ANY_HOST=true switches the guard off")
        if item.count(":") > 1 and not item.startswith("["):
            raise InvalidValue(f"{shown(item)} is an IPv6 address without brackets", write(f"[{item}]", "[address]"))
        name, colon, port = item.rpartition(":")
        if colon and port.isdigit() and not name.endswith(":"):
            raise InvalidValue(f"{shown(item)} has a port", "remove the port: any port is accepted")
        hosts.append(parse_host(item))
    return tuple(dict.fromkeys(hosts))


def parse_allowed_origins(text: str) -> tuple[str, ...]:
    """Browser origins exactly as browsers send them: `scheme://host[:port]`, lower case, default port left out."""
    origins = []
    for item in parse_items(text):
        match = _ORIGIN.fullmatch(item)
        if match is None:
            fix = "write scheme://host or scheme://host:port, without path; null and * are never accepted"
            raise InvalidValue(f"{shown(item)} is not an origin", fix)
        scheme, host, port = match[1].lower(), parse_host(match[2]), match[3]
        if port is not None and not 0 < int(port) < 65536:
            raise InvalidValue(f"{shown(item)} has no valid port", "use 1 to 65535")
        keep = "" if port is None or _DEFAULT_PORTS.get(scheme) == int(port) else f":{int(port)}"
        sent = f"{scheme}://{host}{keep}"
        if sent != item:
            raise InvalidValue(f"{shown(item)} is not written as browsers send it", write(sent, "scheme://host[:port]"))
        origins.append(sent)
    return tuple(dict.fromkeys(origins))


def parse_field_name(text: str) -> str:
    """A field name as it is compared: lower case, `_` as `-`; never one that frames or routes a message."""
    if _TOKEN.fullmatch(text) is None:
        raise InvalidValue(f"{shown(text)} is not a field name", "use letters, digits and hyphens, such as x-api-key")
    name = text.lower().replace("_", "-")
    if name in _ENGINE_FIELDS:
        raise InvalidValue(f"{shown(text)} is a field that Robin makes or removes itself", "leave it out")
    return name


def parse_strip_headers(text: str) -> tuple[str, ...]:
    """Field names to remove, each once."""
    return tuple(dict.fromkeys(parse_field_name(item) for item in parse_items(text)))


def parse_required_header(text: str) -> RequiredField:
    """`name` or `name:value`."""
    name, colon, value = text.partition(":")
    value = value.strip(" \t")
    if colon and _FIELD_VALUE.fullmatch(value) is None:
        raise InvalidValue("the value after the colon is empty or not printable ASCII", "write name:value, or name alone for any value")
    folded = parse_field_name(name.strip(" \t")).encode("ascii")
    return RequiredField(name=folded, value=value.encode("ascii") if colon else None)


def parse_upgrade_protocols(text: str) -> tuple[str, ...]:
    """Upgrade tokens, lower case; `h2c` is refused since it would tunnel requests past every guard."""
    protocols = []
    for item in parse_items(text):
        if _PROTOCOL.fullmatch(item) is None:
            raise InvalidValue(f"{shown(item)} is not an upgrade token", "write names such as websocket")
        if item.lower().partition("/")[0] in ("h2c", "h2"):
            raise InvalidValue(f"{shown(item)} is never forwarded: requests inside it would pass no guard", "remove it")
        protocols.append(item.lower())
    return tuple(dict.fromkeys(protocols))


def parse_spiffe_id(text: str) -> str:
    """`spiffe://trust-domain/path` (SPIFFE-ID section 2): at most 2048 bytes, no empty or dot segment."""
    match = _SPIFFE_ID.fullmatch(text)
    if match is None or len(text) > 2048 or {".", ".."} & set(match[1].split("/")):
        raise InvalidValue(f"{shown(text)} is not a SPIFFE ID", "write spiffe://trust-domain/path, the trust domain in lower case")
    return text


ALLOWED_HOSTS = Kind(name="list of hosts", parse=parse_allowed_hosts, bounds="no ports, no wildcards", form=LIST)
ALLOWED_ORIGINS = Kind(name="list of origins", parse=parse_allowed_origins, bounds="scheme://host[:port]", form=LIST)
REQUIRED_HEADER = Kind(name="header", parse=parse_required_header, bounds="name or name:value")
FIELD_NAMES = Kind(name="list of headers", parse=parse_strip_headers, form=LIST)
UPGRADE_PROTOCOLS = Kind(name="list of protocols", parse=parse_upgrade_protocols, bounds="not h2c", form=LIST)
SPIFFE_ID = Kind(name="SPIFFE ID", parse=parse_spiffe_id)
