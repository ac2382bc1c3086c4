"""Headers, retries, time-outs, sizes and cancellation: what lies under every endpoint."""

import asyncio
import itertools
import json
import re

import openai
import pytest

from upstream import PATIENCE, Reply, answer, events, failure
from wire import chunk, completion, text_chunks, usage_chunk

HELLO = [{"role": "user", "content": "Hello"}]
EXCHANGE = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def ask(client, model="m", **more):
    return client.chat.completions.create(model=model, messages=HELLO, **more)


def test_the_request_id_is_the_exchanges_and_the_providers_own_is_kept_beside_it(client, upstream):
    upstream.says(answer(completion(), x_request_id="their-id"))
    answered = ask(client)
    assert EXCHANGE.fullmatch(answered._request_id)
    upstream.says(answer(completion(), x_request_id="their-id"))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    assert raw.headers["x-marg-upstream-request-id"] == "their-id"
    assert raw.request_id == raw.headers["x-request-id"] == raw.headers["x-marg-exchange"]


def test_the_callers_own_request_id_is_taken_over(client, upstream):
    upstream.says(answer(completion()))
    answered = ask(client, extra_headers={"x-request-id": "order-4711"})
    assert answered._request_id == "order-4711"


@pytest.mark.parametrize("insane", ["two words", "x" * 129, 'quo"ted'])
def test_a_request_id_that_could_harm_a_log_is_replaced(client, upstream, insane):
    upstream.says(answer(completion()))
    assert EXCHANGE.fullmatch(ask(client, extra_headers={"x-request-id": insane})._request_id)


def test_raw_headers_say_who_answered_and_after_how_many_attempts(client, upstream, second_upstream):
    upstream.says(failure(500))
    second_upstream.says(answer(completion(), x_ratelimit_remaining_requests="41", openai_processing_ms="7"))
    raw = client.chat.completions.with_raw_response.create(model="spare-x", messages=HELLO)
    assert raw.headers["x-marg-provider"] == "second"
    assert raw.headers["x-marg-attempts"] == "2"
    assert raw.headers["x-ratelimit-remaining-requests"] == "41"
    assert raw.headers["openai-processing-ms"] == "7"
    assert raw.parse().choices[0].message.content == "Hello."


def test_what_describes_a_providers_account_is_not_told(client, upstream):
    upstream.says(answer(completion(), openai_organization="their-org", set_cookie="a=b", server="their-server"))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO)
    for name in ("openai-organization", "set-cookie"):
        assert name not in raw.headers
    assert raw.headers.get("server") != "their-server"


def test_organization_and_project_of_the_caller_do_not_reach_a_provider(client, upstream):
    upstream.says(answer(completion()))
    ask(client.with_options(organization="org-mine", project="proj-mine", default_headers={"x-team-note": "kept"}))
    sent = upstream.asked[0].headers
    assert not {"openai-organization", "openai-project"} & sent.keys()
    assert sent["x-team-note"] == "kept"


@pytest.mark.parametrize("header", ["api-key", "x-api-key", "x-goog-api-key"])
def test_a_key_is_found_in_the_headers_of_other_clients(gateway, client, upstream, header):
    upstream.says(answer(completion()))
    ask(client, extra_headers={"authorization": openai.Omit(), header: gateway.key})
    assert gateway.key not in upstream.asked[0].headers.values()


def test_azures_client_sends_its_key_in_a_header_of_its_own(gateway, upstream):
    upstream.says(answer(completion()))
    azure = openai.AzureOpenAI(base_url=gateway.base_url, api_key=gateway.key, api_version="2024-10-21", max_retries=0)
    with azure:
        assert ask(azure).choices[0].message.content == "Hello."
    assert upstream.asked[0].path == "/v1/deployments/m/chat/completions?api-version=2024-10-21"
    assert upstream.asked[0].headers["authorization"] == "Bearer first-secret"
    assert "api-key" not in upstream.asked[0].headers


def test_a_base_url_without_v1_works_too(gateway, client, upstream):
    upstream.says(answer(completion()))
    ask(client.with_options(base_url=gateway.url))
    assert upstream.asked[0].path == "/v1/chat/completions"


def test_the_sdk_retries_what_may_be_retried(client, upstream):
    upstream.says(failure(500, retry_after_ms="1"), failure(503, retry_after_ms="1"), answer(completion("At last.")))
    answered = ask(client.with_options(max_retries=2))
    assert answered.choices[0].message.content == "At last."
    assert len(upstream.asked) == 3


def test_the_sdk_waits_as_a_rate_limit_asks_and_tries_again(client, upstream):
    upstream.says(failure(429, retry_after_ms="100"), answer(completion("At last.")))
    answered = ask(client.with_options(max_retries=5), model="limited-for-a-moment")
    assert answered.choices[0].message.content == "At last."
    assert len(upstream.asked) == 2


