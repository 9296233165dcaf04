"""From samples to a network's answers: in batches, into a journal, by one process or several."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindformers_qwenvl.chat.batches import Prepared, answer_questions, one_line
from mindformers_qwenvl.chat.journal import Journal, journal_lines
from mindformers_qwenvl.chat.likelihood import option_tokens
from mindformers_qwenvl.chat.questions import Question, batches_by_size
from mindformers_qwenvl.evaluate.prompts import Asking, ask, option_texts
from mindformers_qwenvl.evaluate.samples import LETTERS, Sample
from mindformers_qwenvl.evaluate.scoring import Answered
from mindformers_qwenvl.evaluate.tasks import Task
from mindformers_qwenvl.generation.prompt import Pictures, make_prompt

__all__ = ["ANSWERS", "Share", "answered_of", "answers_of", "prepare", "read_records", "run"]

ANSWERS = "answers.jsonl"
CHECKED_EVERY = 0.5  # seconds between two looks at what the other processes have done


def prepare(task: Task, samples: Sequence[Sample], tokenizer: Any, asking: Asking) -> list[tuple[Sample, Prepared]]:
    """The samples with their prompts. Opens no picture.

    Raises:
        ValueError: a sample cannot be laid out; the message says which.
    """
    prepared = []
    for sample in samples:
        asked = ask(sample, asking)
        try:
            row = make_prompt(
                tokenizer, asked.text, system=asking.system, chat_format="chatml" if asking.chat else "raw"
            )
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: {error}") from error
        row.in_memory.update(asked.pictures)
        prepared.append((sample, Prepared(Question(sample.id, asked.text), row)))
    return prepared


def answers_of(
    task: Task,
    prepared: Sequence[tuple[Sample, Prepared]],
    network: Any,
    tokenizer: Any,
    pictures: Pictures,
    config: Any,
    *,
    batch_size: int,
) -> Iterator[list[dict[str, Any]]]:
    """The records of one batch after another: `id` and `answer`, or `id` and `error`; for a task by likelihood
    also the `losses` of the options.

    Args:
        task: what is asked.
        prepared: see `prepare`.
        network, tokenizer, pictures: what answers.
        config: a generation configuration from `settings_for`.
        batch_size: samples of a batch.
    """
    if task.by_likelihood:
        yield from _compare(prepared, network, tokenizer, pictures, batch_size)
        return
    skip = config.chat_format == "raw"  # as the original's scripts decode
    questions = [one for _, one in prepared]
    yield from answer_questions(
        *(network, tokenizer, pictures, questions, config), batch_size=batch_size, skip_special_tokens=skip
    )


def _compare(
    prepared: Sequence[tuple[Sample, Prepared]], network: Any, tokenizer: Any, pictures: Pictures, batch_size: int
) -> Iterator[list[dict[str, Any]]]:
    sizes = [(len(one.prompt.images), len(one.prompt)) for _, one in prepared]
    for indices in batches_by_size(sizes, batch_size):
        groups = [[prepared[index] for index in indices]]
        records: list[dict[str, Any]] = []
        while groups:
            group = groups.pop(0)
            try:
                records += _losses(group, network, tokenizer, pictures)
            except Exception as error:
                if len(group) == 1:
                    records.append({"id": group[0][0].id, "error": one_line(error)})
                else:
                    groups += [[alone] for alone in group]  # one after the other, to find the one that fails
        yield records


def _losses(
    group: Sequence[tuple[Sample, Prepared]], network: Any, tokenizer: Any, pictures: Pictures
) -> list[dict[str, Any]]:
    options = [[tokenizer.encode_fixed(text).ids for text in option_texts(sample)] for sample, _ in group]
    prompts = [one.prompt for _, one in group]
    found = option_tokens(network, prompts, [pictures.of(prompt) for prompt in prompts], options)
    records = []
    for (sample, one), tokens in zip(group, found, strict=True):
        losses = [option.loss for option in tokens]
        best = int(np.argmin(losses))
        records.append({"id": sample.id, "answer": LETTERS[best], "losses": losses, "prompt_tokens": len(one.prompt)})
    return records


@dataclass(frozen=True)
class Share:
    """The samples that this process answers: every `size`-th, from `rank` on. All write into the folder `output`."""

    output: Path
    rank: int = 0
    size: int = 1

    @property
    def journal(self) -> Path:
        return self.output / (ANSWERS if self.size == 1 else f"answers.rank_{self.rank}.jsonl")

    def mine(self, items: Sequence[Any]) -> list[Any]:
        return list(items[self.rank :: self.size])

    def _done(self, rank: int) -> Path:
        return self.output / f".rank_{rank}.done"

    def begin(self) -> None:
        """Remove the mark of an earlier run. Every process calls this, and waits for the others, before it answers."""
        self._done(self.rank).unlink(missing_ok=True)

    def end(self) -> None:
        """Mark that this process has answered its samples; the first process waits here for the others."""
        self._done(self.rank).touch()
        if self.rank == 0:
            while not all(self._done(rank).exists() for rank in range(self.size)):
                time.sleep(CHECKED_EVERY)
            for rank in range(self.size):
                self._done(rank).unlink(missing_ok=True)


def read_records(output: Path) -> dict[str, dict[str, Any]]:
    """The records of all journals of a folder, by id, see `journal_lines`; an answer takes precedence over an error."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(output.glob("answers*.jsonl")):
        for _, record in journal_lines(path):
            if record is not None and ("answer" in record or str(record["id"]) not in records):
                records[str(record["id"])] = record
    return records


def run(
    share: Share, prepared: Sequence[tuple[Sample, Prepared]], answer: Any
) -> Iterator[list[tuple[Sample, dict[str, Any]]]]:
    """Answer what is not answered yet of this process's share, and write each batch into the journal. Yields batches of
    (sample, record), first those that were there already.

    Args:
        share: of the samples.
        prepared: all samples.
        answer: a function from the samples that are left to batches of records.
    """
    mine = share.mine(prepared)
    samples = {str(sample.id): sample for sample, _ in mine}
    known = read_records(share.output)  # also those of a run with another number of processes
    before = {key: known[key] for key in samples if "answer" in known.get(key, {})}
    yield [(samples[key], record) for key, record in before.items()]
    with Journal(share.journal) as journal:
        left = [one for one in mine if str(one[0].id) not in before]
        for batch in answer(left) if left else ():
            for record in batch:
                journal.write(record)
            yield [(samples[str(record["id"])], record) for record in batch]


def answered_of(samples: Sequence[Sample], records: dict[str, dict[str, Any]]) -> list[Answered]:
    """The samples that have an answer, in order."""
    return [
        Answered(sample, record["answer"], tuple(record.get("losses", ())))
        for sample in samples
        if "answer" in (record := records.get(str(sample.id), {}))
    ]
