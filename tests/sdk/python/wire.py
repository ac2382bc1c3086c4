"""Bodies in OpenAI's wire form, as providers send them."""


def completion(content="Hello.", model="m-2025-01-01", **more):
    """A chat completion with one choice."""
    message = {"role": "assistant", "content": content, "refusal": None}
    message.update(more.pop("message", {}))
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": more.pop("finish_reason", "stop")}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [choice],
        "usage": usage(),
    }
    return {**body, **more}


def usage(prompt=9, completion=3, **more):
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def chunk(delta=None, finish_reason=None, index=0, **more):
    """A chunk of a streamed chat completion."""
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish_reason}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "m-2025-01-01",
        "choices": [choice],
    }
    return {**body, **more}


def usage_chunk(**more):
    return chunk(choices=[], usage=usage(**more))


def text_chunks(*texts):
    """A whole streamed answer without usage."""
    return [chunk({"role": "assistant", "content": ""}), *[chunk({"content": text}) for text in texts], chunk({}, "stop")]


def tool_call(identity, name, arguments, **more):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}, **more}
