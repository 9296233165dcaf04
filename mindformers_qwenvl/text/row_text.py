"""From what a network wrote to text. Plain Python; `tokenizer` is a `Vocabulary` or a `QwenVLTokenizer`."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers_qwenvl.text.layout import Sample
from mindformers_qwenvl.text.list_format import restore_image_paths


def output_text(
    tokenizer,
    ids: Sequence[int],
    prompt: Sample | None = None,
    *,
    answer_only: bool = False,
    skip_special_tokens: bool = False,
) -> str:
    """Text of a generated row (prompt and answer), without the end-of-text marks at its end.

    Args:
        tokenizer: see the module.
        ids: the row.
        prompt: what it began with, if that is known: its images then read `<img>path</img>`, not `<img></img>`.
        answer_only: with a prompt, give what follows it, up to the end of the turn, stripped.
        skip_special_tokens: leave out image, box and chat tokens too.
    """
    ids = [int(i) for i in ids]
    start = 0 if prompt is None else len(prompt.input_ids)
    while len(ids) > start and ids[-1] == tokenizer.eod_id:
        ids.pop()
    answer = ids[start:]
    if prompt is None:
        return _decode(tokenizer, answer, skip_special_tokens)
    if answer_only:
        ends = [answer.index(i) for i in (tokenizer.im_end_id, tokenizer.im_start_id) if i in answer]
        return _decode(tokenizer, answer[: min(ends, default=len(answer))], skip_special_tokens).strip()
    text = restore_image_paths(_decode(tokenizer, ids[:start], skip_special_tokens), prompt.images, tokenizer.tags)
    return text + _decode(tokenizer, answer, skip_special_tokens)


def _decode(tokenizer, ids: list[int], skip_special_tokens: bool) -> str:
    """Text of ids, whatever a network wrote: its head has more rows than there are tokens, and tags may not close."""
    ids = [i for i in ids if 0 <= i <= tokenizer.img_pad_id]  # the last id of the vocabulary
    try:
        return tokenizer.decode(ids, skip_special_tokens)
    except ValueError:
        images = (tokenizer.img_start_id, tokenizer.img_end_id, tokenizer.img_pad_id)
        return tokenizer.decode([i for i in ids if i not in images], skip_special_tokens)
