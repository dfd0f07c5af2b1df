"""Where a listener listens: a TCP address, a Unix path, or a socket that systemd passed in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """`host` is a literal IP address without brackets, or `` for every interface. `best_effort`: skipped when the family is missing."""

    host: str
    port: int
    best_effort: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """An absolute path of at most 107 bytes. `mode` None leaves the mode to the listener's own rule."""

    path: str
    mode: int | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivatedAddress:
    """A socket passed by systemd under this `LISTEN_FDNAMES` name."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = TcpAddress | UnixAddress | ActivatedAddress
