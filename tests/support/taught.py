"""A network that has learnt what to answer about a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIZE = (640, 400)
ENOUGH = 0.002  # loss at which every token is the likeliest by far
QUESTION = "Where are they?"
ANSWER = "<ref>a red circle</ref><box>(100,200),(400,680)</box> and <ref>方块</ref><box>(550,300),(900,860)</box>"


@dataclass(frozen=True)
class Taught:
    """A directory whose model gives `answer` to `question` about `picture`, a PNG of `SIZE`."""

    directory: Path
    picture: Path
    question: str = QUESTION
    answer: str = ANSWER


def draw_scene(file: Path) -> None:
    """The circle and the square of `ANSWER`, well inside their boxes, on a pale sky."""
    width, height = SIZE
    scene = Image.new("RGB", (width * 2, height * 2), "#e8f0f7")
    pen = ImageDraw.Draw(scene)
    pen.rectangle((0, height * 1.5, width * 2, height * 2), fill="#dfe6dc")
    pen.ellipse((width * 0.23, height * 0.44, width * 0.77, height * 1.32), fill="#d6453d")
    pen.rectangle((width * 1.14, height * 0.66, width * 1.76, height * 1.66), fill="#3566c9")
    scene.resize(SIZE, Image.Resampling.LANCZOS).save(file)


def teach(
    source: Path, folder: Path, samples: Sequence[tuple[Path, str, str]], *, steps: int = 200, length: int = 127
) -> None:
    """Train the network of `source` (set a56) on `samples`, (picture, question, answer), until it knows the answers.

    It is saved in `folder`. Samples are padded to `length` tokens.
    """
    import mindspore as ms
    from mindformers.core.optim import AdamW

    from mindformers_qwenvl import QwenVL, QwenVLTokenizer
    from mindformers_qwenvl.pictures.images import ImageTransform
    from mindformers_qwenvl.text.layout import training_sample

    ms.set_context(mode=ms.GRAPH_MODE)
    tokenizer = QwenVLTokenizer.from_pretrained(source)
    transform = ImageTransform(56)
    ids, pictures, positions, labels = [], [], [], []
    for row, (image, question, answer) in enumerate(samples):
        said = [("user", f"Picture 1: <img>{image}</img>\n{question}"), ("assistant", answer)]
        sample = training_sample(said, tokenizer, max_length=length)
        (span,) = sample.spans
        assert sample.input_ids[-2] == tokenizer.im_end_id, "cut: `length` is too short for it"
        missing = (0, length + 1 - len(sample.input_ids))  # the last one is only foreseen
        ids.append(np.pad(sample.input_ids, missing, constant_values=tokenizer.pad_token_id))
        labels.append(np.pad(sample.labels, missing, constant_values=-100))
        pictures.append(transform.normalise(transform.pixels(image))[None])
        positions.append([[(row, position) for position in range(span.start, span.stop)]])
    batch = [
        ms.Tensor(np.stack(ids)),
        ms.Tensor(np.stack(pictures)),
        ms.Tensor(positions, ms.int32),
        ms.Tensor(np.stack(labels)),
    ]
    network = QwenVL.from_pretrained(str(source), freeze_vision=True, freeze_resampler=True)
    step = ms.nn.TrainOneStepCell(network, AdamW(network.trainable_params(), learning_rate=1e-3)).set_train()
    losses: list[float] = []
    while not losses or losses[-1] > ENOUGH:
        assert len(losses) < steps, losses
        losses.append(step(*batch).asnumpy().item())
    assert losses[0] > 1, "it knew before"
    network.save_pretrained(str(folder), save_json=True)
    tokenizer.save_pretrained(str(folder))


@contextlib.contextmanager
def weights_in(network: Any, directory: Path) -> Iterator[None]:
    """The weights of `directory` in a network of the same sizes, whose graphs stay compiled; its own afterwards."""
    from mindformers_qwenvl import QwenVL

    taught = {one.name: one for one in QwenVL.from_pretrained(str(directory)).get_parameters()}
    own = {one.name: one.asnumpy().copy() for one in network.get_parameters() if one.name in taught}
    assert own.keys() == taught.keys()
    _put(network, {name: one.asnumpy() for name, one in taught.items()})
    try:
        yield
    finally:
        _put(network, own)


def _put(network: Any, values: dict[str, np.ndarray]) -> None:
    import mindspore as ms

    for parameter in network.get_parameters():
        if parameter.name in values:
            parameter.set_data(ms.Tensor(values[parameter.name], parameter.dtype))
