"""`QwenVL.chat` and `chat_stream` on the checkpoint of set a56: golden prompts, golden greedy answers, sampling."""

from __future__ import annotations

import threading
from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl import QwenVLProcessor
from mindformers_qwenvl.chat.answer import Chat, generate_answers
from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.generation.settings import settings_for
from mindformers_qwenvl.text.reply import chat_reply
from tests.support.golden import golden_set
from tests.support.layouts import pads_in_images

GOLDEN = golden_set("a56")
CONVERSATIONS = {
    "text": ("Hello, who are you? 你好", None),
    "one_image": ([{"image": str(GOLDEN.image(0))}, {"text": "What is it?"}], None),
    "multi_turn": (
        "Where? <ref>the cat</ref>",
        [(f"Picture 1: <img>{GOLDEN.image(3)}</img>\nDescribe.", "A cat<box>(1,2),(30,40)</box>")],
    ),
}
HELLO = CONVERSATIONS["text"][0]  # one shape for most of the tests


def golden_reply(tokenizer, name, tokens=30):
    ids = GOLDEN.arrays[f"greedy.{name}"][:tokens].tolist()
    ends = [ids.index(i) for i in (tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id) if i in ids]
    return chat_reply(tokenizer, ids[: min(ends, default=len(ids)) + 1])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_golden_prompts_and_greedy_answers(network, tokenizer, name):
    query, history = CONVERSATIONS[name]
    prompt = Chat(network, tokenizer).prompt(query, history)
    assert prompt.input_ids.tolist() == pads_in_images(GOLDEN.arrays[f"ids.{name}"].tolist(), tokenizer)
    given = None if history is None else list(history)
    response, after = network.chat(tokenizer, query, given, do_sample=False, max_new_tokens=30)
    assert response == golden_reply(tokenizer, name) != ""
    assert after == [*(history or []), (query, response)]
    assert given is None or after is given  # appended to, as in the original
    texts = list(network.chat_stream(tokenizer, query, history, do_sample=False, max_new_tokens=30))
    assert texts[-1] == response
    assert len(texts) > 10 and all(b.startswith(a) for a, b in pairwise(texts))


def test_history_may_be_left_alone(network, tokenizer):
    history = []
    network.chat(tokenizer, HELLO, history, append_history=False, max_new_tokens=1)
    list(network.chat_stream(tokenizer, HELLO, history, max_new_tokens=1))
    assert history == []


def test_defaults_are_those_of_the_model(network, tokenizer):
    config = Chat(network, tokenizer).config
    assert (config.max_new_tokens, config.max_window_size) == (512, 6144)
    assert (config.do_sample, config.top_k, config.top_p, config.eos_token_id) == (True, 0, 0.3, [tokenizer.eod_id])
    assert config.use_past


def test_seeds_make_answers_reproducible(network, tokenizer):
    def answer(seed):
        return network.chat(tokenizer, HELLO, seed=seed, top_p=0.95, max_new_tokens=8)[0]

    first = answer(1)
    np.random.seed(0)
    answers = [answer(seed) for seed in (1, 2, 3)]
    assert answers[0] == first
    assert len(set(answers)) == 3
    assert list(network.chat_stream(tokenizer, HELLO, seed=1, top_p=0.95, max_new_tokens=8))[-1] == first


def test_the_hosts_own_seed_and_sampling_work_too(network, tokenizer):
    ids = GOLDEN.arrays["ids.text"][None]

    def answer(seed, **settings):
        settings = {"do_sample": True, "top_k": 50, "top_p": 0.95, "max_new_tokens": 8, **settings}
        return network.generate(ids, seed=seed, **settings)[0][ids.shape[1] :].tolist()

    assert answer(1) == answer(1) != answer(2)
    golden = GOLDEN.arrays["greedy.text"][:8].tolist()
    assert answer(1, top_k=1) == answer(2, top_p=0.0) == answer(3, temperature=1e-3) == golden


def test_a_temperature_of_zero_is_greedy(network, tokenizer):
    assert network.chat(tokenizer, HELLO, temperature=0, max_new_tokens=8)[0] == golden_reply(tokenizer, "text", 8)


def test_repetition_penalty(network, tokenizer):
    ids = GOLDEN.arrays["ids.text"][None]
    answer = network.generate(ids, do_sample=False, max_new_tokens=12, repetition_penalty=1e6)[0]
    new = answer[ids.shape[1] :]
    assert len(set(new)) == len(new) and not set(new) & set(ids[0])
    plain = GOLDEN.arrays["greedy.text"][:12]
    assert set(plain) & set(ids[0]) or len(set(plain)) < len(plain)  # otherwise the penalty would have no effect
    response, _ = network.chat(tokenizer, HELLO, do_sample=False, max_new_tokens=12, repetition_penalty=1e6)
    assert response == chat_reply(tokenizer, new)


