"""The origin we dial: scheme, host and port, and how it is written on the wire."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One dialled place. `host` has no brackets; `authority` is host[:port] as written in Host (a default port left out)."""

    scheme: str
    host: str
    port: int
    authority: bytes

    @property
    def tls(self) -> bool:
        """Whether the connection is TLS."""
        return self.scheme == "https"

    def __hash__(self) -> int:
        return hash(self.authority)  # bytes remember their hash; equality still compares everything

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode('ascii')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamUrl:
    """An origin and its base path (`b""` for none, else starting with `/` and not ending in one)."""

    origin: Origin
    base_path: bytes

    def __str__(self) -> str:
        return f"{self.origin}{self.base_path.decode('ascii')}"
