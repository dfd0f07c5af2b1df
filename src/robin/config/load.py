"""From flags, environment, file and defaults to SidecarSettings, or to the list of every error: the only reader of the environment.

Nothing is resolved, bound or connected here. An unknown key is an error wherever it appears, so that a typo cannot open an allow-list;
only the shapes of Kubernetes service links are ignored, and only in the environment.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robin.config.check import ParsedSettings, check
from robin.config.diagnostic import Diagnostic
from robin.config.file import FileText, check_name, is_yaml, load_content, parse_settings_file
from robin.config.layers import Layer, ResolvedValue, SettingError
from robin.config.notes import looks_commented, note
from robin.config.parse import CONTROLS, InvalidValue, nearest
from robin.config.robin_yaml import sidecar_lines
from robin.config.settings import SidecarSettings
from robin.config.sidecar import build_identity, build_sidecar
from robin.config.table import IDENTITY_KEYS, PREFIX, SETTINGS
from robin.identity.settings import IdentitySettings

CONFIG = "ROBIN_CONFIG"
SPIFFE_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"  # of the SPIFFE Workload Endpoint specification, section 4
LIMIT_CHARACTERS = 65536

# kubelet puts these into every pod for a Service named `robin` or `robin-...`: no setting may look like one.
SERVICE_LINK = re.compile(
    r"ROBIN_(?:[A-Z0-9_]+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


Problem = SettingError | Diagnostic  # an error at a setting, or at a place in robin.yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Valid settings, and for each key of the table, in its order, the text and layer that won."""

    settings: SidecarSettings
    sources: tuple[ResolvedValue, ...]


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def load(flags: Mapping[str, str], environ: Mapping[str, str]) -> Loaded | tuple[Problem, ...]:
    """Settings from `flags` (by key, as text) over `environ` over the file over the defaults; or every error found, at least one."""
    parsed, errors = _parse_all(SETTINGS, flags, environ)
    if errors:
        return tuple(errors)
    settings = build_sidecar(parsed)
    return Loaded(settings=settings, sources=tuple(replace(source, note=note(source, settings)) for source in parsed.sources.values()))


def load_identity(flags: Mapping[str, str], environ: Mapping[str, str]) -> IdentitySettings | tuple[Problem, ...]:
    """The identity's settings alone, for commands that need no other, or every error found in them, among the names and in the file."""
    parsed, errors = _parse_all(IDENTITY_KEYS, flags, environ)
    return tuple(errors) if errors else build_identity(parsed)


def _parse_all(keys: Iterable[str], flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[ParsedSettings, list[Problem]]:
    """These keys, chosen and parsed, and all that is wrong with them, with the file and with unknown names."""
    file, problems = _load_file(flags, environ)
    problems += _unknown(flags, environ, file)
    sources = {key: _choose(key, flags, environ, file) for key in keys}
    if sources["ROBIN_TOKEN_SOURCE"].text == "jwtsvid":
        sources["ROBIN_SPIFFE_SOCKET"] = _spiffe_socket(sources["ROBIN_SPIFFE_SOCKET"], environ)
    values: dict[str, Any] = {}
    for key, source in sources.items():
        outcome = _parse(source, file)
        if not isinstance(outcome, SettingError):
            values[key] = outcome
        elif not (outcome.unset and (file.diagnostics or file.unreadable)):
            problems.append(outcome)
    parsed = ParsedSettings(values=values, sources=sources, section=file.section)
    if not file.diagnostics:  # what a broken file would have set is unknown, so that a rule could report a false conflict
        problems += check(parsed)
    return parsed, problems


def load_value(key: str, flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Any, tuple[Problem, ...]]:
    """The value of one key alone, for commands that need nothing else, and what is wrong with it or with the file."""
    file, problems = _load_file(flags, environ)
    outcome = _parse(_choose(key, flags, environ, file), file)
    if isinstance(outcome, SettingError):
        return None, (*problems, outcome)
    return outcome, tuple(problems)


def _load_file(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[FileText, list[Problem]]:
    source = _choose(CONFIG, flags, environ, FileText(lines=(), errors=()))
    if source.text is None:
        return FileText(lines=(), errors=()), []
    fix = "name a readable file with --config" if source.layer is Layer.FLAG else "name a readable file, or unset ROBIN_CONFIG"
    try:
        content = load_content(source.text, fix=fix)
        if is_yaml(source.text, content):
            file = sidecar_lines(content, source.text)
        else:
            check_name(source.text)
            file = parse_settings_file(content)
    except InvalidValue as error:
        file = FileText(lines=(), errors=(InvalidValue(f"{_shown_name(source.text)}: {error.what}", error.fix),), unreadable=True)
    errors = [SettingError(key=CONFIG, layer=source.layer, what=error.what, fix=error.fix) for error in file.errors]
    return file, [*file.diagnostics, *errors]


def _shown_name(path: str) -> str:
    return path if path.isprintable() else ascii(path)


def _choose(key: str, flags: Mapping[str, str], environ: Mapping[str, str], file: FileText) -> ResolvedValue:
    """The strongest layer that sets `key`; an empty value counts as unset."""
    if text := flags.get(key):
        return ResolvedValue(key=key, text=text, layer=Layer.FLAG)
    if text := environ.get(key):
        return ResolvedValue(key=key, text=text, layer=Layer.ENV)
    for line in file.lines:
        if line.key == key and line.value:
            return ResolvedValue(key=key, text=line.value, layer=Layer.FILE, line=line.number, at=line.at)
    return ResolvedValue(key=key, text=SETTINGS[key].default, layer=Layer.DEFAULT)


def _spiffe_socket(source: ResolvedValue, environ: Mapping[str, str]) -> ResolvedValue:
    if source.text is None and (text := environ.get(SPIFFE_VARIABLE)):
        return replace(source, text=text, layer=Layer.ENV, via=SPIFFE_VARIABLE)
    return source


def _parse(source: ResolvedValue, file: FileText) -> Any:
    """The value of a source; None when unset; a SettingError when it is not one."""
    setting = SETTINGS[source.key]
    if source.text is None and setting.required:
        return SettingError.missing(setting.key, "is required", f"set it to {setting.kind.bounds}, or give {setting.flag}", file.section)
    try:
        return _value(source)
    except InvalidValue as error:
        where = f"line {source.line}: " if source.line else ""
        fix = f"{error.fix} (there are no inline comments)" if looks_commented(source) else error.fix
        return SettingError(key=source.via or source.key, layer=source.layer, what=where + error.what, fix=fix)


def _value(source: ResolvedValue) -> Any:
    if source.text is None:
        return None
    if len(source.text) > LIMIT_CHARACTERS or CONTROLS.search(source.text) is not None:
        raise InvalidValue("holds a control character or is not UTF-8", "write it as plain text on one line")
    return SETTINGS[source.key].kind.parse(source.text)


def _unknown(flags: Mapping[str, str], environ: Mapping[str, str], file: FileText) -> Iterator[SettingError]:
    """Unknown keys, each with the one that was most likely meant."""
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
