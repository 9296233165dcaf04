"""Sizes of the graphs, and rows that read their blocks through tables of several widths."""

from __future__ import annotations

import numpy as np

from mindformers_qwenvl.chat.steps import Steps, _at_least, _doubling, _prompt_sizes
from mindformers_qwenvl.chat.vectors import PictureVectors, digest_of


def test_sizes():
    assert _doubling(1, 8) == [1, 2, 4, 8] and _doubling(1, 6) == [1, 2, 4, 6] and _doubling(16, 16) == [16]
    assert _prompt_sizes(2048) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert _prompt_sizes(100) == [64, 96, 100] and _prompt_sizes(40) == [40]
    assert _at_least([64, 96], 64) == 64 and _at_least([64, 96], 65) == 96


def test_vectors_are_kept_in_bounded_memory():
    made = []

    def encode(pixels):
        made.append(pixels)
        return pixels * 2.0

    vectors = PictureVectors(encode, most=3 * 80)
    pictures = [np.full(10, number, np.float64) for number in range(5)]
    for _ in range(2):
        for picture in pictures[:3]:
            assert (vectors.of(digest_of(picture), picture) == picture * 2).all()
    assert len(made) == 3 and (vectors.encoded, vectors.found, vectors.size) == (3, 3, 240)
    vectors.of(digest_of(pictures[3]), pictures[3])  # the one that was used longest ago is dropped
    vectors.of(digest_of(pictures[1]), pictures[1])
    assert len(made) == 4 and len(vectors) == 3
    vectors.of(digest_of(pictures[0]), pictures[0])
    assert len(made) == 5 and vectors.size == 240
    nothing = PictureVectors(encode, most=0)
    nothing.of(b"", pictures[0])
    assert len(nothing) == 0 and nothing.size == 0


def test_rows_do_not_depend_on_each_other_or_on_the_width_of_tables(service):
    network, random = service.engine.network, np.random.default_rng(3)
    steps = Steps(network, 4, 128)
    from mindformers_qwenvl.text.rows import Row

    blocks = [[7, 3, 11, 4], [1, 9, 2, 8], [20, 30, 21, 31]]
    prompts = [Row(random.integers(0, 700, length).astype(np.int32)) for length in (20, 33, 48)]
    first = [int(steps.prefill(prompt, [], held).argmax()) for prompt, held in zip(prompts, blocks, strict=True)]
    lengths = [len(prompt) + 1 for prompt in prompts]
    asked = [len(prompt) for prompt in prompts]
    together = steps.decode(first, lengths, asked, blocks)
    assert together.shape == (3, network.config.vocab_size)
    steps.table_widths = [4]
    for row in range(3):
        alone = steps.decode(first[row : row + 1], lengths[row : row + 1], asked[row : row + 1], [blocks[row]])
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)
        assert alone.argmax() == together[row].argmax()
