"""`robin schema PLANE`: a JSON Schema on standard output, without loading PyYAML."""

import json
import subprocess
import sys

import pytest
from tests.cli.conftest import RunRobin

from robin.cli.main import main
from robin.config.schema import document_schema
from robin.config.sidecar import SCHEMA


async def test_it_prints_the_schema_of_the_section(run_robin: RunRobin) -> None:
    ended = await run_robin("schema", "sidecar")
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out) == json.loads(json.dumps(document_schema(SCHEMA, "the section `sidecar` of robin.yaml")))


def test_a_plane_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["schema", "gate"], ["schema"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        assert "PLANE" in capsys.readouterr().err


def test_pyyaml_is_loaded_only_for_a_yaml_file() -> None:
    code = "import sys; from robin.cli.main import main; main(sys.argv[1:]); sys.exit('yaml' in sys.modules)"
    for words in (["schema", "sidecar"], ["check", "--upstream-url", "https://broker.example"]):
        assert subprocess.run([sys.executable, "-c", code, *words], env={}, stdout=subprocess.DEVNULL, check=False).returncode == 0
