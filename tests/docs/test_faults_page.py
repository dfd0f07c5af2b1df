"""The pages of faults and outcomes are the code's tables: every row, every reason word, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import DOCS, ROOT

from robin.model.faults import FAULTS as ALL
from robin.model.faults import OUTCOMES
from robin.model.gateway_faults import GATEWAY_FAULTS
from robin.model.grant_faults import GRANT_FAULTS
from robin.model.kube_faults import KUBE_FAULTS

FAULTS = {code: kind for code, kind in ALL.items() if code not in {*GRANT_FAULTS, *KUBE_FAULTS}}
"""The page is the sidecar's."""

FAULTS_PAGE = (DOCS / "reference" / "faults.md").read_text()
GATEWAY_PAGE = (DOCS / "reference" / "gateway.md").read_text()
CREDENTIALS_PAGE = (DOCS / "reference" / "credentials.md").read_text()
OUTCOMES_PAGE = (DOCS / "reference" / "outcomes.md").read_text()

COMPUTED = {
    "peer_denied": {"uid", "no_credentials", "not_loopback"},
    "limit_connections": {"connections"},
    "identity_refused": {"invalid_argument", "unimplemented"},
    "identity_unavailable": {"deadline_exceeded", "unavailable", "permission_denied", "unchanged", "starting"},
    "dns_timeout": {"dns_timeout"},
    "connect_timeout": {"connect_timeout"},
    "upstream_certificate": {"unknown_ca", "name_mismatch", "expired", "not_yet_valid"},
    "identity_expired": {"identity_unavailable"},  # the code whose words it borrows
}
"""Words that the code makes of other words, and so cannot be read off it."""

NOT_OF_THE_SIDECAR = {"http_call.py", "issuers.py", "providers.py"}
"""Modules about calls of our own and about providers."""

BY_CALL = {"bad": "bad_request", "FramingError": "bad_request", "_broken": "upstream_protocol", "_malformed": "identity_malformed"}


def rows(page: str, columns: int) -> list[list[str]]:
    """Rows of tables with so many columns whose first cell is a word in backticks."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if re.match(r"\| `\w+` \|", line)]
    return [row for row in found if len(row) == columns]


def section_of(code: str) -> str:
    """The source that the section of this code's row names."""
    before = FAULTS_PAGE[: FAULTS_PAGE.index(f"\n| `{code}` |")]
    return re.findall(r"^## .*\(`(\w+)`\)$", before, re.MULTILINE)[-1]


OF_THE_GATEWAY = GATEWAY_FAULTS.keys()
GATEWAY_PARTS = set("gateway gateway.py gateway_file.py reverse.py explain_reverse.py relay.py address_guard.py dns.py explain.py".split())


def test_every_row_of_the_gateway_is_the_codes_row() -> None:
    told = {row[0].strip("`"): (int(row[1]), row[2].strip("`"), row[3], row[4]) for row in rows(GATEWAY_PAGE, 7)}
    assert told == {
        code: (kind.status, kind.error, "never" if kind.retry_after_s is None else "after", "yes" if kind.closes else "no")
        for code, kind in GATEWAY_FAULTS.items()
    }


def test_every_row_of_grants_is_the_codes_row() -> None:
    told = {row[0].strip("`"): (int(row[1]), row[2].strip("`"), row[3], row[4]) for row in rows(CREDENTIALS_PAGE, 7)}
    kinds = {code: ALL[code] for code in GRANT_FAULTS - OF_THE_GATEWAY}
    assert told == {
        code: (kind.status, kind.error, "never" if kind.retry_after_s is None else "after", "yes" if kind.closes else "no")
        for code, kind in kinds.items()
    }


def test_every_row_is_the_codes_row() -> None:
    told = {row[0].strip("`"): (int(row[1]), row[2].strip("`"), row[3], row[4]) for row in rows(FAULTS_PAGE, 7)}
    assert told == {
        code: (kind.status, kind.error, "never" if kind.retry_after_s is None else "after", "yes" if kind.closes else "no")
        for code, kind in FAULTS.items()
        if code not in OF_THE_GATEWAY
    }
    assert {code: section_of(code) for code in told} == {code: FAULTS[code].source.value for code in told}


def test_every_row_says_cause_and_fix() -> None:
    for row in rows(FAULTS_PAGE, 7):
        assert all(cell.endswith(".") for cell in row[5:]), row[0]


def test_every_outcome_is_on_its_page_and_nothing_else_is() -> None:
    own = {row[0].strip("`") for row in rows(OUTCOMES_PAGE, 3)}
    assert own == OUTCOMES - ALL.keys()
    assert set(re.findall(r"`([a-z_]+)`", OUTCOMES_PAGE.partition("## Which")[2])) <= OUTCOMES
    groups = set(re.findall(r"`([a-z_]+)`", OUTCOMES_PAGE.partition("## Which")[2]))
    assert {code for code, kind in FAULTS.items() if kind.source.value in {"identity", "upstream"} and code not in OF_THE_GATEWAY} <= groups


def test_every_reason_word_of_the_code_is_on_the_page_and_no_other() -> None:
    told = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in rows(FAULTS_PAGE, 2) if row[0].strip("`") in FAULTS}
    said: dict[str, set[str]] = {code: set(words) for code, words in COMPUTED.items()}
    for path in sorted((ROOT / "src" / "robin").rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if not {"testing", "kube", *GATEWAY_PARTS} & set(parts) and path.name not in NOT_OF_THE_SIDECAR:
            for code, word in _reasons(path):
                if code in FAULTS:
                    said.setdefault(code, set()).add(word)
    assert told == said


def _reasons(path: Path) -> Iterator[tuple[str, str]]:
    """(code, reason word) of each call that refuses something with a text of its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        texts = [_text(argument) for argument in node.args]
        named = {keyword.arg: _text(keyword.value) for keyword in node.keywords}
        if name == "Fault" and len(texts) > 1 and texts[0] and texts[1]:
            yield texts[0], texts[1].partition(":")[0]
        elif name == "Denial":
            yield named["code"], named["detail"].partition(":")[0]
        elif name in {"TokenRefused", "_discarded"} and texts[0] and texts[1]:
            yield texts[0], texts[1]
        elif name == "SourceFailure" and len(texts) > 1 and texts[1]:
            yield named.get("fault") or "identity_unavailable", texts[1].partition(":")[0]
        elif name in BY_CALL and texts[0]:
            yield BY_CALL[name], "bad_response" if name == "_broken" else texts[0].partition(":")[0]


def _text(node: ast.expr) -> str:
    """The constant text that an argument is or begins with; empty where it is computed."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
