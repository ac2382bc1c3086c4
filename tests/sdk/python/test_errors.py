"""What goes wrong reaches an application as the exception class that it already handles."""

import openai
import pytest

from upstream import HANGS, answer, events, failure
from wire import chunk, completion, text_chunks

HELLO = [{"role": "user", "content": "Hello"}]


def ask(client, model="m", **more):
    return client.chat.completions.create(model=model, messages=HELLO, **more)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("marg_live_short", "mistyped"),
        ("marg_live_" + "A" * 49, "mistyped"),
        ("sk-something-else", "API key"),
    ],
)
def test_a_wrong_key_is_an_authentication_error(gateway, client, upstream, key, words):
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client.with_options(api_key=key))
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_api_key"
    assert caught.value.type == "invalid_request_error"
    assert words in caught.value.message
    assert key not in caught.value.response.text
    assert caught.value.response.headers["x-marg-reason"] == "invalid_api_key"
    assert upstream.asked == []


def test_a_missing_key_is_an_authentication_error(client):
    with pytest.raises(openai.AuthenticationError, match="did not provide an API key"):
        client.models.list(extra_headers={"authorization": openai.Omit()})


def test_a_model_that_the_key_may_not_use_is_a_permission_error(gateway, client, upstream):
    key = gateway.admin("POST", "/admin/keys", {"name": "narrow", "models": ["gpt-4*"]})["token"]
    with pytest.raises(openai.PermissionDeniedError) as caught:
        ask(client.with_options(api_key=key), model="o3")
    assert (caught.value.code, caught.value.param) == ("permission_denied", "model")
    assert upstream.asked == []
    upstream.says(answer(completion()))
    assert ask(client.with_options(api_key=key), model="gpt-4o").choices


def test_a_revoked_key_stops_working_at_once(gateway, client, upstream):
    made = gateway.admin("POST", "/admin/keys", {"name": "short-lived"})
    upstream.says(answer(completion()))
    assert ask(client.with_options(api_key=made["token"])).choices
    gateway.admin("POST", f"/admin/keys/{made['key']['id']}/revoke")
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        ask(client.with_options(api_key=made["token"]))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": HELLO}, "model"),
        ({"model": "", "messages": HELLO}, "model"),
        ({"model": 5, "messages": HELLO}, "model"),
        ({"model": "m\r\nx-evil: 1", "messages": HELLO}, "model"),
        ({"model": "m", "messages": HELLO, "stream": "yes"}, "stream"),
    ],
)
def test_a_malformed_request_is_a_bad_request_that_names_the_field(client, upstream, body, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert caught.value.type == "invalid_request_error"
    assert upstream.asked == []


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"text"', b'{"model":"m","model":"n"}', b"\xff{}", b"[" * 100_000])
def test_a_body_that_is_no_object_of_json_is_a_bad_request(client, upstream, body):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", content=body, cast_to=object, options={"headers": {"content-type": "application/json"}})
    assert caught.value.code == "invalid_request"
    assert upstream.asked == []


def test_a_path_that_does_not_exist_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="/v1 twice"):
        client.with_options(base_url=f"{client.base_url}v1").models.list()


def test_a_method_that_a_path_does_not_take_is_named(client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.put("/chat/completions", cast_to=object)
    assert caught.value.status_code == 405
    assert caught.value.response.headers["allow"] == "POST, GET, HEAD, DELETE"


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
        (529, openai.InternalServerError),
    ],
)
def test_a_providers_error_keeps_its_status_message_and_code(client, upstream, status, exception):
    upstream.says(failure(status, "Exactly this.", code="their_code", kind="their_type"))
    with pytest.raises(exception) as caught:
        ask(client, model=f"fails-{status}")
    assert caught.value.status_code == status
    assert "Exactly this." in caught.value.message
    assert (caught.value.code, caught.value.type) == ("their_code", "their_type")
    assert caught.value.request_id


