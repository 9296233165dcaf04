"""One graph-mode CPU context for the folder, the network of set a56 with a cache, and its tokenizer."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="package", autouse=True)
def _context():
    import mindspore as ms

    from tests.support.graphs import release

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    yield
    release()


@pytest.fixture(scope="package")
def network(checkpoint_dir):
    """Leave it as it was."""
    from mindformers_qwenvl import QwenVL

    return QwenVL.from_pretrained(str(checkpoint_dir("a56")), use_past=True).set_train(False)


@pytest.fixture(scope="package")
def tokenizer(checkpoint_dir):
    from mindformers_qwenvl import QwenVLTokenizer

    return QwenVLTokenizer.from_pretrained(str(checkpoint_dir("a56")))