def test_the_sdk_does_not_retry_what_cannot_mend_itself(client, upstream):
    upstream.says(failure(400))
    with pytest.raises(openai.BadRequestError):
        ask(client.with_options(max_retries=2))
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_of_five_megabytes_arrives_whole(client, upstream, stream):
    text = "Käse 🧀 " * 500_000
    assert len(text.encode()) > 5_000_000
    upstream.says(events(*text_chunks("Yes.")) if stream else answer(completion("Yes.")))
    answered = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], stream=stream)
    if stream:
        list(answered)
    assert upstream.asked[0].json["messages"][0]["content"] == text


def test_a_prompt_of_five_megabytes_reaches_the_second_provider_too(client, upstream, second_upstream):
    text = "Käse 🧀 " * 500_000
    upstream.says(failure(503))
    second_upstream.says(answer(completion("Yes.")))
    client.chat.completions.create(model="spare-large", messages=[{"role": "user", "content": text}])
    for asked, model in [(upstream.asked[0], "spare-large"), (second_upstream.asked[0], "spare-model")]:
        assert asked.json == {"model": model, "messages": [{"role": "user", "content": text}]}


def test_an_answer_of_many_megabytes_comes_back_whole(client, upstream):
    text = "Käse 🧀 " * 1_000_000
    upstream.says(answer(completion(text)))
    assert ask(client).choices[0].message.content == text


def test_a_prompt_above_the_limit_is_refused_with_its_reason(client, upstream):
    text = "x" * (33 * 1024 * 1024)
    # The answer may come before everything was sent; then some systems report the broken connection instead.
    with pytest.raises((openai.APIStatusError, openai.APIConnectionError)) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    if isinstance(caught.value, openai.APIStatusError):
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert upstream.asked == []


def test_every_plane_of_unicode_survives_both_ways(client, upstream):
    text = "\u00e9 \u0301e \u200d \u2028 \u0000 \uffff \U0001f9c0 \U0010ffff \" \\ / \u202e"
    upstream.says(answer(completion(text)))
    answered = client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
    assert answered.choices[0].message.content == text
    assert upstream.asked[0].json["messages"][0]["content"] == text


def endless(asked=None) -> Reply:
    """A stream that ends only when nobody listens."""
    frame = f"data: {json.dumps(chunk({'content': 'more '}))}\n\n".encode()
    return Reply(headers={"content-type": "text/event-stream"}, pieces=itertools.repeat(frame))


def test_a_stream_that_the_application_closes_is_cancelled_at_the_provider(client, upstream):
    upstream.says(endless())
    caller_left = upstream.caller_left
    with ask(client, stream=True) as stream:
        for _, _part in zip(range(3), stream):
            pass
    assert caller_left.wait(PATIENCE)


async def test_an_async_task_that_is_cancelled_ends_its_stream_at_the_provider(async_client, upstream):
    upstream.says(endless())
    caller_left, began = upstream.caller_left, asyncio.Event()

    async def read():
        async for _ in await ask(async_client, stream=True):
            began.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(began.wait(), PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(caller_left.wait, PATIENCE)


async def test_the_async_client_asks_and_streams(async_client, upstream):
    upstream.says(answer(completion("Hello.")), events(*text_chunks("Hel", "lo."), usage_chunk()))
    assert (await ask(async_client)).choices[0].message.content == "Hello."
    texts = [part.choices[0].delta.content or "" async for part in await ask(async_client, stream=True)]
    assert "".join(texts) == "Hello."


async def test_the_async_client_sees_errors_as_the_sync_one_does(async_client, upstream):
    upstream.says(failure(422, "Cannot do that."), events(chunk({"content": "Hi"}), cut=True))
    with pytest.raises(openai.UnprocessableEntityError, match="Cannot do that"):
        await ask(async_client)
    with pytest.raises(openai.APIError, match="broke off"):
        async for _ in await ask(async_client, stream=True):
            pass


async def test_two_hundred_calls_at_once_each_get_their_own_answer(async_client, upstream):
    def echo(asked):
        text = asked.json["messages"][0]["content"]
        return events(*text_chunks(text)) if asked.json.get("stream") else answer(completion(text))

    upstream.says(*[echo] * 200)

    async def one(number):
        messages = [{"role": "user", "content": f"number {number}"}]
        if number % 2:
            stream = await async_client.chat.completions.create(model="m", messages=messages, stream=True)
            return "".join([part.choices[0].delta.content or "" async for part in stream])
        return (await async_client.chat.completions.create(model="m", messages=messages)).choices[0].message.content

    assert await asyncio.gather(*map(one, range(200))) == [f"number {number}" for number in range(200)]


def test_every_exchange_is_in_the_request_log_with_its_usage(gateway, client, upstream):
    upstream.says(answer(completion(), x_request_id="theirs"))
    identity = ask(client, extra_headers={"x-request-id": "find-me"})._request_id
    assert identity == "find-me"
    gateway.wait_for_record(lambda record: record.get("request_id") == "find-me" and record["usage"]["input"] == 9)
