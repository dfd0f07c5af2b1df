"""The threat model names each attack that is run on the gateway, and no other."""

import re

from tests.docs.pages import DOCS, ROOT


def test_every_attack_on_the_gateway_is_named_by_the_threat_model_and_no_other() -> None:
    attacks = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / "tests/planes/gateway/test_attacks.py").read_text(), re.MULTILINE)
    page = (DOCS / "explanation" / "threat-model.md").read_text()
    told = re.findall(r"`(test_\w+)`", page.partition("\n## The egress gateway\n")[2].partition("\n## ")[0])
    assert sorted(attacks) == sorted(told)
    assert len(attacks) == len(set(attacks)) > 20
