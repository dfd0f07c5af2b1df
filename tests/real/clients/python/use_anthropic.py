"""The anthropic SDK as an application uses it: it is told nothing but ANTHROPIC_BASE_URL, and holds a placeholder as ANTHROPIC_API_KEY."""

import asyncio

from anthropic import Anthropic, APIStatusError, AsyncAnthropic
from telling import tell

MODEL = "robin-1"


def ask(question: str) -> dict:
    return {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": question}]}


def refused(client: Anthropic, question: str) -> list:
    try:
        client.messages.create(**ask(question))
    except APIStatusError as error:
        return [type(error).__name__, error.status_code, error.request_id]
    return ["served"]


def blocking() -> None:
    client = Anthropic()
    tell("plain", client.messages.create(**ask("plain")).content[0].text)
    with client.messages.stream(**ask("<pause>")) as stream:
        tell("paused", "".join(stream.text_stream))
    tell("after", client.messages.create(**ask("after")).content[0].text)
    tell("events", [event.type for event in client.messages.create(**ask("events"), stream=True)][:3])
    tell("counted", client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "12345"}]).input_tokens)
    tell("throttled", client.messages.create(**ask("<throttle>")).content[0].text)
    tell("refused", refused(client, "<refuse>"))
    tell("denied", refused(client, "<denied>"))
    with client.messages.stream(**ask("<endless>")) as stream:
        tell("left", next(iter(stream.text_stream)))
    tell("after leaving", client.messages.create(**ask("still")).content[0].text)


async def concurrent() -> None:
    async with AsyncAnthropic() as client:

        async def one(number: int) -> str:
            async with client.messages.stream(**ask(f"q{number}")) as stream:
                return await stream.get_final_text()

        tell("concurrent", await asyncio.gather(*(one(number) for number in range(20))))


if __name__ == "__main__":
    blocking()
    asyncio.run(concurrent())
