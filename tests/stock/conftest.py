"""Samples to train on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    """14 conversations about the golden pictures; a multiple of the batch size they are not."""
    file = tmp_path_factory.mktemp("samples") / "train.json"
    colours = ("red", "green", "blue", "grey", "white", "black", "none")
    conversations = [
        {
            "id": f"sample_{number}",
            "conversations": [
                {"from": "user", "value": f"Picture 1: <img>{number % 4}.png</img>\nWhat colour, {number}?"},
                {"from": "assistant", "value": colours[number % len(colours)]},
            ],
        }
        for number in range(14)
    ]
    file.write_text(json.dumps(conversations), encoding="utf-8")
    return file
