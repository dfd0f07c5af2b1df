"""The listeners of the gateway's section: who may connect, how they are known, and the TLS that keeps what they send private."""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Final, Protocol

from robin.config import file_modes
from robin.config.addresses import overlaps, parse_listen, parse_unix_path
from robin.config.diagnostic import Diagnostic, Position
from robin.config.parse import InvalidValue
from robin.config.yaml_reader import Located
from robin.model.address import Address, TcpAddress, UnixAddress, is_loopback
from robin.planes.gateway.settings import IssuerSettings, ListenerSettings, ListenerTlsSettings, MtlsSettings
from robin.policy.patterns import PatternError, configured_host

_LOOPBACK: Final = "127.0.0.1:8081"
_REVERSE: Final = "127.0.0.1:8080"
_NOBODY: Final = 65534

At = Callable[..., Position]
"""The position of the first of some values that stands in the file."""


class Add(Protocol):
    """Notes what is wrong."""

    def __call__(self, at: Position, code: str, message: str, fix: str) -> None:
        """An error."""
        ...


class AddUnreadable(Protocol):
    """Notes a file that cannot be read."""

    def __call__(self, at: Position, code: str, error: OSError, *, message: str, fix: str) -> None:
        """An error, or a warning."""
        ...


class _Refused(Exception):
    """The listener cannot be built; its error was noted."""


def build_listeners(
    listed: Located, issuers: Mapping[str, IssuerSettings], add: Add, at: At, unreadable: AddUnreadable
) -> tuple[ListenerSettings, ...]:
    """The listeners; without any, one proxy on loopback."""
    if not listed.value:
        return (ListenerSettings(name="proxy", addresses=parse_listen(_LOOPBACK)),)
    built: list[ListenerSettings] = []
    for entry in listed.value:
        try:
            built.append(_Listener(entry, issuers, add, at, unreadable).build())
        except _Refused:
            continue
    names = [listener.name for listener in built]
    if len(set(names)) < len(names):
        add(at(listed), "value_invalid", "two listeners have the same name", "give each its own name")
    return tuple(built)


def check_places(
    part: Mapping[str, Located], listeners: tuple[ListenerSettings, ...], admin: tuple[Address, ...], probes: tuple[Address, ...], at: At
) -> Iterator[Diagnostic]:
    """An error for each two parts of this gateway that would listen on one place: the second of them could not be bound."""
    entries = {entry.value["name"].value: entry for entry in part["listeners"].value}
    places: list[tuple[str, tuple[Located, ...], tuple[Address, ...]]] = []
    for one in listeners:
        entry = entries.get(one.name, part["listeners"])  # without any it is the default
        places.append((f"the listener {one.name}", (entry.value["listen"], entry) if entries else (entry,), one.addresses))
    own = part["admin"].value
    places += [("admin.listen", (own["listen"], own["probes"]), admin), ("admin.probes", (own["probes"], own["listen"]), probes)]
    for (name, at_first, firsts), (other, at_other, seconds) in combinations(places, 2):
        clash = next((second for first in firsts for second in seconds if overlaps(first, second)), None)
        if clash is not None:
            message = f"{clash} of {other} is where {name} listens too"
            fix = "give each its own port or path"
            yield Diagnostic(at=at(at_other[0], *at_first, *at_other), code="listen_conflict", message=message, fix=fix)


