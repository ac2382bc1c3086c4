"""`marg demo` and its simulated provider: the first five minutes of a user."""

import asyncio

import openai
import pytest

HELLO = [{"role": "user", "content": "Say hello to the world, please."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize(
    ("status", "exception"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_each_error_can_be_tried_out(sim, status, exception):
    with pytest.raises(exception) as caught:
        sim.chat.completions.create(model=f"sim-error-{status}", messages=HELLO)
    assert caught.value.status_code == status
    assert caught.value.message


def test_a_plain_answer_has_text_and_usage(sim):
    answered = sim.chat.completions.create(model="sim-small", messages=HELLO)
    assert answered.choices[0].message.content
    assert answered.choices[0].finish_reason == "stop"
    assert answered.usage.total_tokens == answered.usage.prompt_tokens + answered.usage.completion_tokens > 0


def test_a_streamed_answer_equals_the_plain_one(sim):
    plain = sim.chat.completions.create(model="sim-large", messages=HELLO, seed=1)
    stream = sim.chat.completions.create(
        model="sim-large", messages=HELLO, seed=1, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == plain.choices[0].message.content
    assert parts[-1].usage == plain.usage


def test_a_forced_tool_is_called_with_arguments_of_its_schema(sim):
    choice = {"type": "function", "function": {"name": "weather"}}
    answered = sim.chat.completions.create(model="sim-small", messages=HELLO, tools=[TOOL], tool_choice=choice)
    call = answered.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    with sim.chat.completions.stream(model="sim-small", messages=HELLO, tools=[TOOL], tool_choice=choice) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.name == "weather"
    assert streamed.function.arguments == call.function.arguments


def test_a_reasoner_reports_its_reasoning_tokens(sim):
    answered = sim.chat.completions.create(model="sim-reasoner", messages=HELLO)
    assert answered.usage.completion_tokens_details.reasoning_tokens > 0


async def test_a_hundred_streams_at_once_all_end(async_sim):
    async def one():
        stream = await async_sim.chat.completions.create(model="sim-fast", messages=HELLO, stream=True)
        return [part async for part in stream][-1].choices[0].finish_reason

    assert await asyncio.gather(*[one() for _ in range(100)]) == ["stop"] * 100


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_come_in_both_forms(sim, encoding):
    answered = sim.embeddings.create(model="sim-embedding", input=["one", "two"], encoding_format=encoding)
    assert [row.index for row in answered.data] == [0, 1]
    assert all(row.embedding for row in answered.data)
