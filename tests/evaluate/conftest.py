"""One graph-mode CPU context for the folder; the network of set a56 with a cache."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="package")
def network(checkpoint_dir):
    """Leave it as it was."""
    import mindspore as ms

    from mindformers_qwenvl import QwenVL
    from tests.support.graphs import release

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    yield QwenVL.from_pretrained(str(checkpoint_dir("a56")), use_past=True).set_train(False)
    release()


@pytest.fixture(scope="package")
def processor(checkpoint_dir):
    from mindformers_qwenvl import QwenVLProcessor

    return QwenVLProcessor.from_pretrained(str(checkpoint_dir("a56")))
