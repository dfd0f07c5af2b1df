"""The openai SDK as an application uses it: it is told nothing but OPENAI_BASE_URL, and holds a placeholder as OPENAI_API_KEY."""

import asyncio
import io
import sys

from openai import APIStatusError, AsyncOpenAI, OpenAI
from telling import tell

MODEL = "robin-1"


def ask(question: str) -> list:
    return [{"role": "user", "content": question}]


def refused(call, question: str) -> list:
    try:
        call(model=MODEL, messages=ask(question))
    except APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.request_id]
    return ["served"]


def blocking() -> None:
    client = OpenAI()
    chat = client.chat.completions
    tell("models", [model.id for model in client.models.list()])
    raw = chat.with_raw_response.create(model=MODEL, messages=ask("plain"))
    tell("plain", [raw.parse().choices[0].message.content, raw.headers.get("x-request-id")])
    tell(
        "paused", "".join(piece.choices[0].delta.content or "" for piece in chat.create(model=MODEL, messages=ask("<pause>"), stream=True))
    )
    tell("after", chat.create(model=MODEL, messages=ask("after")).choices[0].message.content)
    events = list(client.responses.create(model=MODEL, input="events", stream=True))
    tell(
        "responses",
        ["".join(event.delta for event in events if event.type == "response.output_text.delta"), events[-1].response.output_text],
    )
    tell("embedding", client.embeddings.create(model=MODEL, input="four").data[0].embedding)
    tell("file", client.files.create(file=("x.jsonl", io.BytesIO(b"x" * 3_000_000)), purpose="batch").bytes)
    with client.audio.speech.with_streaming_response.create(model=MODEL, voice="alloy", input="say") as speech:
        tell("speech", sum(len(piece) for piece in speech.iter_bytes(4096)))
    tell("throttled", chat.create(model=MODEL, messages=ask("<throttle>")).choices[0].message.content)
    tell("refused", refused(chat.create, "<refuse>"))
    tell("denied", refused(chat.create, "<denied>"))
    with chat.create(model=MODEL, messages=ask("<endless>"), stream=True) as stream:
        tell("left", next(iter(stream)).choices[0].delta.content)
    tell("after leaving", chat.create(model=MODEL, messages=ask("still")).choices[0].message.content)


async def concurrent() -> None:
    async with AsyncOpenAI() as client:

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(model=MODEL, messages=ask(f"q{number}"), stream=True)
            return "".join([piece.choices[0].delta.content or "" async for piece in stream])

        tell("concurrent", await asyncio.gather(*(one(number) for number in range(20))))
        speech = await client.audio.speech.create(model=MODEL, voice="alloy", input="say")
        tell("async speech", len(speech.content))


def long(count: int) -> None:
    chat = OpenAI().chat.completions
    streams = (chat.create(model=MODEL, messages=ask(f"long {number}"), stream=True) for number in range(count))
    tell("long", ["".join(piece.choices[0].delta.content or "" for piece in stream) for stream in streams])


if __name__ == "__main__":
    if sys.argv[1:]:
        long(int(sys.argv[1]))
    else:
        blocking()
        asyncio.run(concurrent())
