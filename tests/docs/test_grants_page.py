"""docs/reference/credentials.md names every kind of grant, preset and key, and its example of each kind loads."""

import re

import pytest
from tests.docs.test_faults_page import CREDENTIALS_PAGE

from robin.config.grant_kinds.catalog import KINDS
from robin.config.presets import PRESETS
from robin.config.profile import read_profile
from robin.config.profile_schema import TOKEN_GRANT


def rows_of(head: str) -> dict[str, str]:
    """The rows of the table that begins with this head, by their first cell."""
    table = CREDENTIALS_PAGE[CREDENTIALS_PAGE.index(f"| {head} |") :].split("\n\n")[0]
    return {line.split(" | ")[0].strip("| `"): line for line in table.split("\n")[2:]}


def test_every_kind_preset_and_key_has_its_row() -> None:
    assert rows_of("`grant_type`").keys() == KINDS.keys()
    assert rows_of("`preset`").keys() == PRESETS.keys()
    keys = " ".join(rows_of("key | default")) + " ".join(rows_of("`grant_type`").values())
    assert {field.name for field in TOKEN_GRANT.fields} - set(re.findall(r"[a-z0-9_]+", keys)) - {"grant_type"} == set()
    for name, kind in KINDS.items():
        assert {field.name for field in kind.fields} <= set(re.findall(r"[a-z_]+", rows_of("`grant_type`")[name])), name


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(id: .*?)```", CREDENTIALS_PAGE, re.DOTALL))
def test_the_profiles_of_the_page_load(block: str) -> None:
    profile, found = read_profile(block.encode(), "p.yaml")
    assert profile is not None, [str(one) for one in found]
    if profile.id == "kinds":
        assert {one.grant.kind for one in profile.credentials if one.grant} >= set("forward token_exchange chain static_file".split())
