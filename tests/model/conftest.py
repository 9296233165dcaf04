"""One graph-mode CPU context for the folder, and each golden set's network, built once."""

from __future__ import annotations

import pytest

from tests.golden import SETS, golden_set


@pytest.fixture(scope="package", autouse=True)
def _context():
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


@pytest.fixture(scope="package")
def network(checkpoint_dir):
    """`network("a56")` -> the network with the golden weights, in evaluation mode. Leave it as it was."""
    from mindformers_qwenvl import QwenVL

    built = {}

    def factory(name: str):
        if name not in built:
            built[name] = QwenVL.from_pretrained(str(checkpoint_dir(name))).set_train(False)
        return built[name]

    return factory


@pytest.fixture(scope="package")
def cached_network(checkpoint_dir):
    """`network`, with a key/value cache."""
    from mindformers_qwenvl import QwenVL

    built = {}

    def factory(name: str):
        if name not in built:
            built[name] = QwenVL.from_pretrained(str(checkpoint_dir(name)), use_past=True).set_train(False)
        return built[name]

    return factory


@pytest.fixture(params=SETS)
def golden(request):
    return golden_set(request.param)