@pytest.fixture
def ends_at(network, tokenizer):
    """Swap two rows of the head, so that `im_end` is written instead of another token."""
    head = network.llm_model.lm_head.weight
    before = head.asnumpy().copy()

    def swap(token, end):
        changed = before.copy()
        changed[[token, end]] = changed[[end, token]]
        head.set_data(ms.Tensor(changed))

    yield swap
    head.set_data(ms.Tensor(before))


@pytest.mark.parametrize("end", ["im_end_id", "im_start_id", "eod_id"])
def test_the_end_of_a_turn_ends_the_answer(network, tokenizer, ends_at, end):
    greedy = GOLDEN.arrays["greedy.text"][:6].tolist()
    assert len(set(greedy)) == 6
    ends_at(greedy[5], getattr(tokenizer, end))
    talk = Chat(network, tokenizer, do_sample=False, max_new_tokens=30)
    [answer] = generate_answers(network, tokenizer, [talk.prompt(HELLO)], [[]], talk.config)
    assert answer.stopped and list(answer.ids) == [*greedy[:5], getattr(tokenizer, end)]
    response, _ = network.chat(tokenizer, HELLO, do_sample=False, max_new_tokens=30)
    assert response == tokenizer.decode(greedy[:5]).strip()
    assert list(network.chat_stream(tokenizer, HELLO, do_sample=False, max_new_tokens=30))[-1] == response


def test_stop_words_of_several_tokens(network, tokenizer):
    greedy = GOLDEN.arrays["greedy.text"].tolist()
    response, _ = network.chat(tokenizer, HELLO, do_sample=False, max_new_tokens=30, stop_words_ids=[greedy[3:6]])
    assert response == tokenizer.decode(greedy[:6]).strip()  # the words stay, as in the original
    with pytest.raises(ValueError, match="stop_words_ids"):
        network.chat(tokenizer, HELLO, stop_words_ids=["stop"])


def test_max_window_size_trims_the_history(network, tokenizer):
    history = [(f"question {number}", f"answer {number}") for number in range(6)]
    for window in (0, 40, 80, 6144):
        prompt = Chat(network, tokenizer, max_window_size=window).prompt("now", history)
        expected = make_prompt(tokenizer, "now", history, max_window_size=window)
        assert prompt.input_ids.tolist() == expected.input_ids.tolist()
    shortest = Chat(network, tokenizer, max_window_size=0).prompt("now", history)
    assert "question" not in tokenizer.decode(shortest.input_ids)
    pictures = [(f"<img>{number}.png</img>", "answer") for number in range(6)]  # not there; those left out need not be
    response, _ = network.chat(tokenizer, HELLO, pictures, max_window_size=30, do_sample=False, max_new_tokens=8)
    assert response == golden_reply(tokenizer, "text", 8)


def test_a_conversation_longer_than_the_network_forgets_its_beginning(network, tokenizer):
    history = [("x " * 900, "y " * 900)] * 8
    prompt = Chat(network, tokenizer, max_window_size=10**6).prompt("now", history)
    assert 4000 < len(prompt) <= network.config.seq_length - 512
    with pytest.raises(ValueError, match="the network takes 8192"):
        network.chat(tokenizer, "x " * 9000)


def test_a_picture_may_come_from_memory_and_rules_of_the_processor_hold(network, tokenizer, checkpoint_dir):
    query = [{"image": Image.open(GOLDEN.image(0))}, {"text": "What is it?"}]
    processor = QwenVLProcessor.from_pretrained(str(checkpoint_dir("a56")))
    response, history = network.chat(processor, query, do_sample=False, max_new_tokens=8)
    assert response == golden_reply(tokenizer, "one_image", 8)
    assert history == [(query, response)]
    processor.template.dataset_dir = str(GOLDEN.directory / "images")
    assert network.chat(processor, [{"image": "0.png"}, query[1]], do_sample=False, max_new_tokens=8)[0] == response
    with pytest.raises(ValueError, match="outside dataset_dir"):
        network.chat(processor, "<img>../golden.json</img>")


