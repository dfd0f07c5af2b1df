"""From flags, environment, file and defaults to Settings, or to the list of everything that is wrong: the only reader of the environment.

Nothing is resolved, bound or connected here. A key that nobody knows is an error wherever it appears, so that a typo cannot open an
allow-list; only the shapes of Kubernetes service links are ignored, and only in the environment.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robin.config.check import Draft, check
from robin.config.file import FileText, load_settings_file
from robin.config.layers import Layer, SettingError, Sourced
from robin.config.nearest import nearest
from robin.config.notes import looks_commented, note
from robin.config.parse import CONTROLS, Refusal
from robin.config.settings import IdentityPart, Settings
from robin.config.table import IDENTITY_KEYS, PREFIX, SETTINGS
from robin.model.address import UnixAddress

CONFIG = "ROBIN_CONFIG"
SPIFFE_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"  # of the SPIFFE Workload Endpoint specification, section 4
LIMIT_CHARACTERS = 65536

# kubelet puts these into every pod for a Service named `robin` or `robin-...`: no setting may look like one.
SERVICE_LINK = re.compile(
    r"ROBIN_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Valid settings, and for each key of the table, in its order, the text and layer that won."""

    settings: Settings
    sources: tuple[Sourced, ...]


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Loaded | tuple[SettingError, ...]:
    """Settings from `flags` (by key, as text) over `environ` over the file over the defaults; or every error found, at least one."""
    draft, errors = _draft(SETTINGS, flags, environ)
    if errors:
        return tuple(errors)
    settings = _settings(draft)
    return Loaded(settings=settings, sources=tuple(replace(source, note=note(source, settings)) for source in draft.sources.values()))


def load_identity(flags: Mapping[str, str], environ: Mapping[str, str]) -> IdentityPart | tuple[SettingError, ...]:
    """The identity's settings alone, for commands that need no other, or every error found in them, among the names and in the file."""
    draft, errors = _draft(IDENTITY_KEYS, flags, environ)
    return tuple(errors) if errors else IdentityPart(**_fields(draft))


def _draft(keys: Iterable[str], flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Draft, list[SettingError]]:
    """These keys, chosen and parsed, and all that is wrong with them, with the file and with names that nobody knows."""
    file, errors = _load_file(flags, environ)
    errors += _unknown(flags, environ, file)
    sources = {key: _choose(key, flags, environ, file) for key in keys}
    if sources["ROBIN_TOKEN_SOURCE"].text == "jwtsvid":
        sources["ROBIN_SPIFFE_SOCKET"] = _spiffe_socket(sources["ROBIN_SPIFFE_SOCKET"], environ)
    values: dict[str, Any] = {}
    for key, source in sources.items():
        outcome = _parse(source)
        if isinstance(outcome, SettingError):
            errors.append(outcome)
        else:
            values[key] = outcome
    draft = Draft(values=values, sources=sources)
    errors += check(draft)
    return draft, errors


def load_value(key: str, flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Any, tuple[SettingError, ...]]:
    """The value of one key alone, for commands that need nothing else, and what is wrong with it or with the file."""
    file, errors = _load_file(flags, environ)
    outcome = _parse(_choose(key, flags, environ, file))
    if isinstance(outcome, SettingError):
        return None, (*errors, outcome)
    return outcome, tuple(errors)


