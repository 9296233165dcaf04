"""One graph-mode CPU context for the folder, and the network of one golden set at a time.

Tests of a set run one after another, and what the set has compiled is released before the next.
"""

from __future__ import annotations

import pytest

from tests.support.golden import SETS, golden_set


@pytest.fixture(scope="package", autouse=True)
def _context():
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


@pytest.fixture(scope="module", autouse=True)
def _released(released):
    pass


@pytest.fixture(scope="module", params=SETS)
def golden(request):
    """Each set in turn; `@only("a56")` takes one."""
    from tests.support.graphs import release

    yield golden_set(request.param)
    release()


@pytest.fixture(scope="module")
def network(golden, checkpoint_dir):
    """The set's network with the golden weights, in evaluation mode. Leave it as it was."""
    from mindformers_qwenvl import QwenVL

    return QwenVL.from_pretrained(str(checkpoint_dir(golden.name))).set_train(False)


@pytest.fixture(scope="module")
def cached_network(golden, checkpoint_dir):
    """`network`, with a key/value cache."""
    from mindformers_qwenvl import QwenVL

    return QwenVL.from_pretrained(str(checkpoint_dir(golden.name)), use_past=True).set_train(False)
