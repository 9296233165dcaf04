"""Layout of training samples and prompts: the order of the tokens, and which of them are trained.

`training_sample` follows the original's `finetune.py`, `make_context` its `qwen_generation_utils.py`. Python and numpy
only. `tokenizer` is a `Vocabulary` or a `QwenVLTokenizer`: both have `encode_with_images(text, allowed_special)`,
`encode_fixed(text)` and the special ids as attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mindformers_qwenvl.checks import whole
from mindformers_qwenvl.text.rows import IGNORE, Encoded, Row, join

__all__ = ["SYSTEM_MESSAGE", "BadSampleError", "ImageCutError", "make_context", "training_sample", "turn_ends"]

SYSTEM_MESSAGE = "You are a helpful assistant."


class BadSampleError(ValueError):
    """A conversation that cannot be laid out: no turns, a bad role, an unclosed tag. The message says which turn."""


class ImageCutError(ValueError):
    """`max_length` cuts through an image or cuts it off. The message says where; the caller may drop the sample."""


def turn_ends(tokenizer: Any) -> tuple[int, int]:
    """<|im_end|> and <|im_start|>: the tokens that end an answer in ChatML."""
    return tokenizer.im_end_id, tokenizer.im_start_id


def training_sample(
    conversations: Sequence[tuple[str, str] | dict[str, str]],
    tokenizer,
    *,
    max_length: int,
    system_message: str = SYSTEM_MESSAGE,
    user_role_name: str = "user",
    assistant_role_name: str = "assistant",
    user_prompt: str = "",
    assistant_prompt: str = "",
    image_overflow: str = "error",
) -> Row:
    """Lay out a conversation for fine-tuning: a system turn, then each turn as
    `<|im_start|>role\\n` + prompt + value + `<|im_end|>\\n`.

    `<|im_start|>`, `<|im_end|>` and the newline after it are trained in every turn, the text in the assistant's turns
    only, role names in none. The newline after a role is tokenised apart from the text. A first turn that is not the
    user's is left out. The tokenizer's `allowed_special` says which special tokens in the text count as such: all,
    unless it was set otherwise.

    Args:
        conversations: turns `(role, value)`, or dicts with `from` and `value`.
        tokenizer: see the module.
        max_length: the row is cut on the right to `max_length + 1` tokens (the network shifts inputs against labels by
            one).
        system_message: text of the system turn.
        user_role_name, assistant_role_name: the role names in `conversations`, written into the row as they are.
        user_prompt, assistant_prompt: put before each text of that role.
        image_overflow: "error" or "skip_sample". Both raise `ImageCutError` for a cut image; with "skip_sample" the
            caller is expected to drop the sample.

    Raises:
        BadSampleError: there are no turns, a turn has the wrong form or role, or an image tag is unclosed or nested.
        ImageCutError: the cut would drop an image or a part of one.
        ValueError: image_overflow or max_length is out of range, or both roles have the same name.
    """
    if image_overflow not in ("error", "skip_sample"):
        raise ValueError(f"image_overflow must be 'error' or 'skip_sample', got {image_overflow!r}")
    whole("max_length", max_length)
    if user_role_name == assistant_role_name:
        raise ValueError(f"user_role_name and assistant_role_name must differ, both are {user_role_name!r}")
    prompts = {user_role_name: user_prompt, assistant_role_name: assistant_prompt}
    turns = [_turn(turn, number, prompts) for number, turn in enumerate(conversations)]
    if not turns:
        raise BadSampleError("the conversation has no turns")
    if turns[0][1] != user_role_name:
        del turns[0]

    start, end = Encoded([tokenizer.im_start_id]), Encoded([tokenizer.im_end_id])
    newline = tokenizer.encode_fixed("\n")
    parts: list[Encoded] = []
    trained: list[bool] = []
    for number, role, text in [(None, "system", system_message), *turns]:
        encode = tokenizer.encode_fixed if number is None else tokenizer.encode_with_images
        try:
            role_ids, text_ids = tokenizer.encode_fixed(role), encode(text)
        except ValueError as error:
            raise BadSampleError(f"turn {number} ({role}): {error}") from error
        parts += (start, role_ids, newline, text_ids, end, newline)
        trained += (True, False, False, number is not None and role == assistant_role_name, True, True)

    row = join(parts)
    _check_cut(row, max_length + 1)
    ids = np.array(row.ids, np.int32)
    mask = np.repeat(trained, [len(part) for part in parts])
    labels = np.where(mask, ids, np.int32(IGNORE))
    return Row(ids[: max_length + 1], row.images, row.spans, labels[: max_length + 1])


def _turn(turn: Any, number: int, prompts: dict[str, str]) -> tuple[int, str, str]:
    try:
        role, value = (turn["from"], turn["value"]) if isinstance(turn, dict) else turn
    except (KeyError, TypeError, ValueError):
        raise BadSampleError(f"turn {number}: expected a role and a text (`from`, `value`), got {turn!r}") from None
    if not isinstance(role, str) or role not in prompts:
        raise BadSampleError(f"turn {number}: the role must be {' or '.join(map(repr, prompts))}, got {role!r}")
    if not isinstance(value, str):
        raise BadSampleError(f"turn {number} ({role}): the text must be a string, got {value!r}")
    return number, role, prompts[role] + value


def _check_cut(row: Encoded, limit: int) -> None:
    """An image needs its start tag, slots and end tag inside the first `limit` tokens."""
    for number, (path, span) in enumerate(zip(row.images, row.spans, strict=True), 1):
        if span.stop + 1 > limit:
            what = "cuts through" if span.start - 1 < limit else "cuts off"
            raise ImageCutError(
                f"max_length {limit - 1} {what} image {number} of {len(row.images)} ({path!r}), which takes positions "
                f"{span.start - 1} to {span.stop} of {len(row)} tokens; raise max_length to at least {span.stop}, "
                "shorten the text, or set image_overflow: skip_sample"
            )


def make_context(
    tokenizer,
    query: str,
    history: Sequence[tuple[str, str | None]] | None = None,
    system: str = "",
    max_window_size: int = 6144,
    chat_format: str = "chatml",
    longest: int | None = None,
    answer_pictures: bool = False,
) -> tuple[str, Encoded]:
    """Prompt of a chat: system turn, as many of the latest exchanges as fit, the query, the opening of the answer.

    In what people wrote, only image and grounding tags are recognised, so `<|im_start|>` in a query stays text. In what
    the model wrote, only grounding tags are: `<img>path</img>` in an answer stays text, and opens no picture.

    Args:
        tokenizer: see the module.
        query: what the user says now.
        history: earlier exchanges `(query, answer)`, oldest first; an answer may be None.
        system: the system message.
        max_window_size: exchanges are taken, latest first, while system turn and history stay below this many tokens;
            the query is always taken.
        chat_format: "chatml", or "raw": the query alone, to which the tokenizer's `allowed_special` applies.
        longest: the oldest exchanges are left out until the whole prompt has at most this many tokens. None: no limit.
        answer_pictures: `<img>path</img>` in an answer is a picture, as in the original.

    Returns:
        The prompt as text and as tokens.

    Raises:
        ValueError: an image tag is unclosed or nested, or chat_format is neither of the two.
    """
    if chat_format == "raw":
        return query, tokenizer.encode_with_images(query)
    if chat_format != "chatml":
        raise ValueError(f"chat_format must be 'chatml' or 'raw', got {chat_format!r}")
    start, end = Encoded([tokenizer.im_start_id]), Encoded([tokenizer.im_end_id])
    newline = tokenizer.encode_with_images("\n")

    tags = tokenizer.tags
    grounding = [tag for tag in tags if tag not in (tags.image_start, tags.image_end, tags.image_pad)]

    def said(role: str, text: str, allowed: str | list[str] = "image") -> tuple[str, list[Encoded]]:
        parts = [start, tokenizer.encode_with_images(role), newline, tokenizer.encode_with_images(text, allowed), end]
        return f"<|im_start|>{role}\n{text}<|im_end|>", parts

    system_text, system_parts = said("system", system)
    query_text, query_parts = said("user", query)
    opening = [newline, start, tokenizer.encode_with_images("assistant"), newline]
    size = sum(map(len, system_parts))
    behind = sum(map(len, [newline, *query_parts, *opening]))
    past: list[tuple[str, list[Encoded]]] = []  # latest first
    for asked, answered in reversed(history or ()):
        text, parts = said("user", asked)
        text, parts = f"\n{text}\n", [newline, *parts, newline]
        if answered is not None:
            answer_text, answer_parts = said("assistant", answered, "image" if answer_pictures else grounding)
            text, parts = text + answer_text, parts + answer_parts
        size += sum(map(len, parts))
        if size >= max_window_size or (longest is not None and size + behind > longest):
            break
        past.append((text, parts))

    kept = [part for _, parts in reversed(past) for part in parts]
    text = system_text + "".join(text for text, _ in reversed(past)) + f"\n{query_text}\n<|im_start|>assistant\n"
    return text, join([*system_parts, *kept, newline, *query_parts, *opening])
