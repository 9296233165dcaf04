"""The official client and the server understand each other; each row has the answer it has alone."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.support.golden import golden_set
from tests.support.served import ask, data_uri, events, get, held, user, wait_until_quiet
from tests.support.waiting import PATIENCE, wait_until

PICTURES = [data_uri(golden_set("a56").image(number)) for number in range(3)]
GREEDY = {"model": "base", "temperature": 0, "max_tokens": 12}


def test_models_and_health(client, service, address):
    wait_until_quiet(service)
    [model] = client.models.list().data
    assert model.id == "base" and client.models.retrieve("base").id == "base"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"
    assert get(f"{address}/health").json() == {"status": "ready", "running": 0, "waiting": 0}


def test_an_answer_is_that_of_the_network(client, service):
    """Greedy and sampled, streamed and whole, against `QwenVL.chat`'s own way through the host's `generate()`."""
    from mindformers_qwenvl.chat.answer import Chat, generate_answers
    from mindformers_qwenvl.text.reply import answer_text

    picture = str(golden_set("a56").image(0))
    for seed, settings in ((None, {"do_sample": False}), (5, {"do_sample": True, "temperature": 1.5, "top_p": 0.9})):
        talk = Chat(service.engine.network, service.tokenizer, service.config, max_new_tokens=12, **settings)
        prompt = talk.prompt([{"image": picture}, {"text": "What is it? 你好"}])
        seeds = None if seed is None else [seed]
        [answer] = generate_answers(
            talk.network, talk.tokenizer, [prompt], [talk.pictures.of(prompt)], talk.config, seeds=seeds
        )
        expected = answer_text(talk.tokenizer, answer.ids, service.config.eos_token_id)
        sampling = {"temperature": 0} if seed is None else {"temperature": 1.5, "top_p": 0.9, "seed": seed}
        messages = [user("What is it? 你好", PICTURES[0])]
        got = client.chat.completions.create(messages=messages, model="base", max_tokens=12, **sampling)
        finish = "stop" if answer.stopped else "length"
        assert (got.choices[0].message.content, got.choices[0].finish_reason) == (expected, finish)
        assert got.usage.prompt_tokens == len(prompt) and got.usage.completion_tokens == len(answer.ids)
        stream = client.chat.completions.create(
            messages=messages,
            model="base",
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            **sampling,
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
        assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason == finish
        assert chunks[-1].choices == [] and chunks[-1].usage == got.usage


def test_conversations_and_several_pictures(client):
    messages = [
        {"role": "system", "content": "Be brief."},
        user("Compare.", PICTURES[0], PICTURES[1]),
        {"role": "assistant", "content": "Both."},
        user("Why?"),
    ]
    answer = client.chat.completions.create(messages=messages, **GREEDY)
    assert answer.choices[0].message.role == "assistant"
    other = client.chat.completions.create(messages=[*messages[:1], user("Compare."), *messages[2:]], **GREEDY)
    per_picture = (answer.usage.prompt_tokens - other.usage.prompt_tokens) / 2
    assert per_picture > 16, "the slots of a picture are tokens of the prompt"
    assert answer.choices[0].message.content != other.choices[0].message.content


def test_many_askers_get_their_own_answers_while_rows_come_and_go(service, address):
    """More requests than rows, of different lengths, sync, async, some pictures shared: each as when alone."""
    rng = random.Random(7)
    asked = []
    for number in range(16):
        pictures = rng.sample(PICTURES, rng.choice((0, 1, 1, 2)))
        sampling = rng.choice(({"temperature": 0}, {"temperature": 1.2, "top_p": 0.8, "seed": number}))
        body = {"model": "base", "messages": [user(f"Question {number}", *pictures)], **sampling}
        asked.append({**body, "max_tokens": rng.randrange(1, 20)})
    alone = [ask(address, **body).json() for body in asked]

    client = openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    async def one(body, streamed):
        if not streamed:
            answer = await client.chat.completions.create(**body)
            return answer.choices[0].message.content, answer.choices[0].finish_reason
        text, finish = "", None
        async for chunk in await client.chat.completions.create(**body, stream=True):
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
        return text, finish

    async def all_at_once():
        return await asyncio.gather(*(one(body, number % 2 == 0) for number, body in enumerate(asked)))

    together = asyncio.run(all_at_once())
    expected = [(one["choices"][0]["message"]["content"], one["choices"][0]["finish_reason"]) for one in alone]
    assert together == expected
    assert len(set(expected)) > 9, "the answers differ, so that one in the wrong place would be seen"
    wait_until_quiet(service)


def test_stop_strings_across_tokens_and_whole_characters(client):
    messages = [user("Tell me", PICTURES[2])]
    settings = {**GREEDY, "max_tokens": 24, "extra_body": {"min_tokens": 24}}
    whole = client.chat.completions.create(messages=messages, **settings).choices[0].message.content
    stop = whole[8:13]
    for stream in (False, True):
        stops = ["never there", stop]
        answer = client.chat.completions.create(messages=messages, stop=stops, stream=stream, **settings)
        if stream:
            chunks = list(answer)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert text == whole[: whole.index(stop)].rstrip() and reason == "stop"


def test_seed_n_and_temperature(client):
    messages = [user("Draw")]
    settings = {"model": "base", "temperature": 1.8, "top_p": 1, "max_tokens": 8}
    first = client.chat.completions.create(messages=messages, seed=11, n=3, **settings)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert 3 <= first.usage.completion_tokens <= 24
    again = client.chat.completions.create(messages=messages, seed=11, n=3, **settings)
    assert [choice.message.content for choice in again.choices] == texts
    alone = client.chat.completions.create(messages=messages, seed=11, **settings)
    assert alone.choices[0].message.content == texts[0]
    without = {client.chat.completions.create(messages=messages, **settings).choices[0].message.content for _ in "ab"}
    assert len(without) == 2


def test_logprobs_are_those_of_the_network(client):
    messages = [user("How likely?")]
    for stream in (False, True):
        answer = client.chat.completions.create(
            messages=messages, logprobs=True, top_logprobs=3, stream=stream, **GREEDY
        )
        if stream:
            entries = [e for chunk in answer for e in (chunk.choices[0].logprobs or _nothing).content]
        else:
            entries = answer.choices[0].logprobs.content
        assert 1 <= len(entries) <= 12
        for entry in entries:
            assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == entry.logprob <= 0
            assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
    plain = client.chat.completions.create(messages=messages, **GREEDY)
    assert plain.choices[0].logprobs is None


class _nothing:
    content = ()


def test_penalties_and_bias_change_the_answer(client):
    messages = [user("Repeat")]
    plain = client.chat.completions.create(messages=messages, logprobs=True, **GREEDY).choices[0]
    vocabulary = {entry.token for entry in plain.logprobs.content}
    assert len(vocabulary) > 1
    biased = client.chat.completions.create(messages=messages, logit_bias={"65": 100}, **GREEDY).choices[0]
    assert len(set(biased.message.content)) == 1, "one token has all"
    spread = client.chat.completions.create(
        messages=messages, logit_bias={"65": 3, "66": 3}, frequency_penalty=2, presence_penalty=2, **GREEDY
    )
    assert spread.choices[0].message.content != biased.message.content


def test_boxes_in_pixels(client, address, service):
    """The network of this test writes none on its own: the token bias makes it begin one, which is not closed."""
    from mindformers_qwenvl.serve.jobs import Piece
    from mindformers_qwenvl.serve.replies import Reply

    answer = ask(address, messages=[user("Box it", PICTURES[0])], parse_boxes=True)
    assert answer.json()["choices"][0]["boxes"] == []
    reply = Reply(service.tokenizer, "base", True, 5, [[(50, 60), (200, 100)]])
    text = "<ref>the red shape</ref><box>(100,200),(500,1000)</box>"
    [choice] = reply.whole([[Piece(text, (), "stop", 9)]])["choices"]
    box = {"label": "the red shape", "picture": 2, "pixels": [20, 20, 100, 99], "grid": [100, 200, 500, 999]}
    assert choice["boxes"] == [box]
    reply = Reply(service.tokenizer, "base", True, 5, [[(50, 60), (200, 100)]])
    assert '"boxes"' not in reply.piece(0, Piece(text))
    assert reply.piece(0, Piece("", (), "stop", 9)).count('"pixels":[20,20,100,99]') == 1


def test_completions_continue_the_prompt_as_it_is(client):
    answer = client.completions.create(prompt="Once upon", logprobs=2, **GREEDY)
    [choice] = answer.choices
    assert choice.text and 0 < len(choice.logprobs.tokens) <= 12 and answer.usage.prompt_tokens < 12
    assert choice.logprobs.text_offset[0] == 0 and len(choice.logprobs.top_logprobs[0]) == 2
    several = client.completions.create(prompt=["Once upon", "a time"], **GREEDY)
    assert several.choices[0].text == choice.text and several.choices[1].index == 1
    streamed = client.completions.create(prompt="Once upon", stream=True, **GREEDY)
    assert "".join(chunk.choices[0].text for chunk in streamed) == choice.text


def test_requests_as_benchmarks_send_them(address):
    """VLMEvalKit and lmms-eval: base64 JPEG, a system message, max_tokens, temperature 0; the answer's fields."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.open(golden_set("a56").image(1)).convert("RGB").save(file, "JPEG")
    content = [
        {"type": "text", "text": "Answer with a letter.\nA. one\nB. two"},
        {"type": "image_url", "image_url": {"url": data_uri(file.getvalue(), "jpeg"), "detail": "low"}},
    ]
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": content}]
    body = {"messages": messages, "max_tokens": 16, "n": 1, "temperature": 0}
    answer = ask(address, **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].strip()
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_second_question_about_a_picture_skips_the_vision_tower(service, address):
    vectors = service.engine.vectors
    vectors.clear()
    encoded, found = vectors.encoded, vectors.found
    first = ask(address, messages=[user("One", PICTURES[0])]).json()
    assert (vectors.encoded, vectors.found) == (encoded + 1, found)
    again = ask(address, messages=[user("One", PICTURES[0])]).json()
    assert (vectors.encoded, vectors.found) == (encoded + 1, found + 1)
    assert first["choices"] == again["choices"]
    ask(address, messages=[user("One", PICTURES[1])])
    assert vectors.encoded == encoded + 2 and 0 < vectors.size <= vectors.most
    assert f"pictures_encoded_total {vectors.encoded}" in get(f"{address}/metrics").text


