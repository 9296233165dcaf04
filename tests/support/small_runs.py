"""Trainings and predictions at the size of set a56, through the calls that run_mindformer.py makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from mindformers_qwenvl.recipes import yaml_dir
from tests.support.golden import golden_set

DRIVER = Path(__file__).with_name("driver.py")
A56 = golden_set("a56")
QUERIES = {
    "one_image": [{"image": str(A56.image(0))}, {"text": "What is it?"}],
    "two_images": [{"image": str(A56.image(1))}, {"image": str(A56.image(2))}, {"text": "Compare them."}],
    "text": [{"text": "Hello, who are you? 你好"}],
}
LLM, VISION = (f"model.model_config.{part}.model_config" for part in ("llm_model", "vision_model"))
# Set a56: hidden size 256, two layers, pictures of 56 pixels, the frame of the chat model.
SIZES = {
    "model.model_config.num_queries": 16,
    "model.model_config.image_start_id": A56.meta["special_ids"]["img_start_id"],
    f"{VISION}.hidden_size": 64,
    f"{VISION}.intermediate_size": int(64 * 4.9231),
    f"{VISION}.num_hidden_layers": 2,
    f"{VISION}.num_attention_heads": 4,
    f"{VISION}.image_size": 56,
    f"{VISION}.patch_size": 14,
    f"{LLM}.hidden_size": 256,
    f"{LLM}.num_layers": 2,
    f"{LLM}.num_heads": 2,
    f"{LLM}.kv_channels": 128,
    f"{LLM}.intermediate_size": 352,
    f"{LLM}.vocab_size": 1024,
    f"{LLM}.pad_token_id": A56.meta["special_ids"]["eod_id"],
}
# Where the size of the network says nothing: half of the graph to compile.
ONE_LAYER = {f"{VISION}.num_hidden_layers": 1, f"{LLM}.num_layers": 1}
PREDICT = {
    **SIZES,
    f"{LLM}.seq_length": 128,
    f"{LLM}.max_decode_length": 128,
    f"{LLM}.eos_token_id": -1,  # the goldens go on after the end of the text
    "processor.tokenizer.vocab_file": str(A56.vocab_file),
    "processor.max_length": 128,
    "processor.image_processor.image_size": 56,
    "processor.model_transform_template.image_size": 56,
    "processor.model_transform_template.num_queries": 16,
    "processor.model_transform_template.chat_format": "chatml",
    "processor.model_transform_template.system_message": "You are a helpful assistant.",
}
TEMPLATE = "train_dataset.modal_to_text_transform.model_transform_template"


def run(folder: Path, name: str, settings: dict, **task) -> str:
    """What a process prints that does `name`.yaml with `settings`, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    driver = shutil.copy(DRIVER, folder)  # MindSpore writes beside it
    given = json.dumps({"config": str(yaml_dir() / f"{name}.yaml"), "set": settings, **task})
    done = subprocess.run([sys.executable, driver, given], cwd=folder, capture_output=True, text=True, timeout=400)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-6000:]
    return printed


def training(samples: Path, **settings) -> dict:
    """Three steps an epoch, two epochs, a checkpoint every two steps."""
    return {
        **SIZES,
        f"{LLM}.seq_length": 96,
        "train_dataset.data_loader.annotation_file": str(samples),
        "train_dataset.tokenizer.vocab_file": str(A56.vocab_file),
        "train_dataset.modal_to_text_transform.max_length": 96,
        f"{TEMPLATE}.dataset_dir": str(A56.directory / "images"),
        f"{TEMPLATE}.image_size": 56,
        f"{TEMPLATE}.num_queries": 16,
        "runner_config.batch_size": 4,
        "runner_config.epochs": 2,
        "callbacks": [
            {"type": "MFLossMonitor", "per_print_times": 1},
            {
                "type": "CheckpointMonitor",
                "prefix": "tiny",
                "save_checkpoint_steps": 2,
                "keep_checkpoint_max": 9,
                "checkpoint_format": "safetensors",
            },
        ],
        **settings,
    }


def losses(printed: str) -> dict[tuple[int, int], str]:
    """(epoch, step) -> loss as MFLossMonitor prints it, six digits behind the point."""
    found = re.findall(r"Epoch:\[ *(\d+)/ *\d+\], step:\[ *(\d+)/ *\d+\], loss:\[([\d.]+)/", printed)
    return {(int(epoch), int(step)): loss for epoch, step, loss in found}


def assert_golden(row: list[int], name: str) -> None:
    expected = A56.arrays[f"greedy.{name}"]
    begins = len(A56.arrays[f"ids.{name}"])
    np.testing.assert_array_equal(row[begins : begins + len(expected)], expected, err_msg=name)
