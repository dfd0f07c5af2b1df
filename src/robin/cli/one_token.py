"""One token, fetched once and decoded: for `robin token` and `robin doctor`. Its bytes stay in their Secret."""

import asyncio
from dataclasses import dataclass, replace

from robin.config.table import SETTING_NAMES
from robin.identity.catalog import open_source, token_rules
from robin.identity.settings import FileIdentitySettings, IdentitySettings
from robin.identity.source import RawIdentity, SourceFailure
from robin.model.faults import Fault, name_settings
from robin.transport.clock import Clock
from robin.wire.jwt_inspection import Unverified, numeric_date, parse_unverified

_FILE_S = 10.0  # a file on a network that hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class OneToken:
    """What the platform gave, and its decoded parts."""

    raw: RawIdentity
    laid_open: Unverified
    fetched_at: float  # wall seconds

    @property
    def expires_in_s(self) -> float | None:
        """Seconds to `exp`, negative when past; None without an `exp`."""
        expires_at = numeric_date((self.laid_open.claims or {}).get("exp"))
        return None if expires_at is None else expires_at - self.fetched_at


class NoToken(Exception):
    """There is no token; the message names the variable and the fix."""


def fetch_one(settings: IdentitySettings, clock: Clock) -> OneToken:
    """Read or fetch one token, within the source's own deadline. Raises NoToken."""
    return asyncio.run(_fetch_one(settings, clock))


async def _fetch_one(settings: IdentitySettings, clock: Clock) -> OneToken:
    try:
        async with asyncio.timeout(_FILE_S if isinstance(settings, FileIdentitySettings) else settings.fetch_timeout_s + 1):
            raw = await _fetch(settings)
    except SourceFailure as failure:
        raise NoToken(_named(failure.detail) + _where(settings)) from None
    except Fault as fault:
        raise NoToken(_named(fault.detail)) from None
    except TimeoutError:
        raise NoToken("deadline_exceeded: no token came within ROBIN_SVID_FETCH_TIMEOUT; check the platform") from None
    now = clock.wall()
    laid_open = parse_unverified(raw.text, token_rules(settings), now=now, issued_to=raw.issued_to)
    checks = tuple(replace(check, text=_named(check.text), fix=_named(check.fix)) for check in laid_open.checks)
    named = replace(raw, warning=_named(raw.warning))
    return OneToken(raw=named, laid_open=replace(laid_open, checks=checks), fetched_at=now)


def _named(text: str) -> str:
    return name_settings(text, SETTING_NAMES)


def _where(settings: IdentitySettings) -> str:
    """The path, which may be a default that the user never wrote; for a Workload API the detail is enough."""
    return f" (ROBIN_TOKEN_FILE is {settings.token_file})" if isinstance(settings, FileIdentitySettings) else ""


async def _fetch(settings: IdentitySettings) -> RawIdentity:
    opened = open_source(settings)
    try:
        return await opened.source.fetch(settings.audience)
    finally:
        opened.close()
