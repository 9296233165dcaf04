"""Steps of chat/steps with the network of this folder: rows that read their blocks through tables of several widths."""

from __future__ import annotations

import numpy as np

from mindformers_qwenvl.chat.steps import Steps


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
