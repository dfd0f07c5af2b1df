"""The openai and anthropic SDKs do all that they do against their own servers, through Robin, with a placeholder for a key."""

import asyncio
from pathlib import Path

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.models import SPEECH, ModelServer, answer_to
from tests.real.clients.stand import Stand
from tests.real.parts import pyclients
from tests.real.parts.guarded import PLACEHOLDER
from tests.real.parts.program import Ended, run

pytestmark = pytest.mark.real

PROGRAMS = Path(__file__).parent / "python"


async def used(stand: Stand, models: ModelServer, program: str, environment: dict[str, str]) -> Ended:
    """Run the program; while it is in the middle of its paused stream, the token is rotated under it."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run([pyclients.find(), PROGRAMS / program], home=stand.home, environment=environment))
        running.add_done_callback(lambda _: models.half_way.set())
        await models.half_way.wait()
        assert len(stand.server.tokens) == 1
        stand.rotate()
        models.go_on.set()
    return running.result()


async def test_the_openai_sdk_works_unchanged_while_the_token_rotates_under_its_stream(stand_of: Stands) -> None:
    models = ModelServer()
    async with stand_of(models.route) as stand:
        environment = {"OPENAI_BASE_URL": f"{stand.url}/v1", "OPENAI_API_KEY": PLACEHOLDER}
        told = (await used(stand, models, "use_openai.py", environment)).told
        assert told["models"] == ["robin-1"]
        assert told["plain"] == [answer_to("plain"), "req-1"]
        assert told["paused"] == answer_to("<pause>")
        assert told["after"] == answer_to("after")
        assert told["responses"] == [answer_to("events")] * 2
        assert told["embedding"] == [1.5, -2.25, 4.0]
        assert told["file"] == 3_000_000
        assert told["speech"] == told["async speech"] == len(SPEECH)
        assert told["throttled"] == answer_to("<throttle>")
        assert told["refused"] == ["BadRequestError", 400, "invalid_request_error", "req-7"]
        assert told["denied"] == ["AuthenticationError", 401, "authentication_error", None]
        assert told["left"].strip() == "<endless>-0"
        assert told["after leaving"] == answer_to("still")
        assert told["concurrent"] == [answer_to(f"q{number}") for number in range(20)]
        await check(stand, models)


async def test_the_anthropic_sdk_works_unchanged_while_the_token_rotates_under_its_stream(stand_of: Stands) -> None:
    models = ModelServer()
    async with stand_of(models.route) as stand:
        environment = {"ANTHROPIC_BASE_URL": stand.url, "ANTHROPIC_API_KEY": PLACEHOLDER}
        told = (await used(stand, models, "use_anthropic.py", environment)).told
        assert told["plain"] == answer_to("plain")
        assert told["paused"] == answer_to("<pause>")
        assert told["after"] == answer_to("after")
        assert told["events"] == ["message_start", "content_block_start", "content_block_delta"]
        assert told["counted"] == 5
        assert told["throttled"] == answer_to("<throttle>")
        assert told["refused"] == ["BadRequestError", 400, "req-7"]
        assert told["denied"] == ["AuthenticationError", 401, None]
        assert told["left"].strip() == "<endless>-0"
        assert told["after leaving"] == answer_to("still")
        assert told["concurrent"] == [answer_to(f"q{number}") for number in range(20)]
        await check(stand, models)


async def check(stand: Stand, models: ModelServer) -> None:
    """Both tokens were used, the new one by all after the rotation; the abandoned stream ended at the server; nothing failed."""
    assert len(stand.server.tokens) == 2
    order = [one.token for one in stand.server.seen]
    assert order == sorted(order, key=stand.server.tokens.index), "an old token came after a new one"
    outcomes = await stand.outcomes(len(stand.server.seen))
    assert outcomes.count("client_closed") == 1, "the one that was left"
    assert outcomes.count("injected") == len(outcomes) - 1
    assert models.hang_ups == 1
