"""Questions to records with their answers, in batches. One that cannot be answered never takes others with it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mindformers.generation import GenerationConfig

from mindformers_qwenvl.chat.answer import Answer, check_prompts, generate_answers
from mindformers_qwenvl.chat.prompt import Pictures, Prompt, chat_prompt
from mindformers_qwenvl.chat.questions import BadRow, Row, similar
from mindformers_qwenvl.generation.settings import stop_ids
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.reply import answer_text

__all__ = ["Question", "answer_questions", "cache_blocks", "prepare", "why"]


@dataclass(frozen=True)
class Question:
    """A row, and what it is in tokens."""

    row: Row
    prompt: Prompt


def prepare(
    tokenizer: Any,
    rows: Sequence[Row | BadRow],
    *,
    seq_length: int,
    max_new_tokens: int,
    max_window_size: int,
    chat_format: str = "chatml",
    system: str = SYSTEM_MESSAGE,
) -> tuple[list[Question], list[dict[str, Any]]]:
    """Questions, and records of the rows that are none. Opens no picture.

    Args:
        tokenizer: a `QwenVLTokenizer`.
        rows: see `rows.read_rows`.
        seq_length: what the network takes; old exchanges give way, see `Chat.prompt`.
        max_new_tokens, max_window_size, chat_format: see `settings.settings_for`.
        system: the message of rows that have none of their own.
    """
    questions: list[Question] = []
    failed: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, BadRow):
            failed.append({"id": row.id, "error": row.error})
            continue
        try:
            prompt = chat_prompt(
                tokenizer,
                row.query,
                row.history,
                system if row.system is None else row.system,
                max_window_size=max_window_size,
                chat_format=chat_format,
                longest=seq_length - min(max_new_tokens, seq_length // 4),
            )
            questions.append(Question(row, prompt))
        except (ValueError, TypeError) as error:
            failed.append({"id": row.id, "error": why(error)})
    return questions, failed


def cache_blocks(
    questions: Sequence[Question], batch_size: int, *, seq_length: int, max_new_tokens: int, block_size: int
) -> int:
    """Blocks that the largest batch may need in the key/value cache; no more memory than that has to be held."""
    needed = [
        sum(-(-min(len(questions[index].prompt) + max_new_tokens, seq_length) // block_size) for index in batch)
        for batch in _batches(questions, batch_size)
    ]
    return max(needed, default=0) + 1


def _batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    sizes = [(len(question.prompt.images), len(question.prompt)) for question in questions]
    return list(similar(sizes, batch_size))


def answer_questions(
    network: Any,
    tokenizer: Any,
    pictures: Pictures,
    questions: Sequence[Question],
    config: GenerationConfig,
    *,
    batch_size: int = 1,
    seed: int | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Records of one batch after another: `id`, `answer`, `finish` ("stop" or "length"), `prompt_tokens` and
    `new_tokens`; or `id` and `error`.

    Args:
        network, tokenizer, pictures: what answers.
        questions: see `prepare`.
        config: see `settings.settings_for`.
        batch_size: rows of a batch.
        seed: what is drawn for a row depends on it and on the row's id alone, not on order, batch or earlier runs.
    """
    stops = stop_ids(config, tokenizer)

    def run(batch: list[tuple[Question, list]]) -> list[Answer]:
        seeds = None if seed is None else [[seed, zlib.crc32(str(q.row.id).encode())] for q, _ in batch]
        prompts, opened = [q.prompt for q, _ in batch], [images for _, images in batch]
        return generate_answers(network, tokenizer, prompts, opened, config, seeds=seeds)

    for indices in _batches(questions, batch_size):
        records: list[dict[str, Any]] = []
        ready: list[tuple[Question, list]] = []
        for question in (questions[index] for index in indices):
            try:
                check_prompts(network, [question.prompt])
                ready.append((question, pictures.of(question.prompt)))
            except (OSError, ValueError) as error:
                records.append({"id": question.row.id, "error": why(error)})
        groups = [ready] if ready else []
        while groups:
            group = groups.pop(0)
            try:
                answers = run(group)
            except Exception as error:
                if len(group) == 1:
                    records.append({"id": group[0][0].row.id, "error": why(error)})
                groups += [[one] for one in group] if len(group) > 1 else []  # one after the other: which was it?
                continue
            for (question, _), answer in zip(group, answers, strict=True):
                records.append(
                    {
                        "id": question.row.id,
                        "answer": answer_text(tokenizer, answer.ids, stops),
                        "finish": "stop" if answer.stopped else "length",
                        "prompt_tokens": len(question.prompt),
                        "new_tokens": len(answer.ids),
                    }
                )
        yield records


def why(error: BaseException) -> str:
    """An error in one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