def _load_file(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[FileText, list[SettingError]]:
    source = _choose(CONFIG, flags, environ, FileText(lines=(), refusals=()))
    if source.text is None:
        return FileText(lines=(), refusals=()), []
    try:
        file = load_settings_file(source.text)
    except Refusal as refusal:
        file = FileText(lines=(), refusals=(refusal,))
    return file, [SettingError(key=CONFIG, layer=source.layer, what=refusal.what, fix=refusal.fix) for refusal in file.refusals]


def _choose(key: str, flags: Mapping[str, str], environ: Mapping[str, str], file: FileText) -> Sourced:
    """The strongest layer that sets `key`; an empty value counts as unset."""
    if text := flags.get(key):
        return Sourced(key=key, text=text, layer=Layer.FLAG)
    if text := environ.get(key):
        return Sourced(key=key, text=text, layer=Layer.ENV)
    for line in file.lines:
        if line.key == key and line.value:
            return Sourced(key=key, text=line.value, layer=Layer.FILE, line=line.number)
    return Sourced(key=key, text=SETTINGS[key].default, layer=Layer.DEFAULT)


def _spiffe_socket(source: Sourced, environ: Mapping[str, str]) -> Sourced:
    if source.text is None and (text := environ.get(SPIFFE_VARIABLE)):
        return replace(source, text=text, layer=Layer.ENV, via=SPIFFE_VARIABLE)
    return source


def _parse(source: Sourced) -> Any:
    """The value of a source; None when unset; a SettingError when it is not one."""
    setting = SETTINGS[source.key]
    if source.text is None and setting.required:
        return SettingError.missing(setting.key, "is required", f"set it to {setting.kind.bounds}, or give {setting.flag}")
    try:
        return _value(source)
    except Refusal as refusal:
        where = f"line {source.line}: " if source.line else ""
        fix = f"{refusal.fix} (there are no inline comments)" if looks_commented(source) else refusal.fix
        return SettingError(key=source.via or source.key, layer=source.layer, what=where + refusal.what, fix=fix)


def _value(source: Sourced) -> Any:
    if source.text is None:
        return None
    if len(source.text) > LIMIT_CHARACTERS or CONTROLS.search(source.text) is not None:
        raise Refusal("holds a control character or is not UTF-8", "write it as plain text on one line")
    return SETTINGS[source.key].kind.parse(source.text)


def _unknown(flags: Mapping[str, str], environ: Mapping[str, str], file: FileText) -> Iterator[SettingError]:
    """Keys that nobody knows, each with the one that was most likely meant."""
    for key in flags:
        if key not in SETTINGS:
            yield _unknown_key(key, Layer.FLAG, "")
    for key in sorted(environ):
        if key.startswith(PREFIX) and key not in SETTINGS and SERVICE_LINK.fullmatch(key) is None:
            yield _unknown_key(key, Layer.ENV, "")
    for line in file.lines:
        if line.key not in SETTINGS:
            yield _unknown_key(line.key, Layer.FILE, f"line {line.number}: ")


def _unknown_key(key: str, layer: Layer, where: str) -> SettingError:
    meant = nearest(key.removeprefix(PREFIX), (known.removeprefix(PREFIX) for known in SETTINGS))  # the prefix is alike in all
    fix = f"write {PREFIX}{meant} (the nearest), or remove it" if meant else "remove it, or find its name in robin --help"
    return SettingError(key=key, layer=layer, what=f"{where}unknown setting", fix=fix)


def _settings(draft: Draft) -> Settings:
    """Most are a value of the table under its own name, a few are drawn together."""
    peercred = draft.values["ROBIN_LISTEN_UDS"] is not None
    hosts = draft.values["ROBIN_ALLOWED_HOSTS"] if draft.explicit("ROBIN_ALLOWED_HOSTS") or not peercred else None
    return Settings(
        **_fields(draft),
        upstream=draft.values["ROBIN_UPSTREAM_URL"],
        listen=tuple(_with_mode(address, draft) if isinstance(address, UnixAddress) else address for address in draft.listen),
        peercred=peercred,
        admin=draft.values["ROBIN_ADMIN_ADDR"],
        allowed_hosts=hosts,
    )


def _fields(draft: Draft) -> dict[str, Any]:
    """The values that are fields of Settings as they are, by the name of the field."""
    suffixes = {"duration": "_s", "size": "_bytes"}
    return {
        key.removeprefix(PREFIX).lower() + suffixes.get(SETTINGS[key].kind.name, ""): value
        for key, value in draft.values.items()
        if key not in _DRAWN_TOGETHER
    }


_DRAWN_TOGETHER = frozenset(
    ("ROBIN_UPSTREAM_URL", "ROBIN_LISTEN_ADDR", "ROBIN_LISTEN_UDS", "ROBIN_UDS_MODE", "ROBIN_ADMIN_ADDR", "ROBIN_ALLOWED_HOSTS")
)


def _with_mode(address: UnixAddress, draft: Draft) -> UnixAddress:
    mode = draft.values["ROBIN_UDS_MODE"]
    if mode is None:
        mode = 0o600 if draft.values["ROBIN_PEERCRED_ALLOW_UIDS"] is None else 0o666
    return replace(address, mode=mode)
