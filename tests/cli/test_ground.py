"""`mindformers-qwenvl predict --ground`."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.grounding import parse
from tests.support.golden import golden_set

IMAGE = str(golden_set("a56").image(0))


@pytest.mark.parametrize(
    "words",
    [
        ["--ground", "it"],
        ["--ground", "it", "--image", "a.png", "--image", "b.png"],
        ["--ground", "it", "--image", "a.png", "What?"],
    ],
)
def test_bad_usage(words, usage_error):
    assert "--ground takes one --image, and neither QUESTION nor --input" in usage_error(
        "predict", "--model", "m", *words
    )


@pytest.mark.slow
@pytest.mark.usefixtures("released", "own_logs")
def test_a_network_that_writes_no_box(checkpoint_dir, capsys):
    words = ["predict", "--model", str(checkpoint_dir("a56")), "--image", IMAGE, "--ground", "the red shape"]
    assert main([*words, "--draw", "out.png"]) == 1
    assert "no box for 'the red shape'" in capsys.readouterr().err
    assert not Path("out.png").exists()


def test_the_box_is_printed_and_drawn(checkpoint_dir, capsys, monkeypatch):
    from mindformers_qwenvl import QwenVL
    from mindformers_qwenvl.cli._generation import ModelDirectory

    text = "<ref>the red shape</ref><box>(100,200),(500,800)</box>"
    monkeypatch.setattr(QwenVL, "ground", lambda self, processor, image, asked, **changes: parse(text))
    monkeypatch.setattr(ModelDirectory, "network", lambda self, blocks, say: QwenVL.__new__(QwenVL))
    words = ["predict", "--model", str(checkpoint_dir("a56")), "--image", IMAGE, "--ground", "the red shape"]
    assert main([*words, "--draw", "out.png"]) == 0
    assert capsys.readouterr().out == text + "\n"
    with Image.open("out.png") as drawn, Image.open(IMAGE) as plain:
        assert drawn.tobytes() != plain.convert("RGB").tobytes()
