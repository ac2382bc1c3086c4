"""Every other endpoint that the SDK knows: understood, or passed through under the same admission."""

import base64
import io
import struct

import openai
import pytest

from upstream import answer, events
from wire import usage


def test_embeddings_as_numbers(client, upstream):
    row = {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}
    upstream.says(answer({"object": "list", "data": [row], "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}}))
    answered = client.embeddings.create(model="e", input=["one"], encoding_format="float", dimensions=2)
    assert answered.data[0].embedding == [0.25, -0.5]
    assert answered.usage.total_tokens == 2
    assert upstream.asked[0].json == {"model": "e", "input": ["one"], "encoding_format": "float", "dimensions": 2}


def test_embeddings_as_base64_are_decoded_by_the_sdk(client, upstream):
    packed = base64.b64encode(struct.pack("<2f", 0.25, -0.5)).decode()
    row = {"object": "embedding", "index": 0, "embedding": packed}
    upstream.says(answer({"object": "list", "data": [row], "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}}))
    answered = client.embeddings.create(model="e", input="one")
    assert list(answered.data[0].embedding) == [0.25, -0.5]
    assert upstream.asked[0].json["encoding_format"] == "base64"


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2, 3], [[1, 2], [3]]])
def test_every_form_of_embedding_input_arrives(client, upstream, given):
    row = {"object": "embedding", "index": 0, "embedding": [0.0]}
    upstream.says(answer({"object": "list", "data": [row], "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}}))
    client.embeddings.create(model="e", input=given, encoding_format="float")
    assert upstream.asked[0].json["input"] == given


def test_completions_plain_and_streamed(client, upstream):
    def body(text, reason, **more):
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "c", "choices": [choice], **more}

    upstream.says(answer(body("Once.", "stop", usage=usage())), events(body("On", None), body("ce.", "stop")))
    assert client.completions.create(model="c", prompt="Tell").choices[0].text == "Once."
    parts = client.completions.create(model="c", prompt="Tell", stream=True)
    assert "".join(part.choices[0].text for part in parts) == "Once."
    assert upstream.asked[1].path == "/v1/completions"


def test_moderations(client, upstream):
    result = {"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 0.9}}
    upstream.says(answer({"id": "modr-1", "model": "mod", "results": [result]}))
    assert client.moderations.create(model="mod", input="text").results[0].flagged


def response_body(**more):
    text = {"type": "output_text", "text": "Hello.", "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [text]}
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": "r",
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
        **more,
    }


def test_responses_plain(client, upstream):
    upstream.says(answer(response_body()))
    answered = client.responses.create(model="r", input="Hello")
    assert answered.output_text == "Hello."
    assert answered.usage.total_tokens == 7
    assert upstream.asked[0].path == "/v1/responses"


def test_responses_streamed(client, upstream):
    upstream.says(
        events(
            {"type": "response.created", "sequence_number": 0, "response": response_body(status="in_progress", output=[])},
            {
                "type": "response.output_text.delta",
                "sequence_number": 1,
                "item_id": "msg_1",
                "output_index": 0,
                "content_index": 0,
                "delta": "Hello.",
                "logprobs": [],
            },
            {"type": "response.completed", "sequence_number": 2, "response": response_body()},
            done=False,
            named=True,
        )
    )
    seen = list(client.responses.create(model="r", input="Hello", stream=True))
    assert [event.type for event in seen] == ["response.created", "response.output_text.delta", "response.completed"]
    assert seen[-1].response.usage.output_tokens == 2


def test_a_stored_response_is_reached_by_its_path(client, upstream):
    upstream.says(answer(response_body()), answer({"id": "resp_1", "object": "response", "deleted": True}))
    assert client.responses.retrieve("resp_1").id == "resp_1"
    client.responses.delete("resp_1")
    assert [(asked.method, asked.path) for asked in upstream.asked] == [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
    ]


def test_images(client, upstream):
    upstream.says(answer({"created": 1, "data": [{"b64_json": "aGk="}]}))
    answered = client.images.generate(model="i", prompt="A cat", n=1, size="1024x1024")
    assert base64.b64decode(answered.data[0].b64_json) == b"hi"
    assert upstream.asked[0].path == "/v1/images/generations"


def test_an_image_edit_uploads_its_picture(client, upstream):
    upstream.says(answer({"created": 1, "data": [{"b64_json": "aGk="}]}))
    client.images.edit(model="i", prompt="Bluer", image=("cat.png", io.BytesIO(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))))
    assert b"\x89PNG\r\n\x1a\n" + bytes(range(256)) in upstream.asked[0].body


def test_a_transcription_uploads_its_sound(client, upstream):
    sound = bytes(range(256)) * 1024
    upstream.says(answer({"text": "Guten Tag."}))
    answered = client.audio.transcriptions.create(model="t", file=("speech.wav", io.BytesIO(sound), "audio/wav"), language="de")
    assert answered.text == "Guten Tag."
    asked = upstream.asked[0]
    assert asked.path == "/v1/audio/transcriptions"
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert sound in asked.body
    assert b'name="model"\r\n\r\nt\r\n' in asked.body


def test_an_upload_obeys_the_models_of_its_key(gateway, client, upstream):
    key = gateway.admin("POST", "/admin/keys", {"name": "no-sound", "models": ["gpt-*"]})["token"]
    with pytest.raises(openai.PermissionDeniedError):
        narrow = client.with_options(api_key=key)
        narrow.audio.transcriptions.create(model="t", file=("speech.wav", io.BytesIO(b"RIFF")))
    assert upstream.asked == []


def test_speech_comes_back_as_its_bytes(client, upstream):
    sound = bytes(range(256)) * 512
    upstream.says(answer(sound, content_type="audio/mpeg"))
    answered = client.audio.speech.create(model="s", voice="alloy", input="Hello")
    assert answered.read() == sound
    assert answered.response.headers["content-type"] == "audio/mpeg"


def test_files_are_uploaded_listed_read_and_deleted(client, upstream):
    content = b'{"custom_id":"1"}\n' * 5000
    file = {"id": "file-1", "object": "file", "bytes": len(content), "created_at": 1, "filename": "b.jsonl", "purpose": "batch"}
    upstream.says(
        answer(file),
        answer({"object": "list", "data": [file], "has_more": False}),
        answer(content, content_type="application/octet-stream"),
        answer({"id": "file-1", "object": "file", "deleted": True}),
    )
    assert client.files.create(file=("b.jsonl", io.BytesIO(content)), purpose="batch").id == "file-1"
    assert [one.id for one in client.files.list(limit=5)] == ["file-1"]
    assert client.files.content("file-1").read() == content
    assert client.files.delete("file-1").deleted
    assert content in upstream.asked[0].body
    assert [(asked.method, asked.path) for asked in upstream.asked] == [
        ("POST", "/v1/files"),
        ("GET", "/v1/files?limit=5"),
        ("GET", "/v1/files/file-1/content"),
        ("DELETE", "/v1/files/file-1"),
    ]


def test_what_a_known_endpoint_keeps_is_listed_and_deleted(client, upstream):
    upstream.says(
        answer({"object": "list", "data": [], "has_more": False}),
        answer({"id": "ft:m", "object": "model", "deleted": True}),
    )
    assert client.chat.completions.list().data == []
    assert client.models.delete("ft:m").deleted
    assert [asked.method for asked in upstream.asked] == ["GET", "DELETE"]


def test_a_path_that_no_sdk_knows_passes_through(client, upstream):
    upstream.says(answer({"ok": True}, 201))
    raw = client.post("/their/own/thing?a=1&b=%20", body={"x": 1}, cast_to=object)
    assert raw == {"ok": True}
    assert (upstream.asked[0].path, upstream.asked[0].json) == ("/v1/their/own/thing?a=1&b=%20", {"x": 1})


@pytest.mark.parametrize("path", ["/files/../admin", "/files/%2e%2e/admin", "/files/%252e%252e/x", "/files//x", "/files/a%2fb"])
def test_a_path_that_could_escape_is_refused(gateway, upstream, path):
    import http.client

    # No SDK would send these, so they are sent by hand.
    connection = http.client.HTTPConnection(gateway.listen, timeout=20)
    connection.request("GET", f"/v1{path}", headers={"authorization": f"Bearer {gateway.key}"})
    assert connection.getresponse().status == 400
    connection.close()
    assert upstream.asked == []
