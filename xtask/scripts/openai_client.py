"""Talks to a running node as its users do: with the `openai` package. Environment: FREEHOLD_URL, FREEHOLD_KEY.
Prints the streamed answer."""

import os
import sys

import openai

client = openai.OpenAI(base_url=os.environ["FREEHOLD_URL"] + "/v1", api_key=os.environ["FREEHOLD_KEY"], max_retries=0)
model = client.models.list().data[0].id
request = {
    "model": model,
    "messages": [
        {"role": "system", "content": "You are a helpful AI assistant."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "temperature": 0,
    "max_tokens": 64,
}

whole = client.chat.completions.create(**request)
pieces = []
usage = None
for chunk in client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
streamed = "".join(pieces)

if "Paris" not in streamed:
    sys.exit(f"the streamed answer does not name Paris: {streamed!r}")
if len(pieces) < 2:
    sys.exit("the streamed answer came in one piece")
if streamed != whole.choices[0].message.content or usage != whole.usage:
    sys.exit(f"streamed {streamed!r} with {usage}, whole {whole}")

try:
    client.with_options(api_key="wrong").models.list()
    sys.exit("a wrong key was let in")
except openai.AuthenticationError:
    pass

print(streamed)
