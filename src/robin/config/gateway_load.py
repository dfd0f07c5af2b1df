"""robin.yaml -> the gateway's settings, or everything that is wrong with the file."""

from collections.abc import Mapping
from dataclasses import dataclass

from robin.config.diagnostic import Diagnostic, Position
from robin.config.gateway_files import Contents, GatewayFiles, read_settings
from robin.planes.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGateway:
    """The settings, None where an error is among the diagnostics; the files that they are of, and what those held."""

    settings: GatewaySettings | None
    diagnostics: tuple[Diagnostic, ...]
    files: GatewayFiles
    contents: Contents


def load_gateway(
    path: str, identities: Mapping[str, str | None] | None = None, *, files_elsewhere: bool = False
) -> tuple[GatewaySettings | None, tuple[Diagnostic, ...]]:
    """The settings and the diagnostics of `read_gateway`, which raises OSError too."""
    loaded = read_gateway(path, identities, files_elsewhere=files_elsewhere)
    return loaded.settings, loaded.diagnostics


def read_gateway(path: str, identities: Mapping[str, str | None] | None = None, *, files_elsewhere: bool = False) -> LoadedGateway:
    """Read robin.yaml and its profiles. The rest is that of `build_gateway`. Raises OSError where robin.yaml cannot be read.

    The profiles are digested before they are read: one that changes meanwhile differs from its digest, and is seen as changed.
    """
    return parse_gateway(read_settings(path), path, identities, files_elsewhere=files_elsewhere)


def parse_gateway(
    content: bytes, path: str, identities: Mapping[str, str | None] | None = None, *, files_elsewhere: bool = False
) -> LoadedGateway:
    """The same of a document that was read; `path` names it in diagnostics, and its folder is that of profiles."""
    from robin.config.gateway import build_gateway  # noqa: PLC0415 - PyYAML is loaded only where there is a YAML file
    from robin.config.robin_yaml import document  # noqa: PLC0415
    from robin.config.yaml_reader import read_yaml  # noqa: PLC0415
    from robin.config.yaml_tree import MOST_NODES_OF_RULES  # noqa: PLC0415

    root, diagnostics = read_yaml(content, path, document(), most_nodes=MOST_NODES_OF_RULES)
    section = None if root is None else root.value.get("gateway")
    profiles = None if section is None else section.value.get("profiles")
    patterns = () if profiles is None else tuple(str(item.value) for item in profiles.value)
    files = GatewayFiles(file=path, patterns=patterns)
    contents = files.contents(content)
    settings = None
    if section is not None and section.at is None:
        start, fix = Position(file=path, line=1, col=1), "add `gateway:`; with `gateway: {}` all of it is as by default"
        missing = Diagnostic(at=start, code="key_missing", message="there is no section `gateway`", fix=fix)
        diagnostics = (*diagnostics, missing)
    if section is not None and not any(one.severity == "error" for one in diagnostics):
        settings, more = build_gateway(section, path, identities, files_elsewhere=files_elsewhere)
        diagnostics = (*diagnostics, *more)
    return LoadedGateway(settings=settings, diagnostics=diagnostics, files=files, contents=contents)
