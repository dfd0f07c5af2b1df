"""Several identities at once: one per source and audience, together in life, apart in probes and metrics."""

import asyncio
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from tests.identity.parts import Parts
from tests.identity.test_catalog import file, issue, jwtsvid

from robin.identity.identities import Identities, TooManyIdentities
from robin.identity.settings import IdentitySettings
from robin.model.identity import IdentityState
from robin.telemetry.exposition import OPENMETRICS, Exposition
from robin.testing.tokens import make_token
from robin.testing.waiting import eventually
from robin.testing.workload_api import WorkloadApi
from robin.transport.clock import SystemClock


class Stage:
    """Two files as sources `left` and `right`, each with a token for its own audience."""

    def __init__(self, folder: Path, *, limit: int = 8) -> None:
        self.parts = Parts(clock=SystemClock())
        sources: dict[str, IdentitySettings] = {}
        for name in ("left", "right"):
            (folder / name).write_bytes(make_token(expires_at=time.time() + 600, audience=[name, "both"]))
            sources[name] = file(str(folder / name), audience=name)
        self.identities = Identities(sources, self.parts.dependencies, limit=limit)


async def test_a_pair_of_source_and_audience_is_one_identity(tmp_path: Path) -> None:
    identities = Stage(tmp_path).identities
    first = identities.get("left")
    assert identities.get("left", "left") is first
    assert identities.get("left", "both") is not first
    assert identities.get("right", "both") is not identities.get("left", "both")
    assert len(identities) == 3
    with pytest.raises(KeyError):
        identities.get("middle")


async def test_identities_start_wake_and_close_together(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    both = [stage.identities.get("left"), stage.identities.get("right")]
    await stage.identities.start()
    assert [(status.source, status.usable) for status in stage.identities.statuses()] == [("left", True), ("right", True)]
    tokens = [await identity.obtain() for identity in both]
    assert [token.audiences for token in tokens] == [("left", "both"), ("right", "both")]
    assert stage.parts.changes == 2
    for name in ("left", "right"):
        (tmp_path / name).unlink()
    stage.identities.wake()
    await eventually(lambda: all(status.state is IdentityState.STALE for status in stage.identities.statuses()), what="a new look")
    await stage.identities.close()
    await asyncio.sleep(0)
    assert len(stage.parts.tasks) == 0


async def test_an_identity_that_is_asked_for_after_the_start_is_started(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.identities.start()
    late = stage.identities.get("left")
    await eventually(lambda: late.status().usable, what="the late identity")
    await stage.identities.close()


async def test_of_later_settings_what_is_unchanged_goes_on_and_the_rest_is_new_or_ends(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    left, right, _ = (stage.identities.get(*pair) for pair in (("left",), ("right",), ("left", "both")))
    await stage.identities.start()
    (tmp_path / "other").write_bytes(make_token(expires_at=time.time() + 600, audience=["right", "both"]))
    later = stage.identities.succeed(
        {"left": file(str(tmp_path / "left"), audience="left"), "right": file(str(tmp_path / "other"), audience="right")}
    )
    assert later.get("left") is left
    assert later.get("right") is not right
    assert not later.get("right").status().usable  # it is not started before it is to be used
    assert len(later) == 2
    await later.start()
    assert [(status.source, status.usable) for status in later.statuses()] == [("left", True), ("right", True)]
    await stage.identities.close(after=later)
    (tmp_path / "left").unlink()
    later.wake()
    await eventually(lambda: left.status().state is IdentityState.STALE, what="that the one which goes on still looks")
    await later.close()
    await asyncio.sleep(0)
    assert len(stage.parts.tasks) == 0


async def test_the_number_of_identities_is_bounded(tmp_path: Path) -> None:
    stage = Stage(tmp_path, limit=2)
    first = stage.identities.get("left")
    stage.identities.get("right")
    with pytest.raises(TooManyIdentities, match="too_many_identities"):
        stage.identities.get("left", "other")
    assert stage.identities.get("left") is first
    assert len(stage.identities) == 2


async def test_audiences_of_one_workload_api_are_fetched_apart(tmp_path: Path) -> None:
    parts, api = Parts(clock=SystemClock()), WorkloadApi(issue)
    address = await api.start_unix(str(tmp_path / "api"))
    identities = Identities({"default": jwtsvid(address)}, parts.dependencies)
    found = [await identities.get("default", audience).obtain() for audience in (None, "alpha", "beta")]
    assert [token.audiences for token in found] == [("broker.example",), ("alpha",), ("beta",)]
    assert [status.source for status in identities.statuses()] == ["default", "default#2", "default#3"]
    await identities.close()
    await api.close()


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text"])
async def test_several_identities_scrape_without_a_duplicate_series(tmp_path: Path, accept: str) -> None:
    stage = Stage(tmp_path)
    for source, audience in (("left", None), ("left", "both"), ("right", None)):
        stage.identities.get(source, audience)
    await stage.identities.start()
    kind, text = Exposition([stage.identities], plane="gateway").scrape(accept)
    parse = parse_openmetrics if kind == OPENMETRICS else parse_plain
    samples = [(sample.name, tuple(sorted(sample.labels.items()))) for family in parse(text.decode()) for sample in family.samples]
    assert len(samples) == len(set(samples))
    ready = [dict(labels)["source"] for name, labels in samples if name == "robin_identity_ready"]
    assert ready == ["left", "left#2", "right"]
    assert "both" not in text.decode(), "an audience is a label"
    await stage.identities.close()
