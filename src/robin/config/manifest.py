"""Kubernetes manifests: whether a program that shares a pod with Robin is kept from Robin's identity. Four points, of the bytes alone.

Points: Robin's identity volume is mounted in Robin's containers alone, users differ, processes are not shared, and the kubelet mounts no
token of its own. A pod whose containers are all Robin's has nothing to check: there is no program in it.

Importing this module imports PyYAML: do it only where a manifest is checked.
"""

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from robin.config.diagnostic import Diagnostic, Position, bounded
from robin.config.parse import shown

LIMIT_BYTES: Final = 4 << 20
_MOST_DOCUMENTS: Final = 1000
_TEMPLATES: Final = {  # where the pod is, by kind
    "Pod": ("spec",),
    "Deployment": ("spec", "template", "spec"),
    "DaemonSet": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "ReplicaSet": ("spec", "template", "spec"),
    "ReplicationController": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
_NAMED: Final = re.compile(r"robin(?:-(?:sidecar|relay|gateway|kube|broker|probe|wait|init|lockdown))?")
_IMAGE: Final = "robin"
_SPIFFE_DRIVER: Final = "csi.spiffe.io"
_IDENTITY_PATHS: Final = ("ROBIN_TOKEN_FILE", "ROBIN_SPIFFE_SOCKET", "SPIFFE_ENDPOINT_SOCKET")
_IDENTITY_FLAGS: Final = ("--token-file", "--spiffe-socket")
_DEFAULT_TOKEN_FILE: Final = "/var/run/secrets/tokens/token"  # noqa: S105 - of ROBIN_TOKEN_FILE
_TRUE: Final = frozenset({"true", "yes", "on", "y"})
_FALSE: Final = frozenset({"false", "no", "off", "n"})
_RENDER: Final = "render it first, such as with helm template or kustomize build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`pods` were looked at, since a program shares them with Robin; `alone` have Robin's containers only; `others` none of them."""

    pods: int = 0
    alone: int = 0
    others: int = 0
    findings: tuple[Diagnostic, ...] = ()


class _Unread(Exception):
    """What cannot be read as every reader reads it."""

    def __init__(self, node: yaml.Node | None, message: str, fix: str, *, line: int = 1, col: int = 1) -> None:
        super().__init__(message)
        mark = None if node is None else node.start_mark
        self.line, self.col = (line, col) if mark is None else (mark.line + 1, mark.column + 1)
        self.message, self.fix = message, fix


def check_manifest(content: bytes, name: str) -> Checked:
    """Look at every pod of a file. What cannot be read is an error, too."""
    pods = alone = others = 0
    findings: list[Diagnostic] = []
    try:
        for at, root in enumerate(_documents(content)):
            if at >= _MOST_DOCUMENTS:
                raise _Unread(root, f"there are more than {_MOST_DOCUMENTS} documents", "split the file")
            for spec in _pods(root, 0):
                pod = _Pod(spec, name)
                if not pod.robins:
                    others += 1
                elif not pod.programs:
                    alone += 1
                else:
                    pods += 1
                    findings += pod.check()
    except _Unread as unread:
        at_place = Position(file=name, line=unread.line, col=unread.col)
        findings.append(Diagnostic(at=at_place, code="yaml_invalid", message=unread.message, fix=unread.fix))
    return Checked(pods=pods, alone=alone, others=others, findings=bounded(findings))


def _documents(content: bytes) -> Iterator[yaml.Node]:
    """The root of each document that has one. Raises _Unread."""
    if len(content) > LIMIT_BYTES:
        raise _Unread(None, "the file is larger than 4 MiB", "split it")
    try:
        yield from (root for root in yaml.compose_all(content, Loader=yaml.SafeLoader) if root is not None)  # nothing is constructed
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, col = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        raise _Unread(None, f"it is no YAML: {error.problem or 'it cannot be parsed'}", _RENDER, line=line, col=col) from None
    except (yaml.YAMLError, RecursionError, ValueError):
        raise _Unread(None, "it is no YAML, or nested too deep", _RENDER) from None


def _pods(root: yaml.Node, depth: int) -> Iterator[yaml.MappingNode]:
    """The pod of an object, or those of a list of objects."""
    kind = _text(_get(root, "kind"))
    if kind.endswith("List") and depth == 0:
        for item in _items(_get(root, "items")):
            yield from _pods(item, depth + 1)
    if kind not in _TEMPLATES:
        return
    spec: yaml.Node | None = root
    for key in _TEMPLATES[kind]:
        spec = _get(spec, key)
    if isinstance(spec, yaml.MappingNode):
        yield spec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Volume:
    """What matters of a volume: `projected` are the audiences of its service account tokens."""

    node: yaml.Node
    kind: str
    projected: frozenset[str]


class _Pod:
    """One pod: `robins` are Robin's containers, `programs` all others, init containers among both."""

    def __init__(self, spec: yaml.MappingNode, file: str) -> None:
        self._spec = spec
        self._file = file
        containers = [*_items(_get(spec, "initContainers")), *_items(_get(spec, "containers"))]
        self.robins = [one for one in containers if _is_robin(one)]
        self.programs = [one for one in containers if not _is_robin(one)]
        self._volumes = {_text(_get(one, "name")): _volume(one) for one in _items(_get(spec, "volumes"))}

    def check(self) -> Iterator[Diagnostic]:
        """The four points."""
        yield from self._check_mounts()
        yield from self._check_users()
        for key in ("shareProcessNamespace", "hostPID"):
            node = _get(self._spec, key)
            if node is not None and _is(node, _TRUE, default=False):
                text = f"{key} lets the programs of this pod see Robin's processes"
                yield self._finding(node, "process_namespace_shared", text, "remove it")
        node = _get(self._spec, "automountServiceAccountToken")
        if not _is(node, _FALSE, default=False):
            text = "the kubelet mounts a token of the service account into every container of this pod"
            fix = "set automountServiceAccountToken: false in the pod, and give Robin a projected token"
            yield self._finding(self._spec if node is None else node, "token_automounted", text, fix)

    def _check_mounts(self) -> Iterator[Diagnostic]:
        """What is Robin's by what it is, and by where Robin looks for it, is in no other container."""
        mine: set[str] = set()
        audiences: set[str] = set()
        for robin in self.robins:
            mounted = {path: volume for volume, path, _ in _mounts(robin)}
            looked_at = {_holding(mounted, wanted) for wanted in _identity_paths(robin)}
            for volume, path, _ in _mounts(robin):
                found = self._volumes.get(volume)
                secret = found is not None and (found.kind in ("secret", "csi") or found.projected)
                if secret or path in looked_at:
                    mine.add(volume)
                    audiences |= found.projected if found is not None else frozenset()
        for program in self.programs:
            for volume, _, node in _mounts(program):
                found = self._volumes.get(volume)
                name = shown(_text(_get(program, "name")))
                if volume in mine:
                    text = f"the container {name} mounts {shown(volume)}, which Robin's identity or key is in"
                elif found is not None and (found.kind == "csi" or found.projected & audiences):
                    text = f"the container {name} mounts {shown(volume)}, which gives it an identity like Robin's"
                else:
                    continue
                yield self._finding(node, "identity_volume_shared", text, "mount it in Robin's container alone")

    def _check_users(self) -> Iterator[Diagnostic]:
        """No program runs as Robin's user. Where neither is written, their images decide, and nothing is known."""
        context = _get(self._spec, "securityContext")
        robins = {_user(one, context) for one in self.robins if _user(one, context) != "0"}
        for program in self.programs:
            user, node = _user(program, context), _get(program, "securityContext")
            name = shown(_text(_get(program, "name")))
            if user and user in robins:
                text = f"the container {name} runs as Robin's user {user}"
                yield self._finding(node or program, "same_user", text, "give each a runAsUser of its own")
            elif not user and robins == {""}:
                text = f"it is not known whether the container {name} and Robin run as different users"
                yield self._finding(program, "same_user", text, "set runAsUser of Robin's container, to one that no other image has")

    def _finding(self, node: yaml.Node, code: str, message: str, fix: str) -> Diagnostic:
        at = Position(file=self._file, line=node.start_mark.line + 1, col=node.start_mark.column + 1)
        return Diagnostic(at=at, code=code, message=message, fix=fix)


def _is_robin(container: yaml.Node) -> bool:
    """By its name, or by the last part of its image's name; `robin-agent` is a program that uses Robin."""
    image = _text(_get(container, "image")).rpartition("/")[2].partition("@")[0].partition(":")[0]
    return image == _IMAGE or _NAMED.fullmatch(_text(_get(container, "name"))) is not None


def _volume(node: yaml.Node) -> _Volume:
    audiences = set()
    for source in _items(_get(_get(node, "projected"), "sources")):
        token = _get(source, "serviceAccountToken")
        if token is not None:
            audiences.add(_text(_get(token, "audience")) or "the API server's")
    host_path = _text(_get(_get(node, "hostPath"), "path"))
    kind = ""
    if _text(_get(_get(node, "csi"), "driver")) == _SPIFFE_DRIVER or "spiffe" in host_path or "spire" in host_path:
        kind = "csi"
    elif _get(node, "secret") is not None:
        kind = "secret"
    return _Volume(node=node, kind=kind, projected=frozenset(audiences))


def _mounts(container: yaml.Node) -> Iterator[tuple[str, str, yaml.Node]]:
    for mount in _items(_get(container, "volumeMounts")):
        yield _text(_get(mount, "name")), _text(_get(mount, "mountPath")), mount


def _identity_paths(container: yaml.Node) -> list[str]:
    """Where Robin's container looks for its identity: settings in its environment and its flags, else the default."""
    given = {_text(_get(one, "name")): _text(_get(one, "value")) for one in _items(_get(container, "env"))}
    paths = [given[name] for name in _IDENTITY_PATHS if given.get(name)]
    words = [_text(one) for key in ("command", "args") for one in _items(_get(container, key))]
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag in _IDENTITY_FLAGS:
            paths.append(value if equals else "".join(words[at + 1 : at + 2]))
    return [path.removeprefix("unix://") for path in paths] or [_DEFAULT_TOKEN_FILE]


def _holding(mounted: Collection[str], path: str) -> str:
    """The mount that a path is in: the longest; "" if there is none."""
    path = posixpath.normpath(path)
    holding = [one for one in mounted if f"{path}/".startswith(posixpath.normpath(one or "/").rstrip("/") + "/")]
    return max(holding, key=lambda one: len(posixpath.normpath(one)), default="")


def _user(container: yaml.Node, pod_context: yaml.Node | None) -> str:
    return _text(_get(_get(container, "securityContext"), "runAsUser")) or _text(_get(pod_context, "runAsUser"))


def _get(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """The value of a key of a mapping. Raises _Unread where readers may differ in it."""
    if not isinstance(node, yaml.MappingNode):
        return None
    found = None
    for name, value in node.value:
        if name.tag == "tag:yaml.org,2002:merge":
            raise _Unread(name, "a merge key", f"write the values at their place, or {_RENDER}")
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            if found is not None:
                raise _Unread(name, f"the key {key} is there twice", "remove one of them")
            found = value
    return None if found is not None and found.tag == "tag:yaml.org,2002:null" else found


def _items(node: yaml.Node | None) -> Sequence[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _is(node: yaml.Node | None, words: frozenset[str], *, default: bool) -> bool:
    """Whether a boolean is one of the words; a string is none."""
    if not isinstance(node, yaml.ScalarNode):
        return default
    return node.tag == "tag:yaml.org,2002:bool" and node.value.lower() in words
