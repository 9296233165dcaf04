"""Samples to train on; MindFormers in graph mode, with the names of this package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.annotation_files import colour_records, write_list


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """14 conversations about the golden pictures; a multiple of the batch size they are not."""
    colours = ("red", "green", "blue", "grey", "white", "black", "none")
    return write_list(tmp_path_factory.mktemp("samples") / "train.json", colour_records(2 * colours))


@pytest.fixture(scope="module")
def graph_mode():
    import mindspore as ms

    from mindformers_qwenvl.registration import register
    from tests.support.graphs import release

    register()
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    yield
    release()