class _Listener:
    """Builds one of them."""

    def __init__(self, entry: Located, issuers: Mapping[str, IssuerSettings], add: Add, at: At, unreadable: AddUnreadable) -> None:
        self._entry = entry
        self._part: dict[str, Located] = entry.value
        self._values: Any = entry.plain()
        self._issuers = issuers
        self._add = add
        self._unreadable = unreadable
        self._at = at

    def build(self) -> ListenerSettings:
        values, part = self._values, self._part
        at = self._at(part["listen"], self._entry)
        auth = values["auth"]
        listen = _REVERSE if values["kind"] == "reverse" and part["listen"].at is None else values["listen"]
        addresses = self._listen(listen, values["unix_mode"], at)
        unix = any(isinstance(address, UnixAddress) for address in addresses)
        off_loopback = any(isinstance(address, TcpAddress) and not is_loopback(address.host) for address in addresses)
        tls, mtls = self._tls(), self._mtls()
        if auth == "none" and off_loopback and not values["unsafe_open"]:
            self._add(at, "open_listener", "auth none serves everyone who reaches this address", "use auth: jwt, or listen on 127.0.0.1")
        if auth == "jwt" and off_loopback and tls is None and not values["unsafe_plaintext"]:
            fix = "add tls, listen on 127.0.0.1, or set unsafe_plaintext"
            self._add(at, "plaintext_token", "tokens would cross the network in cleartext", fix)
        if auth == "jwt":
            self._check_issuers()
        elif values["issuers"]:
            self._wrong("issuers", "issuers are for auth jwt", "set auth: jwt, or remove issuers")
        if auth == "unix" and (not unix or not values["uids"]):
            self._add(at, "value_invalid", "auth unix needs a unix: address and uids", "write listen: unix:/path and uids: [1000]")
        if auth != "unix" and values["uids"]:
            self._wrong("uids", "uids are for auth unix", "set auth: unix, or remove uids")
        if auth == "none" and unix:
            self._add(at, "value_invalid", "a Unix socket needs auth unix", "set auth: unix with uids, or auth: jwt")
        if _NOBODY in values["uids"]:
            self._wrong("uids", "uid 65534 stands for users without a number here", "name real users")
        if (auth == "mtls") != (mtls is not None):
            self._wrong("mtls", "auth mtls and the key mtls belong together", "write auth: mtls and mtls: {ca_file, trust_domains}")
        if mtls is not None and tls is None:
            self._wrong("mtls", "client certificates need a listener with TLS", "add tls")
        return ListenerSettings(
            name=values["name"],
            addresses=addresses,
            kind=values["kind"],
            auth=auth,
            issuers=values["issuers"],
            uids=frozenset(values["uids"]),
            unsafe_open=auth == "none" and off_loopback,
            tls=tls,
            mtls=mtls,
        )

    def _wrong(self, key: str, message: str, fix: str) -> None:
        self._add(self._at(self._part[key], self._entry), "value_invalid", message, fix)

    def _listen(self, text: str, mode: str, at: Position) -> tuple[Address, ...]:
        try:
            if text.startswith("unix:"):
                return (UnixAddress(path=parse_unix_path(text[5:]), mode=int(mode, 8)),)
            return parse_listen(text)
        except InvalidValue as error:
            self._add(at, "value_invalid", error.what, error.fix)
            raise _Refused from None

    def _check_issuers(self) -> None:
        listed = self._part["issuers"]
        if not listed.value:
            self._add(
                self._at(listed, self._entry), "issuer_unknown", "auth jwt has no issuers", "name at least one entry of gateway.issuers"
            )
        for item in listed.value:
            if item.value not in self._issuers:
                fix = f"use one of {', '.join(self._issuers)}" if self._issuers else "add it to gateway.issuers"
                self._add(self._at(item), "issuer_unknown", "there is no issuer of this name", fix)

    def _tls(self) -> ListenerTlsSettings | None:
        listed = self._part["tls"]
        if listed.at is None:
            return None
        cert_file, key_file, names = (self._values["tls"].get(name) for name in ("cert_file", "key_file", "minted_names"))
        if bool(names) == bool(cert_file or key_file) or bool(cert_file) != bool(key_file):
            self._wrong("tls", "tls has neither a certificate with its key nor names", "give cert_file and key_file, or minted_names")
            raise _Refused
        hosts: list[str] = []
        for item in listed.value["minted_names"].value:
            try:
                hosts.append(configured_host(item.value))
            except PatternError as error:
                self._add(self._at(item), error.code, str(error), "write host names and addresses")
        if key_file:
            self._check_key(key_file)
        return ListenerTlsSettings(cert_file=cert_file or "", key_file=key_file or "", minted_names=tuple(hosts))

    def _check_key(self, path: str) -> None:
        at = self._at(self._part["tls"].value["key_file"])
        try:
            if file_modes.others_may(path, file_modes.ANY):
                self._add(at, "key_mode", "others can read or write the private key of the listener", file_modes.KEY_MODE_FIX)
        except OSError as error:
            self._unreadable(at, "value_invalid", error, message="the key of the listener cannot be read", fix="name a PEM file")

    def _mtls(self) -> MtlsSettings | None:
        if self._part["mtls"].at is None:
            return None
        values = self._values["mtls"]
        if not values.get("ca_file"):
            self._wrong("mtls", "mtls has no ca_file", "name the roots of client certificates (PEM)")
            raise _Refused
        if not values["trust_domains"] and not values["accept_cn"]:
            self._wrong("mtls", "no certificate names a caller: there are no trust_domains", "add trust_domains, or accept_cn: true")
        return MtlsSettings(ca_file=values["ca_file"], trust_domains=frozenset(values["trust_domains"]), accept_cn=values["accept_cn"])
