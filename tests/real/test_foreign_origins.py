"""The hostile corpus, forwarded to eight foreign origins: Robin refuses, or each reads the one message that Robin sent, or refuses it.

What an origin may do otherwise is written down here, by name; a second message, another method, target, field or body is a failure.
"""

from pathlib import Path

import pytest
from tests.corpus.cases import Forwarded
from tests.corpus.load import REQUESTS
from tests.real.parts import origins
from tests.real.parts.foreign import trial

pytestmark = pytest.mark.real

TRAILERS = frozenset(case.id for case in REQUESTS if case.id.startswith("trailer-") and isinstance(case.verdicts[0], Forwarded))

# Legal requests that an origin refuses (4xx, or by hanging up), which is its right.
MAY_REFUSE = {
    "go": frozenset({"target-lone-percent"}),  # a percent sign without two digits
    "nginx": frozenset(
        {"target-percent-nul", "target-lone-percent", "target-dots-without-base", "target-encoded-dots-without-base"}
    ),  # %00, a lone percent sign, and dot segments above the root
    # java.net.URI takes neither quotes nor a lone percent sign; the JDK's chunked reader knows no trailers and hangs up
    "java": frozenset({"target-verbatim", "target-odd-characters", "target-lone-percent"}) | TRAILERS,
}
# Fields that a proxy adds of its own on its way to the h11 origin behind it.
ADDED = {"nginx": frozenset({b"connection"}), "envoy": frozenset({b"x-forwarded-proto"})}
TABS_ARE_SPACES = {"java"}  # its reader makes one space of a tab inside a value


@pytest.mark.parametrize("name", origins.ALL)
async def test_every_forwarded_request_of_the_corpus_is_read_as_robin_sent_it(name: str, tmp_path: Path) -> None:
    with origins.ALL[name]() as url:
        async with trial(tmp_path, url) as running:
            for case in REQUESTS:
                await running.put(case, ignored=ADDED.get(name, frozenset()), tabs_are_spaces=name in TABS_ARE_SPACES)
    tally = running.tally
    assert tally.differs == []
    assert tally.refused <= MAY_REFUSE.get(name, frozenset())
    assert tally.agreed >= 150, tally
    assert tally.by_robin >= 300, tally


async def test_an_origin_that_reads_a_message_twice_is_noticed(tmp_path: Path) -> None:
    """The judge itself: nginx told to send each request on twice, which no answer shows."""
    with origins.by_nginx("mirror /again;") as url:
        async with trial(tmp_path, url) as running:
            for case in REQUESTS[:20]:
                await running.put(case, ignored=ADDED["nginx"], tabs_are_spaces=False)
    assert any("messages, Robin sent" in line for line in running.tally.differs)


async def test_an_origin_that_reads_another_field_or_body_is_noticed(tmp_path: Path) -> None:
    """The judge itself: nginx told to change a field, and to drop the body."""
    with origins.by_nginx("proxy_set_header Cookie changed; proxy_pass_request_body off; proxy_set_header Content-Length 0;") as url:
        async with trial(tmp_path, url) as running:
            for case in REQUESTS:
                if case.id in {"length-body-looks-like-a-request", "chunk-two", "fields-end-to-end"}:
                    await running.put(case, ignored=ADDED["nginx"], tabs_are_spaces=False)
    assert {line.partition(" ")[0] for line in running.tally.differs} >= {
        "length-body-looks-like-a-request:",
        "chunk-two:",
        "fields-end-to-end:",
    }
    assert any(": body " in line for line in running.tally.differs)
