"""The openai and anthropic SDKs do all that they do against their own servers, through Robin, with a placeholder for a key."""

from pathlib import Path

import pytest
from tests.real.clients.conftest import Stands
from tests.real.clients.models import SPEECH, ModelServer, answer_to
from tests.real.clients.stand import Stand, run_while_rotating
from tests.real.parts import pyclients
from tests.real.parts.guarded import PLACEHOLDER, Exchange
from tests.real.parts.program import run

pytestmark = pytest.mark.real

PROGRAMS = Path(__file__).parent / "python"


async def test_the_openai_sdk_works_unchanged_while_the_token_rotates_under_its_stream(stand_of: Stands) -> None:
    models = ModelServer()
    async with stand_of(models.route) as stand:
        environment = {"OPENAI_BASE_URL": f"{stand.url}/v1", "OPENAI_API_KEY": PLACEHOLDER}
        told = (await run_while_rotating(stand, models, [pyclients.find(), PROGRAMS / "use_openai.py"], environment)).told
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
        told = (await run_while_rotating(stand, models, [pyclients.find(), PROGRAMS / "use_anthropic.py"], environment)).told
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


async def test_a_long_session_of_the_openai_sdk_gets_every_rotation_at_once(stand_of: Stands) -> None:
    """The token is rotated after every third of 60 streamed answers; each request must carry the newest."""
    models = ModelServer()
    async with stand_of(models.route) as stand:
        answered: list[str] = []

        async def rotating(exchange: Exchange) -> None:
            await models.route(exchange)
            answered.append(exchange.seen.token)
            if len(answered) % 3 == 0:
                stand.rotate()

        stand.server.route = rotating
        environment = {"OPENAI_BASE_URL": f"{stand.url}/v1", "OPENAI_API_KEY": PLACEHOLDER}
        ended = await run([pyclients.find(), PROGRAMS / "use_openai.py", "60"], home=stand.home, environment=environment)
        assert ended.told["long"] == [answer_to(f"long {number}") for number in range(60)]
        assert answered == [token for token in dict.fromkeys(answered) for _ in range(3)]
        assert len(set(answered)) == 20
        assert await stand.outcomes(60) == ["forwarded"] * 60


async def check(stand: Stand, models: ModelServer) -> None:
    """The new token was used by all after the rotation; the abandoned stream ended at the server; nothing failed."""
    order = [one.token for one in stand.server.seen]
    assert order == sorted(order, key=stand.server.tokens.index), "an old token came after a new one"
    outcomes = await stand.outcomes(len(stand.server.seen))
    assert outcomes.count("client_closed") == 1, "the one that was left"
    assert outcomes.count("forwarded") == len(outcomes) - 1
    assert models.hang_ups == 1
