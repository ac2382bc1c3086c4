"""What a limit says to an application through the official SDK: when to come back, and when not to."""

import openai
import pytest

from upstream import answer
from wire import completion

HELLO = [{"role": "user", "content": "Hello"}]


def limited(gateway, client, **limit):
    """A client with a key of its own, under a limit; the SDK tries again as it does by default."""
    made = gateway.admin("POST", "/admin/keys", {"name": "limited"})
    limit = {"scope": "key", "subject": made["key"]["id"], **limit}
    gateway.admin("POST", "/admin/limits", limit)
    return made["key"]["id"], client.with_options(api_key=made["token"], max_retries=2)


def ask(client, **more):
    return client.chat.completions.create(model="m", messages=HELLO, **more)


def test_a_refusal_for_the_day_is_raised_at_once_with_its_figures(gateway, client, upstream):
    key, client = limited(gateway, client, unit="requests", window="day", amount=1)
    upstream.says(answer(completion()))
    assert ask(client).choices
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    limit = caught.value.body["limit"]
    assert (limit["unit"], limit["window"], limit["subject"]) == ("requests", "day", key)
    assert (limit["amount"], limit["spent"], limit["remaining"]) == (1, 1, 0)
    assert limit["resets_at"] > "2026"
    assert int(caught.value.response.headers["retry-after"]) > 0
    # Nothing was asked of the provider, and the SDK did not come back twice in vain.
    gateway.wait_for_record(lambda record: record["key_id"] == key and record["status"] == 429)
    records = gateway.admin("GET", f"/admin/requests?key_id={key}")["requests"]
    assert sorted(record["status"] for record in records) == [200, 429]
    assert len(upstream.asked) == 1


def test_a_refusal_for_a_second_is_waited_for_by_the_sdk(gateway, client, upstream):
    _key, client = limited(gateway, client, unit="requests", window="minute", amount=60, burst=1)
    upstream.says(answer(completion()))
    upstream.says(answer(completion()))
    assert ask(client).choices
    assert ask(client).choices
    assert len(upstream.asked) == 2


def test_the_headers_are_those_of_openai(gateway, client, upstream):
    _key, client = limited(gateway, client, unit="tokens", window="minute", amount=10_000)
    upstream.says(answer(completion()))
    raw = client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=5)
    assert raw.headers["x-ratelimit-limit-tokens"] == "10000"
    assert 0 < int(raw.headers["x-ratelimit-remaining-tokens"]) < 10_000
    assert raw.headers["x-ratelimit-reset-tokens"] == "1m0s"
