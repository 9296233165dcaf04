"""What users of run_mindformer.py get wrong: flags that nothing reads, and YAMLs for Ascend on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindformers_qwenvl.host import mistakes
from mindformers_qwenvl.recipes import find, read

SCRIPT = """
parser.add_argument('--config', default="x.yaml", type=str)
parser.add_argument(
    '--run_mode', default=None, type=str)
"""


def test_unused_flags_are_said_once(monkeypatch):
    Path("run_mindformer.py").write_text(SCRIPT)
    content = read(find("finetune_qwenvl_tiny"), ["optimizer.weight_deca=1", "lr_schedule.lr_end=0"])
    heard = []
    monkeypatch.setattr(mistakes.logger, "warning", lambda text, *values: heard.append(text % values))
    words = [
        "run_mindformer.py",
        "--config",
        "a.yaml",
        "--run_mode=predict",
        "--vocab_file",
        "v",
        "--predict_length=512",
    ]
    words += ["--seed", "1", "--runner_config.epochs", "2", "--bananas", "1"]
    words += ["--optimizer.weight_deca=1", "--lr_schedule.lr_end", "0"]
    for _ in range(2):
        mistakes.say_unused_flags(content, words)
    (line,) = heard
    assert line.startswith(
        "run_mindformer.py: not used: --vocab_file, --predict_length, --bananas, --optimizer.weight_deca. --vocab_file"
    )
    assert "--optimizer.weight_deca: there is no such key of QwenVLAdamW; did you mean weight_decay?" in line
    assert "processor.tokenizer.vocab_file" in line and "max_decode_length" in line
    mistakes.say_unused_flags(content, ["other.py", "--vocab_file", "v"])
    mistakes.say_unused_flags()  # of this process, which is pytest
    assert len(heard) == 1


def test_yamls_of_ascend_name_what_to_change_on_a_cpu():
    content = read(find("finetune_qwenvl_9.6b_bf16"), ["runner_wrapper.type=MFTrainOneStepCell"])
    with pytest.raises(ValueError) as refused:
        mistakes.refuse_on_cpu(content, training=True)
    for change in ("runner_wrapper.type: QwenVLTrainOneStepCell", "model.model_config.compute_dtype: float32"):
        assert change in str(refused.value)
    with pytest.raises(ValueError, match="compute_dtype: float32") as refused:
        mistakes.refuse_on_cpu(content, training=False)
    assert "runner_wrapper" not in str(refused.value)
    for name in ("finetune_qwenvl_tiny", "predict_qwenvl_tiny"):
        mistakes.refuse_on_cpu(read(find(name)), training=True)


def test_samples_that_are_longer_than_the_model_is_meant_for(monkeypatch):
    heard = []
    monkeypatch.setattr(mistakes.logger, "warning", lambda text, *values: heard.append(text % values))
    content = read(find("finetune_qwenvl_9.6b"))
    transform = content["train_dataset"]["modal_to_text_transform"]
    for length in (2048, 1024):
        transform["max_length"] = length
        mistakes.say_longer_samples(content)
    assert heard == []
    transform["max_length"] = 4096
    mistakes.say_longer_samples(content)
    content["model"]["model_config"]["seq_length"] = 4096  # takes precedence over the language model's own
    mistakes.say_longer_samples(content)
    del content["model"]["model_config"]["seq_length"]
    content["model"]["model_config"]["llm_model"]["model_config"].pop("seq_length")  # the default is 2048
    mistakes.say_longer_samples(content)
    line, again = heard
    assert line == again
    assert "max_length=4096 is more than seq_length=2048" in line
