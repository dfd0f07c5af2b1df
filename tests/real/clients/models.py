"""A model server in the wire format of OpenAI and of Anthropic, as far as their SDKs use it: JSON, server-sent events, files, errors.

It makes up no answer of its own: what it says is made from the question, so a mixed-up exchange shows. A question that contains
`<pause>` stops half-way through its stream until `go_on` is set; `<throttle>` is answered 429 the first time.
"""

import asyncio
import base64
import json
import struct
from typing import Any

from tests.real.parts.guarded import Exchange

WORDS = 12
SPEECH = bytes(range(256)) * 1024


def answer_to(question: str) -> str:
    """What the model says to a question."""
    return " ".join(f"{question}-{number}" for number in range(WORDS))


class ModelServer:
    """`ModelServer().route` for a GuardedServer."""

    def __init__(self) -> None:
        self.half_way = asyncio.Event()
        self.go_on = asyncio.Event()
        self.hang_ups = 0
        self._throttled: set[str] = set()

    async def route(self, exchange: Exchange) -> None:
        """Answer one request."""
        seen = exchange.seen
        assert seen.value("x-api-key") is None
        body = await exchange.body()
        match exchange.method, exchange.path:
            case "GET", "/v1/models":
                assert body == b""
                await exchange.tell({"object": "list", "data": [{"id": "robin-1", "object": "model", "created": 1, "owned_by": "robin"}]})
            case "POST", "/v1/files":
                await self._file(exchange, body)
            case "POST", "/v1/audio/speech":
                await self._speech(exchange)
            case "POST", "/v1/chat/completions" | "/v1/responses" | "/v1/embeddings" | "/v1/messages" | "/v1/messages/count_tokens":
                await self._model(exchange, json.loads(body))
            case _:
                await exchange.tell({"error": {"message": f"no {exchange.path}", "type": "not_found_error"}}, status=404)

    async def _model(self, exchange: Exchange, asked: dict[str, Any]) -> None:
        question = _question(asked)
        if "<throttle>" in question and question not in self._throttled:
            self._throttled.add(question)
            await exchange.tell(_error("rate_limit_error"), ("retry-after-ms", "1"), ("retry-after", "0"), status=429)
        elif "<refuse>" in question:
            await exchange.tell(_error("invalid_request_error"), ("request-id", "req-7"), ("x-request-id", "req-7"), status=400)
        elif "<denied>" in question:
            await exchange.tell(_error("authentication_error"), ("www-authenticate", "Bearer"), status=401)
        elif exchange.path == "/v1/embeddings":
            vector = base64.b64encode(struct.pack("<3f", 1.5, -2.25, len(question))).decode()
            data = [{"object": "embedding", "index": 0, "embedding": vector}]
            await exchange.tell({"object": "list", "model": "robin-1", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        elif exchange.path == "/v1/messages/count_tokens":
            await exchange.tell({"input_tokens": len(question)})
        elif asked.get("stream"):
            await self._stream(exchange, question)
        else:
            await exchange.tell(_WHOLE[exchange.path](answer_to(question)), ("x-request-id", "req-1"), ("request-id", "req-1"))

    async def _stream(self, exchange: Exchange, question: str) -> None:
        words = answer_to(question).split(" ")
        events = _EVENTS[exchange.path]([word + " " for word in words[:-1]] + [words[-1]])
        await exchange.begin_chunked(("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache"))
        try:
            for number, event in enumerate(events):
                if number == len(events) // 2 and "<pause>" in question:
                    self.half_way.set()
                    await self.go_on.wait()
                await exchange.chunk(event)
            if "<endless>" in question:
                while True:
                    await exchange.chunk(b": comment\n\n" * 1000)
            await exchange.end_chunked()
        except ConnectionError:
            self.hang_ups += 1
            raise

    async def _file(self, exchange: Exchange, body: bytes) -> None:
        boundary = (exchange.seen.value("Content-Type") or "").partition("boundary=")[2].encode()
        parts = [part for part in body.split(b"--" + boundary) if b"filename=" in part]
        assert len(parts) == 1
        size = len(parts[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
        answer = {
            "id": "file-1",
            "object": "file",
            "bytes": size,
            "created_at": 1,
            "filename": "x",
            "purpose": "batch",
            "status": "processed",
        }
        await exchange.tell(answer)

    async def _speech(self, exchange: Exchange) -> None:
        await exchange.begin_chunked(("Content-Type", "audio/mpeg"))
        for at in range(0, len(SPEECH), 10_000):
            await exchange.chunk(SPEECH[at : at + 10_000])
        await exchange.end_chunked()


def _question(asked: dict[str, Any]) -> str:
    if "messages" in asked:
        content = asked["messages"][-1]["content"]
    else:
        content = asked["input"]
    assert isinstance(content, str)
    return content


def _error(kind: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": f"told so: {kind}", "code": kind, "param": None}}


def _event(name: str, document: Any) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(document).encode() + b"\n\n"


def _chat(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": WORDS, "total_tokens": WORDS + 1}
    return {"id": "chat-1", "object": "chat.completion", "created": 1, "model": "robin-1", "choices": [choice], "usage": usage}


def _chat_events(words: list[str]) -> list[bytes]:
    def piece(delta: dict[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event("", {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "robin-1", "choices": [choice]})

    return [*(piece({"content": word}, None) for word in words), piece({}, "stop"), b"data: [DONE]\n\n"]


def _response(text: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    output = [{"type": "message", "id": "msg-1", "role": "assistant", "status": "completed", "content": content}]
    return {
        "id": "resp-1",
        "object": "response",
        "created_at": 1,
        "model": "robin-1",
        "status": status,
        "output": output if text else [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
    }


def _response_events(words: list[str]) -> list[bytes]:
    place = {"item_id": "msg-1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": _response("", "in_progress")}]
    events += [{"type": "response.output_text.delta", "delta": word, "logprobs": [], **place} for word in words]
    events += [{"type": "response.completed", "response": _response("".join(words))}]
    return [_event(event["type"], {**event, "sequence_number": number}) for number, event in enumerate(events)]


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}] if text else []
    usage = {"input_tokens": 1, "output_tokens": WORDS}
    return {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "model": "robin-1",
        "content": content,
        "stop_reason": "end_turn" if text else None,
        "stop_sequence": None,
        "usage": usage,
    }


def _message_events(words: list[str]) -> list[bytes]:
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": _message("")},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in words),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": WORDS}},
        {"type": "message_stop"},
    ]
    return [_event(event["type"], event) for event in events]


def rendered(path: str, said: str | list[str]) -> Any:
    """What the API of this path responds: a document for a text, events for words."""
    return _WHOLE[path](said) if isinstance(said, str) else _EVENTS[path](said)


_WHOLE = {"/v1/chat/completions": _chat, "/v1/responses": _response, "/v1/messages": _message}
_EVENTS = {"/v1/chat/completions": _chat_events, "/v1/responses": _response_events, "/v1/messages": _message_events}
