"""One completion by the openai SDK and one message by the anthropic SDK, each with its own environment; one JSON object a line for each."""

import json

from anthropic import Anthropic
from openai import OpenAI

completion = OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
print(json.dumps({"step": "openai", "got": completion.choices[0].message.content}))
stream = OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], stream=True)
print(json.dumps({"step": "openai stream", "got": "".join(piece.choices[0].delta.content or "" for piece in stream)}))
message = Anthropic().messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}])
print(json.dumps({"step": "anthropic", "got": message.content[0].text}))
