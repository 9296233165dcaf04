"""The estimate beside what real train steps of 50M parameters use on this CPU."""

from __future__ import annotations

import sys

import pytest

from mindformers_qwenvl.estimate import estimate, read_job
from tests.bench.bench_memory import KINDS, TINY, changes, expected, measured


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_gradients_and_optimizer_states(kind):
    """Few tokens, so that activations are 2% of it. Seen: -7% to +7%."""
    settings = changes(layers=2, tokens=64, rows=1)
    found = estimate(read_job(TINY, settings))
    assert 50e6 < found.parameters < 60e6
    assert found.cards[0].activations < 0.05 * expected(found)["gradients"]
    assert measured(kind, settings) == pytest.approx(expected(found)[kind], rel=0.25)
