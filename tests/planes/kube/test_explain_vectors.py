"""K1: `robin explain kube --json` gives each vector of the specification the fields, the tier or the code that the plane gives it."""

import json
from pathlib import Path

import pytest
from tests.policy.test_kube_vectors import LABELS_ONLY, PATHS, REFUSED, VECTORS

from robin.cli.main import main


def explain(capsys: pytest.CaptureFixture[str], line: str, *flags: str) -> tuple[int, dict[str, object]]:
    method, _, target = line.partition(" ")
    code = main(["explain", "kube", method, target, "--json", *flags])
    return code, json.loads(capsys.readouterr().out)


def test_resources(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "body").write_bytes(LABELS_ONLY[0])
    for number, line, verb, resource, group, namespace, name, tier in VECTORS:
        body = ["--body", str(tmp_path / "body"), "--content-type", LABELS_ONLY[1]] if number == 8 and "dryRun" in line else []
        code, told = explain(capsys, line, *body)
        full = f"{told['resource']}/{told['subresource']}" if told["subresource"] else told["resource"]
        found = (code, told["verb"], full, told["group"], told["namespace"], told["name"], told["tier"])
        assert found == (4, verb, resource, group, namespace, name, tier), line  # without a policy nothing is allowed


def test_paths_that_are_no_resources(capsys: pytest.CaptureFixture[str]):
    for _, line, tier in PATHS:
        code, told = explain(capsys, line)
        assert (code, told["resource_request"], told["tier"]) == (4, False, tier), line


def test_refusals(capsys: pytest.CaptureFixture[str]):
    for reason, line in REFUSED:
        if line.partition(" ")[2].startswith("https://"):
            continue  # explain takes the path of a URL; on the wire this form is refused
        code, told = explain(capsys, line)
        assert (code, told["decision"], told["code"], told["status"]) == (
            5,
            "refused",
            f"kube.{reason}",
            405 if reason == "method" else 400,
        ), line
