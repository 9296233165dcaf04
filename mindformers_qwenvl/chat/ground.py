"""The box of what a text describes, asked for with the prompt behind the paper's RefCOCO scores."""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.chat.answer import Chat, generate_answers
from mindformers_qwenvl.generation.prompt import make_prompt
from mindformers_qwenvl.grounding import Found, parse
from mindformers_qwenvl.text.reply import answer_text

__all__ = ["SETTINGS", "ground", "grounding_query"]

# Original: eval_mm/evaluate_grounding.py; the Chat model gets the same prompt, without the frame of a chat.
SETTINGS = {"max_new_tokens": 28, "min_new_tokens": 10, "do_sample": False, "repetition_penalty": 1.0}
IMAGE = "memory:1"


def grounding_query(text: str, tags: Any) -> str:
    """The prompt, up to where the network is to write the box.

    Raises:
        ValueError: `text` is empty or holds tags.
    """
    if not text.strip():
        raise ValueError("the text must say what to find, such as 'the red shape', but it is empty")
    if found := next((tag for tag in (*tags, "<|") if tag in text), None):
        raise ValueError(f"the text that says what to find must not contain tags, got {found} in {text!r}")
    return f"{tags.image_start}{IMAGE}{tags.image_end}{tags.ref_start}{text}{tags.ref_end}{tags.box_start}"


def ground(network: Any, tokenizer: Any, image: Any, text: str, **changes: Any) -> Found:
    """`QwenVL.ground`, see there."""
    talk = Chat(network, tokenizer, **{**SETTINGS, **changes, "chat_format": "raw"})
    tags = talk.tokenizer.tags
    prompt = make_prompt(talk.tokenizer, grounding_query(text, tags), chat_format="raw")
    prompt.in_memory[IMAGE] = image
    [answer] = generate_answers(network, talk.tokenizer, [prompt], [talk.pictures.of(prompt)], talk.config)
    said = answer_text(talk.tokenizer, answer.ids, talk.config.eos_token_id)
    return parse(f"{tags.ref_start}{text}{tags.ref_end}{tags.box_start}{said}", tags)
