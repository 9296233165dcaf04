"""Answers questions in batches, with one record per answer. A question that fails does not make the others fail."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers.generation import GenerationConfig

from mindformers_qwenvl.chat.answer import Answer, AnswerStreamer, check_prompts, generate_answers
from mindformers_qwenvl.chat.questions import BadQuestion, Question, batches_by_size
from mindformers_qwenvl.generation.prompt import Pictures, prompt_that_fits
from mindformers_qwenvl.generation.stopping import stop_ids
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE, turn_ends
from mindformers_qwenvl.text.reply import answer_text
from mindformers_qwenvl.text.rows import Row

__all__ = ["Prepared", "answer_questions", "cache_blocks", "one_line", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A question, and its prompt."""

    question: Question
    prompt: Row


def prepare(
    tokenizer: Any,
    questions: Sequence[Question | BadQuestion],
    config: GenerationConfig,
    *,
    seq_length: int,
    system: str = SYSTEM_MESSAGE,
) -> tuple[list[Prepared], list[dict[str, Any]]]:
    """The questions with their prompts, and a record with `id` and `error` for each one that cannot be asked. Opens no
    picture.

    Args:
        tokenizer: a `QwenVLTokenizer`.
        questions: see `questions.read_questions`.
        config: see `settings.settings_for`.
        seq_length: tokens the network takes; see `generation.prompt.prompt_that_fits`.
        system: the system message of questions that have none.
    """
    prepared: list[Prepared] = []
    failed: list[dict[str, Any]] = []
    for question in questions:
        if isinstance(question, BadQuestion):
            failed.append({"id": question.id, "error": question.error})
            continue
        message = system if question.system is None else question.system
        try:
            prompt = prompt_that_fits(
                tokenizer, question.query, question.history, message, config=config, seq_length=seq_length
            )
            prepared.append(Prepared(question, prompt))
        except (ValueError, TypeError) as error:
            failed.append({"id": question.id, "error": one_line(error)})
    return prepared, failed


def cache_blocks(
    prepared: Sequence[Prepared], batch_size: int, *, seq_length: int, max_new_tokens: int, block_size: int
) -> int:
    """Blocks of the key/value cache that the largest batch may need; no more memory than that has to be reserved."""
    needed = [
        sum(-(-min(len(prepared[index].prompt) + max_new_tokens, seq_length) // block_size) for index in batch)
        for batch in _batches(prepared, batch_size)
    ]
    return max(needed, default=0) + 1


def _batches(prepared: Sequence[Prepared], batch_size: int) -> list[list[int]]:
    return batches_by_size([(len(one.prompt.images), len(one.prompt)) for one in prepared], batch_size)


def answer_questions(
    network: Any,
    tokenizer: Any,
    pictures: Pictures,
    prepared: Sequence[Prepared],
    config: GenerationConfig,
    *,
    batch_size: int = 1,
    seed: int | None = None,
    skip_special_tokens: bool = False,
    on_text: Callable[[str], None] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """The records of one batch after another: `id`, `answer`, `finish` ("stop" or "length"), `prompt_tokens` and
    `new_tokens`; or `id` and `error`.

    Args:
        network, tokenizer, pictures: a `QwenVL`, its `QwenVLTokenizer`, and what opens its pictures.
        prepared: see `prepare`.
        config: see `settings.settings_for`.
        batch_size: the most questions in a batch.
        seed: of sampling. The answer to a question depends only on it and on the question's id, not on order, batch or
            earlier runs.
        skip_special_tokens: leave the tags of boxes and the like out of the answers.
        on_text: called with the text so far while an answer is written, see `AnswerStreamer`; if `batch_size` is 1.
    """
    stops = stop_ids(config, turn_ends(tokenizer))

    def run(batch: list[tuple[Prepared, list]]) -> list[Answer]:
        seeds = None if seed is None else [[seed, zlib.crc32(str(one.question.id).encode())] for one, _ in batch]
        prompts, opened = [one.prompt for one, _ in batch], [shown for _, shown in batch]
        streamer = None if on_text is None else AnswerStreamer(tokenizer, on_text)
        return generate_answers(network, tokenizer, prompts, opened, config, seeds=seeds, streamer=streamer)

    for indices in _batches(prepared, batch_size):
        records: list[dict[str, Any]] = []
        ready: list[tuple[Prepared, list]] = []
        for one in (prepared[index] for index in indices):
            try:
                check_prompts(network, [one.prompt])
                ready.append((one, pictures.of(one.prompt)))
            except (OSError, ValueError) as error:
                records.append({"id": one.question.id, "error": one_line(error)})
        groups = [ready] if ready else []
        while groups:
            group = groups.pop(0)
            try:
                answers = run(group)
            except Exception as error:
                if len(group) == 1:
                    records.append({"id": group[0][0].question.id, "error": one_line(error)})
                else:
                    groups += [[alone] for alone in group]  # one after the other, to find the one that fails
                continue
            for (one, _), answer in zip(group, answers, strict=True):
                records.append(
                    {
                        "id": one.question.id,
                        "answer": answer_text(tokenizer, answer.ids, stops, skip_special_tokens),
                        "finish": "stop" if answer.stopped else "length",
                        "prompt_tokens": len(one.prompt),
                        "new_tokens": len(answer.ids),
                    }
                )
        yield records


def one_line(error: BaseException) -> str:
    """An error in one line: its type and the first line of its message."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