def test_who_goes_away_frees_the_row(service, address):
    wait_until_quiet(service)
    engine, chat = service.engine, f"{address}/v1/chat/completions"
    cancelled = engine.metrics.cancelled
    body = {"model": "base", "messages": [user("Long")], "temperature": 0, "max_tokens": 90, "stream": True}
    body["logit_bias"] = {"65": 100}
    with held(engine):
        with httpx.stream("POST", chat, json=body, timeout=PATIENCE) as response:
            next(response.iter_lines())
            wait_until(lambda: engine.running == 1)
        wait_until(lambda: engine._running[0].job.cancelled)
    wait_until(lambda: engine.metrics.cancelled == cancelled + 1)
    wait_until_quiet(service)
    with held(engine):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(chat, json={**body, "stream": False, "n": 4}, timeout=httpx.Timeout(PATIENCE, read=0.3))
        wait_until(lambda: service.in_flight == 0)
    wait_until_quiet(service)


def test_a_short_answer_does_not_wait_for_a_long_one(service, address, monkeypatch):
    decode, answered = service.engine.steps.decode, threading.Event()

    def waiting(tokens, lengths, asked, blocks):
        if max(length - of_prompt for length, of_prompt in zip(lengths, asked, strict=True)) > 40:
            assert answered.wait(PATIENCE)  # in the middle of the long one
        return decode(tokens, lengths, asked, blocks)

    monkeypatch.setattr(service.engine.steps, "decode", waiting)
    with ThreadPoolExecutor(2) as pool:
        bias = {"logit_bias": {"65": 100}}
        with held(service.engine):
            long = pool.submit(ask, address, messages=[user("Long")], max_tokens=90, stream=True, **bias)
            wait_until(lambda: service.engine.running == 1)
            short = pool.submit(ask, address, messages=[user("Short")], max_tokens=2)
            wait_until(lambda: service.engine.waiting == 1)
        assert short.result().status_code == 200 and not long.done()
        answered.set()
        assert events(long.result())[-1] == "[DONE]"
