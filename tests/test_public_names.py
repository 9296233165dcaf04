"""The names that users type, as version 0.1.0 had them (commit b52c62d): more may come, none may go."""

from __future__ import annotations

import argparse
import importlib
from importlib import metadata

import pytest

EXPORTS = {
    *("__version__", "QwenConfig", "QwenForCausalLM", "QwenVL", "QwenVLConfig", "QwenVLContentTransformTemplate"),
    *("QwenVLDataLoader", "QwenVLImageProcessor", "QwenVLProcessor", "QwenVLTokenizer", "QwenVLVisionConfig"),
    "QwenVLVisionModel",
}
GROUNDING = {
    *("FONT_VARIABLE", "GRID", "Box", "FontWarning", "Found", "Problem", "Quad", "draw", "draw_on_latest_picture"),
    *("iou", "latest_picture", "parse", "to_text"),
}
GENERATION = {
    *("--model", "--dtype", "--system", "--allow-host", "--allow-private", "--max-new-tokens", "--max-window-size"),
    *("--greedy", "--sample", "--temperature", "--top-k", "--top-p", "--repetition-penalty", "--seed"),
}
COMMANDS = {
    "chat": GENERATION,
    "check-data": {
        *("data", "--yaml", "--dataset_dir", "--vocab_file", "--workers", "--histogram", "--report", "--quiet")
    },
    "convert-data": {
        *("--data_path", "--image_location", "--output_path", "--user_role_name", "--assistant_role_name"),
        *("--format", "--box_format", "--box_prompt", "--quiet"),
    },
    "convert-weight": {
        *("--model", "--input_path", "--output_path", "--dtype", "--reverse", "--reversed", "--verify"),
        *("--max_shard_size", "--config", "--strategy"),
    },
    "demo": {"--workdir"},
    "estimate": {"--yaml", "--device-memory", "--set", "--json"},
    "plot": {"run_dir", "--compare", "--output", "--smooth"},
    "plugins": set(),
    "predict": {
        *("question", "--image", "--draw", "--input", "--output", "--batch-size", "--image-dir", "--allow-outside"),
        *("--quiet", "--chat-format", "--raw", *GENERATION),
    },
    "yaml": {"name", "--path", "--copy", "--force"},
}
ENTRY_POINTS = {"qwenvl": "mindformers_qwenvl.registration"}
SCRIPTS = {"mindformers-qwenvl": "mindformers_qwenvl.__main__:main"}
# MindFormers' registry, by kind; those of configurations by `model_type` too.
REGISTERED = {
    "config": {
        *("QwenVLConfig", "QwenVLVisionConfig", "QwenConfig", "qwenvl", "qwenvl_vision", "qwen"),
    },
    "models": {"QwenVL", "QwenVLVisionModel", "QwenForCausalLM"},
    "tokenizer": {"QwenVLTokenizer"},
    "processor": {"QwenVLProcessor", "QwenVLImageProcessor"},
    "transforms": {"QwenVLContentTransformTemplate", "QwenVLBatchNormalize"},
    "dataset_loader": {"QwenVLDataLoader"},
    "wrapper": {"QwenVLTrainOneStepCell"},
    "optimizer": {"FP32StateAdamWeightDecay", "QwenVLAdamW"},
    "callback": {"ObsMonitor", "QwenVLMonitor"},
    "trainer": {"MultiModalToTextGenerationTrainer", "ImageToTextGenerationTrainer"},
    "pipeline": {"multi_modal_to_text_generation"},
}


@pytest.mark.parametrize(
    ("module", "names"), [("mindformers_qwenvl", EXPORTS), ("mindformers_qwenvl.grounding", GROUNDING)]
)
def test_exports(module, names):
    module = importlib.import_module(module)
    assert names <= set(module.__all__)
    for name in names:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_and_their_flags(command):
    module = importlib.import_module(f"mindformers_qwenvl.cli.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    flags = {name for action in parser._actions for name in action.option_strings or [action.dest]}
    assert COMMANDS[command] <= flags


def test_entry_points():
    found = metadata.distribution("mindformers-qwenvl").entry_points
    assert {entry.name: entry.value for entry in found.select(group="console_scripts")} == SCRIPTS
    assert {entry.name: entry.value for entry in found.select(group="mindformers.plugins")} == ENTRY_POINTS


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in REGISTERED.items() for name in sorted(names)]
)
def test_names_in_yamls(kind, name, legacy, monkeypatch):
    from mindformers.tools.register import MindFormerRegister, register

    from mindformers_qwenvl.registration import register as register_ours

    register_ours()
    monkeypatch.setattr(register, "is_legacy_model", lambda: legacy)
    assert MindFormerRegister.get_cls(kind, name).__module__.startswith("mindformers_qwenvl.")
