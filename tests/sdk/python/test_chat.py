"""Chat completions: plain and streamed, and everything that they carry."""

import json

import openai
import pytest
from pydantic import BaseModel

from upstream import answer, events
from wire import chunk, completion, text_chunks, tool_call, usage, usage_chunk

HELLO = [{"role": "user", "content": "Hello"}]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def ask(client, **more):
    return client.chat.completions.create(**{"model": "m", "messages": HELLO, **more})


def test_an_answer_arrives_as_the_provider_gave_it(client, upstream):
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}
    body = completion("Grüße, 世界 👋🏽", usage=usage(**details), system_fingerprint="fp_1", service_tier="default", their_own=[1])
    upstream.says(answer(body))
    answered = ask(client)
    assert answered.choices[0].message.content == "Grüße, 世界 👋🏽"
    assert answered.usage.prompt_tokens_details.cached_tokens == 4
    assert answered.usage.completion_tokens_details.reasoning_tokens == 2
    assert answered.model_extra["their_own"] == [1]
    assert json.loads(answered.model_dump_json(exclude_unset=True)) == body


def test_a_request_arrives_as_the_application_sent_it(client, upstream):
    upstream.says(answer(completion()))
    ask(
        client,
        temperature=0.25,
        seed=7,
        stop=["END"],
        metadata={"run": "1"},
        logit_bias={"50256": -100},
        extra_body={"their_own_field": {"deep": [1, 2.50, None]}},
        user="somebody",
    )
    asked = upstream.asked[0]
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.json == {
        "model": "m",
        "messages": HELLO,
        "temperature": 0.25,
        "seed": 7,
        "stop": ["END"],
        "metadata": {"run": "1"},
        "logit_bias": {"50256": -100},
        "their_own_field": {"deep": [1, 2.50, None]},
        "user": "somebody",
    }
    assert asked.headers["authorization"] == "Bearer first-secret"


def test_the_application_key_never_reaches_a_provider(gateway, client, upstream):
    upstream.says(answer(completion()))
    ask(client)
    asked = upstream.asked[0]
    assert gateway.key not in json.dumps(asked.headers) + asked.body.decode()


def test_a_route_asks_the_next_provider_for_its_own_model(client, upstream, second_upstream):
    upstream.says(answer({"error": {"message": "down"}}, 503))
    second_upstream.says(answer(completion("From the second.", model="spare-model")))
    answered = ask(client, model="spare-one")
    assert answered.choices[0].message.content == "From the second."
    assert upstream.asked[0].json["model"] == "spare-one"
    assert second_upstream.asked[0].json == {"model": "spare-model", "messages": HELLO}
    assert second_upstream.asked[0].headers["authorization"] == "Bearer second-secret"


def test_several_choices_keep_their_order(client, upstream):
    body = completion()
    body["choices"] = [{**body["choices"][0], "index": index} for index in range(3)]
    upstream.says(answer(body))
    answered = ask(client, n=3)
    assert [choice.index for choice in answered.choices] == [0, 1, 2]
    assert upstream.asked[0].json["n"] == 3


def test_log_probabilities_pass_through(client, upstream):
    token = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}
    body = completion("Hi")
    body["choices"][0]["logprobs"] = {"content": [token], "refusal": None}
    upstream.says(answer(body))
    answered = ask(client, logprobs=True, top_logprobs=2)
    assert answered.choices[0].logprobs.content[0].logprob == -0.25
    assert upstream.asked[0].json["top_logprobs"] == 2


def test_a_json_schema_is_parsed_into_its_model(client, upstream):
    class Place(BaseModel):
        city: str
        inhabitants: int

    upstream.says(answer(completion('{"city":"Bern","inhabitants":134000}')))
    answered = client.chat.completions.parse(model="m", messages=HELLO, response_format=Place)
    assert answered.choices[0].message.parsed == Place(city="Bern", inhabitants=134000)
    asked = upstream.asked[0].json["response_format"]
    assert (asked["type"], asked["json_schema"]["strict"]) == ("json_schema", True)


def test_an_answer_cut_by_its_length_is_the_sdks_length_error(client, upstream):
    class Place(BaseModel):
        city: str

    upstream.says(answer(completion('{"city":', finish_reason="length")))
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="m", messages=HELLO, response_format=Place)


