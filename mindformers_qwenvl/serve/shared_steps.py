"""Steps that every rank of a server runs: rank 0 for its engine, the others when rank 0 tells them to.

A network that cards share communicates inside its graphs, so all ranks must run the same graph with the same inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mindformers_qwenvl.chat.steps import Steps
from mindformers_qwenvl.serve.ranks import Rank0, Ranks
from mindformers_qwenvl.text.rows import ImageSpan, Row

__all__ = ["SharedSteps", "follow"]

logger = logging.getLogger(__name__)


class SharedSteps(Steps):
    """The `Steps` of rank 0. Each step is first announced to the other ranks, and ends when all ranks have done it.

    Args:
        network, rows, longest: see `Steps`.
        ranks: the other ranks.

    Raises (each step):
        RankGone: one of them is gone.
        RuntimeError: one of them has failed.
    """

    def __init__(self, network: Any, rows: int, longest: int, ranks: Ranks):
        super().__init__(network, rows, longest)
        self.ranks = ranks
        ranks.tell({"call": "begin", "rows": rows, "longest": longest})
        ranks.hear()

    def vectors(self, pixels: np.ndarray) -> np.ndarray:
        own = super().vectors
        return self._together({"call": "vectors"}, [pixels], lambda: own(pixels))

    def prefill(self, prompt: Row, vectors: Sequence[np.ndarray], blocks: Sequence[int]) -> np.ndarray:
        message = {
            "call": "prefill",
            "spans": [[int(span.start), int(span.stop)] for span in prompt.spans],
            "blocks": _plain(blocks),
        }
        own = super().prefill
        return self._together(message, [prompt.input_ids, *vectors], lambda: own(prompt, vectors, blocks))

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        prompt_lengths: Sequence[int],
        blocks: Sequence[Sequence[int]],
    ) -> np.ndarray:
        message = {
            "call": "decode",
            "tokens": _plain(tokens),
            "lengths": _plain(lengths),
            "prompt_lengths": _plain(prompt_lengths),
            "blocks": [_plain(row) for row in blocks],
        }
        own = super().decode
        return self._together(message, [], lambda: own(tokens, lengths, prompt_lengths, blocks))

    def set_adapter(self, name: str | None) -> None:
        own = super().set_adapter
        self._together({"call": "set_adapter", "name": name}, [], lambda: own(name))

    def _together(self, message: dict[str, Any], arrays: Sequence[np.ndarray], own: Callable[[], Any]) -> Any:
        self.ranks.tell(message, arrays)
        try:
            return own()
        finally:
            self.ranks.hear()  # also after an error here, or the next step would read these answers


def follow(network: Any, rank0: Rank0) -> None:
    """On the other ranks: run the steps that rank 0 announces, until it tells this rank to end.

    Args:
        network: the same as on rank 0.
        rank0: the connection to it.
    """
    steps: Steps | None = None
    while (told := rank0.next())[0]["call"] != "end":
        message, arrays = told
        try:
            if message["call"] == "begin":
                steps = Steps(network, message["rows"], message["longest"])
            else:
                _make(steps, message, arrays)
        except Exception as error:  # rank 0 ends the answers concerned, or the server if it keeps happening
            logger.exception("a step of the network failed")
            rank0.answer({"failed": type(error).__name__})
        else:
            rank0.answer({"made": message["call"]})
    rank0.leave()


def _make(steps: Steps, message: dict[str, Any], arrays: Sequence[np.ndarray]) -> None:
    call = message["call"]
    if call == "vectors":
        steps.vectors(arrays[0])
    elif call == "prefill":
        spans = tuple(ImageSpan(*span) for span in message["spans"])
        steps.prefill(Row(arrays[0], tuple("" for _ in spans), spans), arrays[1:], message["blocks"])
    elif call == "decode":
        steps.decode(message["tokens"], message["lengths"], message["prompt_lengths"], message["blocks"])
    elif call == "set_adapter":
        steps.set_adapter(message["name"])
    else:
        raise ValueError(f"there is no step {call!r}")


def _plain(numbers: Sequence[int]) -> list[int]:
    return [int(number) for number in numbers]
