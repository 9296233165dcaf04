"""The fields of a request. Every error names its field."""

from __future__ import annotations

import json

import pytest

from mindformers_qwenvl.serve.errors import ApiError
from mindformers_qwenvl.serve.schema import chat_request, completion_request, json_body

HELLO = {"role": "user", "content": "Hello"}
CAT = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


def chat(**fields):
    return chat_request({"model": "m", "messages": [HELLO], **fields})


def test_what_is_taken():
    asked = chat(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [CAT, {"type": "text", "text": "What?"}], "name": "Ann"},
            {"role": "assistant", "content": "A cat.", "refusal": None, "tool_calls": None},
            {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,AA=="}]},
        ],
        max_completion_tokens=5,
        temperature=0.5,
        top_p=None,
        stop=["a", "b"],
        seed=7,
        n=2,
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
        presence_penalty=1,
        logit_bias={"5": -100},
        user="someone",
        metadata={"a": "b"},
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        parse_boxes=True,
    )
    assert [turn.role for turn in asked.turns] == ["system", "user", "assistant", "user"]
    assert asked.turns[1].parts[0].picture == "https://example.com/cat.png" and asked.turns[1].text == "What?"
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.stop, asked.seed) == (5, 0.5, None, ("a", "b"), 7)
    assert (asked.n, asked.top, asked.stream, asked.include_usage, asked.parse_boxes) == (2, 3, True, True, True)
    assert (asked.presence_penalty, asked.frequency_penalty, asked.logit_bias) == (1.0, 0.0, {5: -100.0})
    assert chat(stop="x").stop == ("x",) and chat().top is None and chat(logprobs=True).top == 0
    raw = completion_request({"model": "m", "prompt": ["a", "b"], "logprobs": 5, "echo": False, "best_of": 1})
    assert raw.prompts == ("a", "b") and raw.top == 5 and not raw.chat


FAULTS = [
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [HELLO, {"role": "user"}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    ({"messages": [{"role": "assistant", "content": [CAT]}, HELLO]}, "messages[0].content[0]"),
    ({"messages": [{**HELLO, "colour": 5}]}, "messages[0].colour"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
    ({"max_completion_tokens": "5"}, "max_completion_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"seed": -1}, "seed"),
    ({"seed": 10**30}, "seed"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"other": 1}}, "stream_options"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": None, "logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"parse_boxes": 1}, "parse_boxes"),
    ({"colour": "red"}, "colour"),
    ({"prompt": "x"}, "prompt"),
]


@pytest.mark.parametrize(("fields", "param"), FAULTS, ids=[param + str(n) for n, (_, param) in enumerate(FAULTS)])
def test_what_is_refused(fields, param):
    with pytest.raises(ApiError) as caught:
        chat(**fields)
    body = caught.value.body["error"]
    assert (caught.value.status, body["type"], body["param"]) == (400, "invalid_request_error", param)
    assert body["message"].startswith(param) and len(body["message"]) < 300
    json.dumps(body)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": ["a", "b"], "n": 2}, "n"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "messages": []}, "messages"),
    ],
)
def test_raw_completions(fields, param):
    with pytest.raises(ApiError) as caught:
        completion_request({"model": "m", **fields})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"],
    ids=range(9),
)
def test_bodies_that_are_not_json_objects(body):
    with pytest.raises(ApiError) as caught:
        json_body(body)
    assert caught.value.status == 400 and "body" in caught.value.message
