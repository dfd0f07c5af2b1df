"""Helm and kustomize, as their users run them: helm from its Go module, kustomize as kubectl has it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.deploy.renders import CHART, FOLDER, NAMESPACE, Objects, parsed
from tests.real.parts import gobuild, versions


class RenderRefused(Exception):
    """What helm or kustomize wrote."""


def helm(release: str, values: dict[str, Any], *, namespace: str = NAMESPACE) -> Objects:
    """`helm template`, without a cluster."""
    return parsed(_run(*helm_command("template", release, namespace), f"--kube-version={versions.KUBERNETES}", values=values))


def lint(values: dict[str, Any]) -> str:
    """What `helm lint --strict` says, which a warning fails too. Raises RenderRefused."""
    return _run(gobuild.find(gobuild.HELM) / "helm", "lint", "--strict", CHART, "--values=-", values=values)


def helm_command(word: str, release: str, namespace: str) -> tuple[str | Path, ...]:
    """`helm install` and the like of our chart; its values come from standard input."""
    return (gobuild.find(gobuild.HELM) / "helm", word, release, CHART, f"--namespace={namespace}", "--values=-")


def apply(kubeconfig: Path, word: str, release: str, namespace: str, values: dict[str, Any]) -> None:
    """`helm install` or `helm upgrade` as `word`. Raises RenderRefused."""
    environment = {"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)}
    _run(*helm_command(word, release, namespace), values=values, environment=environment)


def kustomize(name: str | Path) -> Objects:
    """`kubectl kustomize` of an overlay in tests/deploy/gateway, or of another folder."""
    return parsed(_run(gobuild.find(gobuild.KUBERNETES) / "kubectl", "kustomize", FOLDER / name))


def _run(*command: str | Path, values: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> str:
    asked = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False, timeout=120, env=environment)
    if asked.returncode != 0:
        raise RenderRefused(asked.stdout + asked.stderr)
    return asked.stdout
