"""Sizes of the graphs; tests/serve has the steps of a network."""

from __future__ import annotations

from mindformers_qwenvl.chat.steps import _at_least, _doubling, _prompt_sizes


def test_sizes():
    assert _doubling(1, 8) == [1, 2, 4, 8] and _doubling(1, 6) == [1, 2, 4, 6] and _doubling(16, 16) == [16]
    assert _prompt_sizes(2048) == [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
    assert _prompt_sizes(100) == [64, 96, 100] and _prompt_sizes(40) == [40]
    assert _at_least([64, 96], 64) == 64 and _at_least([64, 96], 65) == 96