def test_an_image_in_the_prompt_passes_through(client, upstream):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    upstream.says(answer(completion("A pixel.")))
    ask(client, messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}])
    assert upstream.asked[0].json["messages"][0]["content"][1] == picture


# Streams.


def test_a_stream_arrives_piece_by_piece(client, upstream):
    upstream.says(events(*text_chunks("Grü", "ße ", "👋🏽")))
    parts = list(ask(client, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Grüße 👋🏽"
    assert parts[-1].choices[0].finish_reason == "stop"


def test_a_stream_hides_the_usage_that_nobody_asked_for(client, upstream):
    chunks = text_chunks("Hi")
    upstream.says(events(*[{**one, "usage": None} for one in chunks], usage_chunk()))
    parts = list(ask(client, stream=True))
    assert len(parts) == len(chunks)
    assert all(part.choices for part in parts)


def test_a_stream_shows_the_usage_that_was_asked_for(client, upstream):
    upstream.says(events(*text_chunks("Hi"), usage_chunk(prompt=11, completion=2)))
    parts = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert parts[-1].choices == []
    assert parts[-1].usage.total_tokens == 13
    assert upstream.asked[0].json["stream_options"] == {"include_usage": True}


def test_a_stream_of_several_choices_keeps_them_apart(client, upstream):
    upstream.says(events(chunk({"content": "a"}, index=0), chunk({"content": "b"}, index=1), chunk({"content": "c"}, index=0)))
    texts = {0: "", 1: ""}
    for part in ask(client, stream=True, n=2):
        texts[part.choices[0].index] += part.choices[0].delta.content
    assert texts == {0: "ac", 1: "b"}


def test_the_stream_helper_accumulates_the_answer(client, upstream):
    upstream.says(events(*text_chunks("Hel", "lo"), usage_chunk()))
    with client.chat.completions.stream(model="m", messages=HELLO, stream_options={"include_usage": True}) as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "content.delta" in seen
    assert final.choices[0].message.content == "Hello"
    assert final.usage.completion_tokens == 3


def test_comments_and_other_line_ends_in_a_stream_do_no_harm(client, upstream):
    def frames(_):
        reply = events(*text_chunks("Hi"))
        reply.pieces = [b": PROCESSING\n\n", *[piece.replace(b"\n", b"\r\n") for piece in reply.pieces]]
        return reply

    upstream.says(frames)
    parts = list(ask(client, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Hi"


# Tools.


def test_parallel_tool_calls_and_the_turn_after_them(client, upstream):
    calls = [tool_call("call_1", "weather", '{"city":"Bern"}'), tool_call("call_2", "weather", '{"city":"Zürich"}')]
    first = completion(None, message={"tool_calls": calls}, finish_reason="tool_calls")
    upstream.says(answer(first), answer(completion("Both are sunny.")))

    answered = ask(client, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True)
    assert answered.choices[0].finish_reason == "tool_calls"
    made = answered.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in made] == ["Bern", "Zürich"]

    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in made]
    answered = ask(client, tools=[WEATHER], messages=[*HELLO, answered.choices[0].message, *results])
    assert answered.choices[0].message.content == "Both are sunny."
    sent = upstream.asked[1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["tool_calls"] == calls


def test_streamed_tool_calls_come_together(client, upstream):
    def part(index, arguments, **more):
        return {"tool_calls": [{"index": index, "function": {"arguments": arguments}, **more}]}

    def opening(index, name):
        return {"tool_calls": [{"index": index, **tool_call(f"call_{index}", name, "")}]}

    upstream.says(
        events(
            chunk({"role": "assistant", "content": None}),
            chunk(opening(0, "weather")),
            chunk(part(0, '{"city":')),
            chunk(part(0, '"Bern"}')),
            chunk(opening(1, "weather")),
            chunk(part(1, '{"city":"Genève"}')),
            chunk({}, "tool_calls"),
        )
    )
    with client.chat.completions.stream(model="m", messages=HELLO, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Bern"}, {"city": "Genève"}]
    assert final.choices[0].finish_reason == "tool_calls"