def test_a_providers_rate_limit_keeps_retry_after(client, upstream):
    upstream.says(failure(429, "Slow down.", code="rate_limit_exceeded", kind="requests", retry_after="17"))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, model="rate-limited")
    assert caught.value.response.headers["retry-after"] == "17"
    # While the provider wants to be left alone it is not asked again, and the caller is told how long that lasts.
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, model="rate-limited")
    assert caught.value.code == "limit_exceeded"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 17
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"\xff\xfe", b'{"detail":"no"}'])
def test_a_providers_error_in_another_form_becomes_one_in_openais(client, upstream, body):
    upstream.says(answer(body, 400, content_type="text/html"))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]
    assert caught.value.response.headers["content-type"] == "application/json"


def test_a_providers_rate_limit_without_a_body_still_says_when_to_come_back(client, upstream):
    upstream.says(answer(b"", 429, retry_after="17"))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, model="limited-without-words")
    assert caught.value.body["message"]
    assert caught.value.response.headers["retry-after"] == "17"
    assert caught.value.response.headers["x-marg-provider"] == "first"


def test_no_error_tells_a_credential_or_an_address(client, upstream):
    upstream.says(failure(400, f"Incorrect API key provided: first-secret at {upstream.base_url}"))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client)
    assert "first-secret" not in caught.value.response.text
    assert str(upstream.port) not in caught.value.response.text


def test_a_redirect_of_a_provider_is_not_followed(client, upstream):
    upstream.says(answer(b"", 302, location="http://127.0.0.1:9/elsewhere"))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 502
    assert "location" not in caught.value.response.headers
    assert "elsewhere" not in caught.value.response.text


def test_a_provider_that_is_not_there_is_a_bad_gateway(client):
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, model="gone")
    assert caught.value.status_code == 502
    assert caught.value.code == "upstream_unreachable"
    assert "127.0.0.1" not in caught.value.response.text


def test_a_provider_that_does_not_answer_is_a_gateway_timeout(client, upstream):
    upstream.says(HANGS)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client)
    assert caught.value.status_code == 504
    assert caught.value.code == "upstream_timeout"


def test_the_sdks_own_timeout_is_an_api_timeout_error(client, upstream):
    upstream.says(HANGS)
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.3))


def test_a_gateway_that_is_not_there_is_a_connection_error(client):
    with pytest.raises(openai.APIConnectionError):
        client.with_options(base_url="http://127.0.0.1:9/v1").models.list()


def test_a_stream_that_breaks_off_is_an_api_error_after_what_came(client, upstream):
    upstream.says(events(*text_chunks("Hel", "lo")[:-1], cut=True))
    texts = []
    with pytest.raises(openai.APIError, match="broke off") as caught:
        for part in ask(client, stream=True):
            texts.append(part.choices[0].delta.content)
    assert "".join(texts) == "Hello"
    assert not isinstance(caught.value, openai.APIStatusError)


def test_an_error_event_of_a_provider_is_an_api_error(client, upstream):
    error = {"error": {"message": "Their model fell over.", "type": "server_error", "code": "boom"}}
    upstream.says(events(chunk({"content": "Hi"}), error, done=False))
    with pytest.raises(openai.APIError, match="fell over"):
        list(ask(client, stream=True))


def test_a_plain_answer_that_breaks_off_is_no_answer(client, upstream):
    upstream.says(events(chunk(), cut=True))
    # The status is out by then, so the SDK sees either a broken connection or JSON without an end.
    with pytest.raises((openai.APIConnectionError, openai.APIResponseValidationError, ValueError, AttributeError)):
        answered = ask(client)
        _ = answered.choices[0]


def test_the_next_call_is_served_after_each_of_these(client, upstream):
    upstream.says(failure(500), answer(completion("Still here.")))
    with pytest.raises(openai.InternalServerError):
        ask(client)
    assert ask(client).choices[0].message.content == "Still here."