def test_rows_of_a_batch_answer_as_they_do_alone(network, tokenizer):
    prompts = [make_prompt(tokenizer, text) for text in (HELLO, "Name a number.")]
    config = settings_for(network, top_p=0.9, max_new_tokens=8)

    def answers(rows, seeds):
        chosen = [prompts[row] for row in rows]
        return generate_answers(network, tokenizer, chosen, [[]] * len(rows), config, seeds=seeds)

    together = answers([0, 1], [5, [5, 6]])
    assert together == [*answers([0], [5]), *answers([1], [[5, 6]])]


@pytest.fixture
def free_blocks(network, tokenizer):
    """How many blocks of the cache are free; before an answer there is no cache."""
    network.chat(tokenizer, HELLO, max_new_tokens=1)
    return lambda: len(network.block_mgr.block_mem_pool.free_blocks)


def test_the_hosts_streamers(network, tokenizer, capsys):
    """MindFormers' own streamers print the answer in pieces, as soon as a word is complete."""
    from mindformers.generation import TextIteratorStreamer, TextStreamer

    ids, settings = GOLDEN.arrays["ids.text"][None], {"do_sample": False, "max_new_tokens": 30, "eos_token_id": [-1]}
    answer = tokenizer.decode(GOLDEN.arrays["greedy.text"].tolist(), skip_special_tokens=True)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    network.generate(ids, **settings, streamer=streamer)
    pieces = list(iter(streamer.__next__, None))  # its end is None, and no StopIteration
    assert "".join(pieces) == answer and len(pieces) > 5
    capsys.readouterr()
    network.generate(ids, **settings, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert f"{answer}\n" in capsys.readouterr().out


def test_whoever_stops_listening_ends_the_answer(network, tokenizer, free_blocks):
    blocks = free_blocks()
    listening = network.chat_stream(tokenizer, HELLO, do_sample=False, max_new_tokens=4000)
    assert next(listening)
    listening.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "qwenvl-chat"]
    assert free_blocks() == blocks
    assert network.chat(tokenizer, HELLO, do_sample=False, max_new_tokens=8)[0] == golden_reply(tokenizer, "text", 8)


def test_an_error_midway_reaches_the_listener_and_frees_the_cache(network, tokenizer, free_blocks, monkeypatch):
    blocks = free_blocks()
    steps = []
    stock = network.prepare_inputs_for_generation

    def failing(*args, **kwargs):
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("the card is gone")
        return stock(*args, **kwargs)

    monkeypatch.setattr(type(network), "prepare_inputs_for_generation", lambda self, *a, **k: failing(*a, **k))
    with pytest.raises(RuntimeError, match="the card is gone"):
        list(network.chat_stream(tokenizer, HELLO, max_new_tokens=8))
    assert free_blocks() == blocks
    steps.clear()
    with pytest.raises(RuntimeError, match="the card is gone"):
        network.generate(GOLDEN.arrays["ids.text"][None], max_new_tokens=8)
    assert free_blocks() == blocks


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"top_p": 1.5}, ValueError, "top_p must be a number from 0 to 1"),
        ({"top_k": -1}, ValueError, "top_k must be a whole number of 0 or more"),
        ({"temperature": -0.1}, ValueError, "temperature must be a number of 0 or more"),
        ({"repetition_penalty": 0}, ValueError, "repetition_penalty must be a number above 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be a whole number of 1 or more"),
        ({"seed": -1}, ValueError, "seed must be a whole number of 0 or more"),
        ({"chat_format": "alpaca"}, ValueError, "chat_format must be 'chatml' or 'raw'"),
        ({"chat_format": "raw"}, ValueError, "that of a base model"),
        ({"stream": True}, TypeError, "chat_stream gives an answer"),
        ({"top_q": 1}, TypeError, "unknown arguments top_q"),
    ],
)
@pytest.mark.parametrize("method", ["chat", "chat_stream"])
def test_bad_arguments_are_named(network, tokenizer, method, changes, error, message):
    with pytest.raises(error, match=message):
        getattr(network, method)(tokenizer, HELLO, **changes)


def test_the_slots_of_tokenizer_and_network_must_agree(network, tokenizer):
    other = type(tokenizer)(tokenizer.vocab_file, image_slots=8)
    with pytest.raises(ValueError, match="8 slots for an image, but the network has 16"):
        network.chat(other, f"<img>{GOLDEN.image(0)}</img>?")


def test_without_generation_config_json_the_configuration_decides(network):
    other = type("Bare", (), {"config": network.config, "generation_config": type(network.generation_config)()})
    config = settings_for(other)
    assert (config.chat_format, config.max_new_tokens, config.max_window_size) == ("chatml", 512, 6144)
    assert config.eos_token_id == [network.config.eos_token_id] and not config.do_sample
