"""What is not a regular file, or has no end, is refused by every reader at once, in words."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mindformers_qwenvl import recipes
from mindformers_qwenvl.chat.questions import read_questions
from mindformers_qwenvl.config.original import read_original
from mindformers_qwenvl.datasets import annotations, json_stream
from mindformers_qwenvl.datasets.annotations import AnnotationError, AnnotationFile
from mindformers_qwenvl.datasets.json_stream import BadLine, JsonStream
from mindformers_qwenvl.evaluate.data.grounding import load_refs
from mindformers_qwenvl.evaluate.data.source import load
from mindformers_qwenvl.pictures.images import open_image
from mindformers_qwenvl.text.vocabulary import Vocabulary
from mindformers_qwenvl.training.steps_file import read_steps
from mindformers_qwenvl.weights.formats.reader import Checkpoint


def stream(path):
    with JsonStream(path) as opened:
        return [opened.kind(), *opened.items()]


READERS = {
    "YAML": (recipes.read, "a.yaml"),
    "config.json": (read_original, "config.json"),
    "questions": (read_questions, "a.jsonl"),
    "annotations": (AnnotationFile, "a.json"),
    "data to convert": (stream, "a.json"),
    "benchmark": (load, "a.json"),
    "table": (load, "a.tsv"),
    "refs": (load_refs, "a.p"),
    "picture": (open_image, "a.png"),
    "vocabulary": (Vocabulary.from_file, "qwen.tiktoken"),
    "steps": (read_steps, "a.csv"),
    "safetensors": (Checkpoint, "a.safetensors"),
    "ckpt": (Checkpoint, "a.ckpt"),
    "bin": (Checkpoint, "a.bin"),
}
KINDS = ["pipe", "/dev/zero", "/dev/null", "folder", "/proc/kmsg"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_a_file_is_refused_at_once(reader, kind, tmp_path):
    read, name = READERS[reader]
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(kind)
    caught: list[BaseException] = []

    def run():
        try:
            read(path)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive(), f"{reader} waits for {kind}"
    assert caught and isinstance(caught[0], (OSError, ValueError)), caught
    assert str(path) in str(caught[0]), caught[0]


def test_a_record_has_a_bound(tmp_path, monkeypatch):
    """In JSON Lines the lines around a long one are read."""
    for module in (json_stream, annotations):
        monkeypatch.setattr(module, "MAX_RECORD", 1000)
    good = '{"conversations": []}'
    long = '{"conversations": ["' + "x" * 5000 + '"]}'
    path = tmp_path / "a.jsonl"
    path.write_text(f"{good}\n{long}\n{good}\n{long}")
    with JsonStream(path) as opened:
        found = list(opened.lines())
    assert [type(one) for one in found] == [dict, BadLine, dict, BadLine]
    assert found[1].reason == "line 2: 5,024 bytes, more than the 1,000 allowed"
    assert found[3].reason.startswith("line 4: 5,023 bytes")
    data = AnnotationFile(path)
    assert len(data) == 4 and data.record(2) == {"conversations": []}
    with pytest.raises(AnnotationError, match=r"sample 1 \(line 2\): 5,0\d\d bytes, more than the 1,000 allowed"):
        data.record(1)


@pytest.mark.parametrize("length", [97, 98, 99, 100, 101])
@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_around_the_bound(tmp_path, monkeypatch, length, end):
    monkeypatch.setattr(json_stream, "MAX_RECORD", 100)
    path = Path(tmp_path / "a.jsonl")
    path.write_text('"' + "x" * (length - 2 - len(end)) + '"' + end + ("5\n" if end else ""))
    with JsonStream(path) as opened:
        found = list(opened.lines())
    if length <= 100:
        assert found[0] == "x" * (length - 2 - len(end))
    else:
        assert isinstance(found[0], BadLine) and "101 bytes" in found[0].reason
    assert found[1:] == ([5] if end else [])
