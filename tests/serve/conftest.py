"""The network of set a56 behind a server in this process: three prompt graphs, three for decoding, one for pictures."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("openai", reason="the official client is not installed")

ROWS, LONGEST, QUEUE = 4, 128, 40


@pytest.fixture(scope="package")
def service(checkpoint_dir, tmp_path_factory):
    import os

    import mindspore as ms

    from mindformers_qwenvl import QwenVL
    from mindformers_qwenvl.data.processor import QwenVLProcessor
    from mindformers_qwenvl.generation.settings import settings_for
    from mindformers_qwenvl.serve.service import Limits
    from mindformers_qwenvl.serve.start import make_service
    from tests.support.graphs import release
    from tests.support.waiting import PATIENCE

    os.chdir(tmp_path_factory.mktemp("serve"))
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    directory = str(checkpoint_dir("a56"))
    network = QwenVL.from_pretrained(directory, use_past=True, num_blocks=48).set_train(False)
    made = make_service(
        network,
        QwenVLProcessor.from_pretrained(directory),
        settings_for(network),
        "base",
        Limits(body=4 * 2**20, bodies=64 * 2**20, answer_seconds=120),
        rows=ROWS,
        queue=QUEUE,
        longest=LONGEST,
        picture_memory=6 * 16 * 256 * 4,  # six pictures
    )
    made.engine.start(print)
    assert made.engine.ready.wait(600)
    yield made
    made.engine.close(0)
    assert made.engine.join(PATIENCE)
    release()


@pytest.fixture(scope="package")
def address(service):
    from tests.support.served import running

    with running(service) as found:
        yield found


@pytest.fixture
def client(address):
    from openai import OpenAI

    from tests.support.waiting import PATIENCE

    with OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as found:
        yield found
