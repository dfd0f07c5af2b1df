"""Who asks in one turn of the loop shares one text for each format; the next turn has its own."""

import asyncio

import pytest

from robin.admin.shared_scrape import SharedScrape

OPENMETRICS = "application/openmetrics-text"


async def test_a_text_serves_its_turn_and_no_longer():
    asked: list[str] = []

    def scrape(accept: str) -> tuple[str, bytes]:
        asked.append(accept)
        return accept, b"%d" % len(asked)

    shared = SharedScrape(scrape)
    assert [shared("text/plain"), shared(""), shared("*/*;q=0.1")] == [("text/plain", b"1")] * 3
    assert shared(OPENMETRICS) == shared(OPENMETRICS + ";version=1.0.0") == (OPENMETRICS, b"2")
    await asyncio.sleep(0)
    assert shared("") == ("", b"3")
    assert asked == ["text/plain", OPENMETRICS, ""]


async def test_a_scrape_that_fails_is_tried_again():
    texts = [b"fine"]

    def scrape(_: str) -> tuple[str, bytes]:
        if texts:
            raise ValueError(texts.pop())
        return "", b"good"

    shared = SharedScrape(scrape)
    with pytest.raises(ValueError, match="fine"):
        shared("")
    assert shared("") == ("", b"good")
