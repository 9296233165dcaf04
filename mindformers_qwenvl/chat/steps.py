"""Runs a network one step at a time, for a server, whose rows join and leave a running batch between tokens.

The host's `generate()` keeps a batch together from the prompts to the last token of the longest answer. Here the caller
says at each step which rows there are. There are few different shapes, so all graphs can be compiled beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindformers_qwenvl.text.columns import NO_POSITION
from mindformers_qwenvl.text.rows import Row

__all__ = ["Steps"]

SHORTEST = 64  # columns of the shortest prompt graph


class Steps:
    """Prefill and decoding of a `QwenVL` with a cache (`use_past`). The caller hands out the blocks of the cache.

    This is not thread-safe: one thread must own the network.

    Args:
        network: the network, in evaluation mode.
        rows: the most rows that are decoded at once.
        longest: the most tokens that prompt and answer may have together.
    """

    def __init__(self, network: Any, rows: int, longest: int):
        config = network.config
        self.network = network
        self.slots = config.num_queries
        self.width = config.llm.hidden_size
        self.block_size = config.block_size
        self.pad = config.pad_token_id
        self.longest = longest
        self.row_sizes = _doubling(1, rows)
        self.columns = _prompt_sizes(longest)
        # If attention reads whole block tables, whatever the rows' lengths, short rows should have short tables.
        most = self.blocks_of(longest)
        self.table_widths = [most] if network.reads_by_length(rows) else _doubling(min(16, most), most, 4)

    def blocks_of(self, tokens: int) -> int:
        """Blocks of the cache that hold `tokens`."""
        return -(-tokens // self.block_size)

    def set_adapter(self, name: str | None) -> None:
        """Answer with an adapter from now on, see `AdapterSwitch.set_adapter`."""
        self.network.set_adapter(name)

    def vectors(self, pixels: np.ndarray) -> np.ndarray:
        """The vectors float32 [Q, H] of a picture float32 [3, H, W], normalised."""
        return self.network.image_vectors(pixels[None])[0]

    def prefill(self, prompt: Row, vectors: Sequence[np.ndarray], blocks: Sequence[int]) -> np.ndarray:
        """Logits float32 [V] after a prompt, whose keys and values are now in the cache.

        Args:
            prompt: its tokens and where its pictures are.
            vectors: those of each picture, see `vectors`.
            blocks: the cache blocks that hold the prompt, in order.
        """
        length = len(prompt)
        columns = _at_least(self.columns, length)
        ids = np.full((1, columns), self.pad, np.int32)
        ids[0, :length] = prompt.input_ids
        # All pictures are passed as one that has a slot for each column, filled or not. Their number then changes no
        # shape.
        images = np.zeros((1, 1, columns, self.width), np.float32)
        positions = np.full((1, 1, columns, 2), NO_POSITION, np.int32)
        positions[..., 0] = 0
        for span, vector in zip(prompt.spans, vectors, strict=True):
            images[0, 0, span.start : span.stop] = vector
            positions[0, 0, span.start : span.stop, 1] = np.arange(span.start, span.stop)
        slots = np.full(columns, -1, np.int32)
        token = np.arange(length)
        slots[:length] = np.asarray(blocks)[token // self.block_size] * self.block_size + token % self.block_size
        tables = np.zeros((1, self.blocks_of(columns)), np.int32)
        tables[0, : self.blocks_of(length)] = blocks[: self.blocks_of(length)]
        logits = self._run(
            f"serve_prefill_{columns}",
            input_ids=Tensor(ids),
            prompt_length=Tensor([length], ms.int32),
            batch_valid_length=Tensor([length], ms.int32),
            block_tables=Tensor(tables),
            slot_mapping=Tensor(slots),
            images=Tensor(images),
            image_context_pos=Tensor(positions),
        )
        return logits[0]

    def decode(
        self,
        tokens: Sequence[int],
        lengths: Sequence[int],
        prompt_lengths: Sequence[int],
        blocks: Sequence[Sequence[int]],
    ) -> np.ndarray:
        """Logits float32 [R, V] after the newest token of each of R rows.

        Args:
            tokens: the newest token of each row; it is not in the cache yet.
            lengths: tokens of each row, including the newest.
            prompt_lengths: tokens of each row's prompt.
            blocks: the cache blocks of each row, in order.
        """
        count = len(tokens)
        rows = _at_least(self.row_sizes, count)
        width = _at_least(self.table_widths, self.blocks_of(max(lengths)))
        ids = np.full((rows, 1), self.pad, np.int32)
        ids[:count, 0] = tokens
        valid, asked = np.ones(rows, np.int32), np.ones(rows, np.int32)
        valid[:count], asked[:count] = lengths, prompt_lengths
        slots = np.full(rows, -1, np.int32)
        tables = np.zeros((rows, width), np.int32)
        for row, held in enumerate(blocks):
            last = lengths[row] - 1
            slots[row] = held[last // self.block_size] * self.block_size + last % self.block_size
            used = min(len(held), width)
            tables[row, :used] = held[:used]
        logits = self._run(
            f"serve_decode_{rows}_{width}",
            input_ids=Tensor(ids),
            prompt_length=Tensor(asked),
            batch_valid_length=Tensor(valid),
            block_tables=Tensor(tables),
            slot_mapping=Tensor(slots),
        )
        return logits[:count]

    def compile(self) -> Iterator[tuple[int, int, str]]:
        """Compile every graph that `vectors`, `prefill` and `decode` may need, by running it. Before each graph, this
        yields its number, how many there are, and what it is. It writes nothing into the cache that a row would read.
        """
        size = self.network.config.vision.image_size
        decodes = [(rows, width) for rows in self.row_sizes for width in self.table_widths]
        total = 1 + len(self.columns) + len(decodes)
        yield 1, total, "vision tower"
        self.vectors(np.zeros((3, size, size), np.float32))
        done = 1
        for columns in self.columns:
            done += 1
            yield done, total, f"prompts of up to {columns} tokens"
            row = Row(np.full(min(columns, self.longest), self.pad, np.int32))
            self.prefill(row, [], [0] * self.blocks_of(len(row)))
        for rows, width in decodes:
            done += 1
            yield done, total, f"decoding {rows} row{'s'[: rows > 1]} of up to {width * self.block_size} tokens"
            tokens = min(width * self.block_size, self.longest)
            self.decode([self.pad] * rows, [tokens] * rows, [1] * rows, [[0] * width] * rows)

    def _run(self, phase: str, **inputs: Tensor) -> np.ndarray:
        self.network.phase = phase
        logits = self.network(**inputs)
        if logits.dtype != ms.float32:  # a needless operator would wake threads that slow the next graph
            logits = logits.astype(ms.float32)
        return logits.asnumpy().reshape(-1, logits.shape[-1])  # decoding may give [R, 1, V]


def _doubling(first: int, last: int, factor: int = 2) -> list[int]:
    """`first`, `factor` times that, and so on, up to and including `last`."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(sizes[-1] * factor, last))
    return sizes


def _prompt_sizes(longest: int) -> list[int]:
    """Columns of prompt graphs: two sizes per doubling."""
    sizes = [min(SHORTEST, longest)]
    while sizes[-1] < longest:
        last = sizes[-1]
        sizes.append(min(last * 3 // 2 if last & (last - 1) == 0 else last // 3 * 4, longest))
    return sizes


def _at_least(sizes: Sequence[int], wanted: int) -> int:
    """The smallest of `sizes`, in ascending order, that is at least `wanted`."""
    return next(size for size in sizes if size >= wanted)
