"""Vocabulary and model are compared at every entry point; the error names both numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.recipes import find, read
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set, write_checkpoint

A56 = golden_set("a56")
BOTH = r"has 790 ranks, but .* has 800 \(image_start_id 1014 minus 214\)"


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """The checkpoint of a56 with a vocabulary of ten ranks fewer."""
    folder = write_checkpoint("a56", tmp_path_factory.mktemp("short"), shards=1)
    lines = A56.vocab_file.read_bytes().splitlines(True)
    (folder / "qwen.tiktoken").write_bytes(b"".join(lines[:790]))
    return folder


def test_processors_and_what_answers(short):
    from mindformers_qwenvl import QwenVLConfig, QwenVLProcessor, QwenVLTokenizer
    from mindformers_qwenvl.chat.answer import Chat, generate_answers
    from mindformers_qwenvl.chat.likelihood import score
    from mindformers_qwenvl.host.pipeline import check_processor

    config, tokenizer = QwenVLConfig.from_pretrained(str(short)), QwenVLTokenizer.from_pretrained(str(short))
    network = SimpleNamespace(config=config)
    for call in (
        lambda: QwenVLProcessor.from_pretrained(short),
        lambda: QwenVLProcessor.for_network(config, tokenizer),
        lambda: Chat(network, tokenizer),
        lambda: generate_answers(network, tokenizer, [], [], None),
        lambda: score(network, ["q"], [" A"], tokenizer),
        lambda: check_processor(network, SimpleNamespace(tokenizer=tokenizer)),  # pipeline(..., processor=)
    ):
        with pytest.raises(ValueError, match=BOTH):
            call()


def test_training_and_its_check(short):
    from mindformers import MindFormerConfig

    from mindformers_qwenvl.datasets.check.checker import check_file
    from mindformers_qwenvl.datasets.check.job import read_settings
    from mindformers_qwenvl.host.trainer import check_vocabularies

    content = read(find("finetune_qwenvl_tiny"))
    content["train_dataset"]["tokenizer"]["vocab_file"] = str(short / "qwen.tiktoken")
    with pytest.raises(ValueError, match=rf"train_dataset\.tokenizer: .*{BOTH}"):
        check_vocabularies(MindFormerConfig(**content))
    Path("tiny.yaml").write_text(yaml.safe_dump(content))
    Path("train.json").write_text(json.dumps([{"conversations": [{"from": "user", "value": "q"}]}]))
    with pytest.raises(ValueError, match=BOTH):
        check_file("train.json", read_settings("tiny.yaml"))
    content["train_dataset"]["tokenizer"]["vocab_file"] = str(A56.vocab_file)
    check_vocabularies(MindFormerConfig(**content))


def test_commands(short, capsys):
    assert main(["convert-weight", "--input_path", str(short), "--output_path", "out"]) == 1
    assert "has 790 ranks" in capsys.readouterr().err and not Path("out").exists()
    assert main(["predict", "--model", str(short), "Hello"]) == 1
    assert "has 790 ranks, but the model" in capsys.readouterr().err


def test_a_longer_vocabulary_and_a_pruned_one():
    """Bytes that never occur in UTF-8 need no token."""
    from mindformers_qwenvl.text.vocabulary_file import check_model

    with pytest.raises(ValueError, match="has 810 ranks, but the model has 800"):
        check_model(810, "qwen.tiktoken", 1014)
    lines = A56.vocab_file.read_bytes().splitlines()
    kept = [line for line in lines if _byte(line) not in {0xC0, 0xC1, *range(0xF5, 0x100)}]
    assert len(lines) - len(kept) == 13
    pruned = b"".join(line.split()[0] + b" %d\n" % rank for rank, line in enumerate(kept))
    vocabulary = Vocabulary(pruned)
    text = "é猫😀 a\x00b"
    assert vocabulary.decode(vocabulary.encode_text(text)) == text
    broken = b"".join(line.split()[0] + b" %d\n" % rank for rank, line in enumerate(kept[1:]))
    with pytest.raises(ValueError, match="1 of the single bytes that UTF-8 uses have no token"):
        Vocabulary(broken)


def test_a_pointer_of_git_lfs():
    with pytest.raises(ValueError, match=r"line 1: .*git-lfs pointer: run `git lfs pull`"):
        Vocabulary(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2561218\n")


def _byte(line: bytes) -> int | None:
    import base64

    token = base64.b64decode(line.split()[0])
    return token[0] if len(token) == 1 else None


def test_a_folder_that_is_moved_keeps_its_own(tmp_path):
    """The published vocabulary does not stand in for that of a small model."""
    from mindformers_qwenvl import QwenVLProcessor

    shutil.copy(A56.directory / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"qwen\.tiktoken"):
        QwenVLProcessor.from_pretrained(tmp_path)
