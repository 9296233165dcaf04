"""One graph-mode CPU context for the folder; what a module has compiled is released after it."""

from __future__ import annotations

import pytest


@pytest.fixture
def graph_mode():
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    from tests.support.graphs import release

    yield
    release()
