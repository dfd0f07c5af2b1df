"""O5: what the pages show of the packaging is what is shipped, to the byte."""

from pathlib import Path

import pytest
import yaml
from tests.docs.pages import DOCS, blocks

DEPLOY = Path(__file__).parents[2] / "deploy"
KINDS = (".yaml", ".service", ".socket", ".env", ".lock", "")


def texts(page: str, language: str) -> list[str]:
    return [block.text for block in blocks() if block.page == DOCS / "how-to" / page and block.language == language]


@pytest.mark.parametrize(
    ("page", "language", "shipped"),
    [
        ("run-on-kubernetes.md", "yaml", "kubernetes/sidecar.yaml"),
        ("run-with-systemd.md", "ini", "systemd/robin.service"),
        ("run-with-systemd.md", "ini", "systemd/robin.socket"),
        ("run-with-systemd.md", "ini", "systemd/robin.env"),
        ("run-in-a-container.md", "dockerfile", "docker/Dockerfile"),
    ],
)
def test_o5_the_page_shows_the_shipped_file(page: str, language: str, shipped: str):
    assert (DEPLOY / shipped).read_text() in texts(page, language)


def test_o5_the_lines_that_end_a_classic_job_are_those_of_the_manifest():
    (shown,) = texts("drain-and-end-jobs.md", "sh")
    job = yaml.safe_load((DEPLOY / "kubernetes" / "job-classic.yaml").read_text())
    (work,) = [one for one in job["spec"]["template"]["spec"]["containers"] if one["name"] == "work"]
    assert work["args"] == [shown]


def test_every_shipped_file_is_on_a_page():
    names = (
        "run-on-kubernetes",
        "run-with-systemd",
        "run-in-a-container",
        "drain-and-end-jobs",
        "use-spiffe",
        "give-an-agent-kubectl",
        "deploy-the-gateway",
        "run-the-broker-on-kubernetes",
    )
    pages = "".join((DOCS / "how-to" / f"{name}.md").read_text() for name in names)
    whole = [Path("deploy/helm/robin-gateway"), Path("deploy/kustomize/gateway")]  # a page names these as a whole
    found = [
        path.relative_to(DEPLOY.parent) for path in DEPLOY.rglob("*") if path.is_file() and path.suffix in KINDS and path.name != "build"
    ]
    shipped = [*whole, *(path for path in found if not any(path.is_relative_to(folder) for folder in whole))]
    assert [str(path) for path in shipped if f"../../{path}" not in pages] == []
