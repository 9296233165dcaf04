"""Keys of a YAML that nothing reads, by check-data, estimate, doctor and run; with and without a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mindformers_qwenvl import recipes
from mindformers_qwenvl.cli import main
from mindformers_qwenvl.config import yaml_keys
from mindformers_qwenvl.config.yaml_keys import unknown_keys
from mindformers_qwenvl.doctor.findings import WARNING
from mindformers_qwenvl.doctor.yaml_check import look_through

# Where a key is put -> what is said. The first three train with something else, and were not noticed.
WRONG = {
    "model.model_config.freeze_visoin": "there is no such key of QwenVLConfig; did you mean freeze_vision?",
    "runner_wrapper.use_clip_grd": "there is no such key of QwenVLTrainOneStepCell; did you mean use_clip_grad?",
    "optimizer.weight_deca": "there is no such key of QwenVLAdamW; did you mean weight_decay?",
    "model.model_config.llm_model.model_config.rotary_pc": (
        "there is no such key of QwenConfig; did you mean rotary_pct?"
    ),
    "train_dataset.tokenizer.vocab_fil": "there is no such key of QwenVLTokenizer; did you mean vocab_file?",
    "train_dataset.data_loader.annotation_fil": "likely misspelt; did you mean annotation_file?",
    "runner_config.epoch": "there is no such key; did you mean epochs?",
    "resume_trainin": "there is no such key; did you mean resume_training?",
    "context.max_device_memroy": "likely misspelt; did you mean max_device_memory?",
    "callbacks.2.save_checkpoint_step": (
        "there is no such key of CheckpointMonitor; did you mean save_checkpoint_steps?"
    ),
}
OF_THE_HOST = (
    "runner_config.epoch",
    "resume_trainin",
    "callbacks.2.save_checkpoint_step",
    "runner_wrapper.use_clip_grd",
)


def put(content, key, value=1):
    *places, last = key.split(".")
    for place in places:
        content = content[int(place)] if isinstance(content, list) else content[place]
    content[last] = value


@pytest.fixture
def wrong() -> dict:
    content = recipes.read(recipes.find("finetune_qwenvl_9.6b"))
    for key in WRONG:
        put(content, key)
    return content


def sentence(key):
    return f"{key.replace('callbacks.2', 'callbacks[2]')}: {WRONG[key]}"


def test_the_shipped_yamls_have_none():
    assert [sentence for name in recipes.shipped() for sentence in unknown_keys(recipes.read(recipes.find(name)))] == []


def test_each_is_named_with_the_nearest_one(wrong):
    assert sorted(unknown_keys(wrong)) == sorted(map(sentence, WRONG))


def test_keys_that_are_good_but_not_in_the_shipped_yamls_are_left_alone():
    content = recipes.read(recipes.find("finetune_qwenvl_9.6b"))
    for key in (
        *("profile_rank_ids", "tensorboard", "context.enable_graph_kernel", "parallel_config.use_seq_parallel"),
        *("callbacks.2.save_checkpoint_seconds", "runner_wrapper.local_norm", "lr_schedule.warmup_ratio"),
        *(
            "model.model_config.llm_model.model_config.enable_emb_opt",
            "model.model_config.vision_model.arch.auto_register",
        ),
    ):
        put(content, key)
    assert unknown_keys(content) == []


def test_without_a_host_its_keys_are_compared_with_the_shipped_yamls(wrong, monkeypatch):
    monkeypatch.setattr(yaml_keys, "installed", lambda name: None)
    likely = "likely misspelt; did you mean"
    found = unknown_keys(wrong)
    assert sorted(one for one in found if likely not in one) == sorted(
        sentence(key) for key in WRONG if "likely" not in WRONG[key] and key not in OF_THE_HOST
    )
    assert {one.partition(":")[0] for one in found} >= {"runner_config.epoch", "runner_wrapper.use_clip_grd"}
    assert yaml_keys.warnings_of("a.yaml", {})[-1].startswith("note: a.yaml: MindFormers is not installed")


def test_the_commands_say_it(wrong, capsys):
    Path("wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert main(["estimate", "--yaml", "wrong.yaml"]) == 0
    assert f"warning: wrong.yaml: {sentence('runner_config.epoch')}\n" in capsys.readouterr().err
    found = look_through(Path("wrong.yaml"))
    assert len(found) == len(WRONG) and {one.state for one in found} == {WARNING}
    assert [one.state for one in look_through(Path("predict_qwenvl_tiny"))] == ["ok"]
    assert "no such file" in look_through(Path("missing.yaml"))[0].detail
