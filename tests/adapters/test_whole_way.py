"""A tiny adapter the whole way: trained through the stock Trainer, listed, resumed, loaded, switched, merged, handed
over; it answers the same everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.registration import yaml_dir
from mindformers_qwenvl.training.steps_file import read_steps
from tests.support import lora
from tests.support.golden import golden_set
from tests.support.network_inputs import write_batches
from tests.support.small_runs import LLM, PREDICT, QUERIES, SIZES, run

SUPPORT = Path(__file__).parents[1] / "support"
RELATIVE = 1e-4
SAVED = {"type": "CheckpointMonitor", "prefix": "lora", "save_checkpoint_steps": 5, "keep_checkpoint_max": 5}
SAVED |= {"integrated_save": True, "async_save": False, "checkpoint_format": "ckpt"}


def settings(base: Path, **more) -> dict:
    """Of curve_lora: the golden adapter's A to begin with, B zero, AdamW without decay or clipping."""
    return {
        **SIZES,
        f"{LLM}.seq_length": 160,
        "load_checkpoint": str(base),
        "load_ckpt_format": "safetensors",
        "runner_config.epochs": 1,
        "runner_config.batch_size": 2,
        "lr_schedule": None,
        "optimizer.learning_rate": 1e-3,
        "optimizer.betas": [0.9, 0.95],
        "optimizer.eps": 1e-8,
        "optimizer.weight_decay": 0.0,
        "runner_wrapper.max_grad_norm": 1e9,
        "callbacks": [{"type": "MFLossMonitor"}, {"type": "QwenVLMonitor"}, SAVED],
        **more,
    }


def train(folder: Path, changes: dict) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    write_batches(golden_set("a56"), folder / "batches.npz")
    shutil.copy(yaml_dir() / "finetune_qwenvl_tiny.yaml", folder / "curve.yaml")
    task = {"config": "curve.yaml", "set": changes, "batches": "batches.npz", "steps": 10, "with_table": False}
    shutil.copy(SUPPORT / "driver.py", folder)
    worker = shutil.copy(SUPPORT / "curves.py", folder)  # MindSpore writes beside it
    command = [sys.executable, worker, json.dumps(task)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return read_steps(folder / "output/steps/rank_0.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, checkpoint_dir) -> tuple[Path, list[dict]]:
    """A folder in which ten steps of curve_lora were trained, and their rows."""
    folder = tmp_path_factory.mktemp("lora")
    tensors = {}
    for name, shape in lora.lora("a56")["adapter.tensors"].items():
        drawn = lora.start(name.replace("lora_A", "lora_A.default"), tuple(shape))
        tensors[name] = drawn if "lora_A" in name else np.zeros(shape, np.float32)
    lora.write(folder / "start", tensors)
    rows = train(folder, settings(checkpoint_dir("a56"), adapter=str(folder / "start")))
    return folder, rows


def test_curve(trained):
    """`adapter:` begins with a directory, whose settings hold as there is no pet_config."""
    _, rows = trained
    np.testing.assert_allclose([row["loss"] for row in rows], lora.lora("a56")["curve_lora"], rtol=RELATIVE)


def test_written_beside_each_checkpoint_and_at_the_end(trained):
    folder, _ = trained
    assert sorted(path.name for path in (folder / "output/adapter").iterdir()) == ["step_10", "step_5"]
    found = load_file(folder / "output/adapter/step_10/adapter_model.safetensors")
    assert found.keys() == lora.factors("a56").keys()
    for key in [key for key in lora.lora_arrays("a56") if key.startswith("trained.")]:
        np.testing.assert_allclose(found[key.removeprefix("trained.")], lora.lora_arrays("a56")[key], atol=2e-5)
    said = json.loads((folder / "output/adapter/step_10/adapter_config.json").read_text(encoding="utf-8"))
    assert (said["r"], said["lora_alpha"], said["peft_type"]) == (8, 16, "LORA")


@pytest.mark.slow
def test_resumed(trained, checkpoint_dir, tmp_path):
    """From the checkpoint of step 5; `adapter:` is of the beginning, and has no part in it."""
    folder, rows = trained
    [checkpoint] = (folder / "output/checkpoint/rank_0").glob("*-1_5.ckpt")
    again = train(
        tmp_path,
        settings(
            checkpoint_dir("a56"),
            adapter=str(folder / "start"),
            load_checkpoint=str(folder / "output/checkpoint"),
            load_ckpt_format="ckpt",
            resume_training=checkpoint.name,
        ),
    )
    assert [row["step"] for row in again] == [6, 7, 8, 9, 10]
    np.testing.assert_allclose([row["loss"] for row in again], [row["loss"] for row in rows[5:]], rtol=1e-6)
    first, second = (load_file(f / "output/adapter/step_10/adapter_model.safetensors") for f in (folder, tmp_path))
    for key, value in first.items():
        np.testing.assert_allclose(second[key], value, rtol=1e-4, atol=1e-7)


def generated(printed: str) -> list[list[int]]:
    [line] = [line for line in printed.splitlines() if line.startswith("GENERATED ")]
    return json.loads(line.removeprefix("GENERATED "))


@pytest.fixture(scope="module")
def answers(trained, checkpoint_dir):
    """Ids of the answers with the trained adapter beside the base: YAML with `load_checkpoint` and `adapter:`."""
    folder, _ = trained
    main(["convert-weight", "--input_path", str(checkpoint_dir("a56")), "--output_path", str(folder / "base.ckpt")])
    changes = {**PREDICT, "load_checkpoint": str(folder / "base.ckpt")}
    adapter = {"mine": str(folder / "output/adapter/step_10"), "start": str(folder / "start")}
    queries = {"input_data": [QUERIES["one_image"], QUERIES["text"]]}
    with_adapter = generated(run(folder / "adapter", "predict_qwenvl_tiny", {**changes, "adapter": adapter}, **queries))
    return changes, queries, with_adapter


@pytest.mark.slow
def test_merged_it_answers_the_same(trained, answers, checkpoint_dir):
    folder, _ = trained
    changes, queries, with_adapter = answers
    code = main(["convert-weight", "--input_path", str(checkpoint_dir("a56")), "--adapter",
                 str(folder / "output/adapter/step_10"), "--output_path", str(folder / "merged.ckpt")])  # fmt: skip
    assert code == 0
    changes = {**changes, "load_checkpoint": str(folder / "merged.ckpt")}
    assert generated(run(folder / "merged", "predict_qwenvl_tiny", changes, **queries)) == with_adapter


@pytest.mark.slow
def test_handed_over_from_the_yaml_alone(trained, checkpoint_dir, graph_mode):
    """The training's checkpoint, with the adapter among its weights, and its YAML: no config.json of the original."""
    from mindformers_qwenvl import QwenVL
    from tests.support.network_inputs import prompt

    folder, _ = trained
    content = yaml.safe_load((yaml_dir() / "finetune_qwenvl_tiny.yaml").read_text(encoding="utf-8"))
    for path, value in settings(checkpoint_dir("a56")).items():
        *above, last = path.split(".")
        section = content
        for key in above:
            section = section[key]
        section[last] = value
    content["train_dataset"]["tokenizer"]["vocab_file"] = str(golden_set("a56").vocab_file)
    content["output_dir"] = str(folder / "output")
    pet = {"pet_type": "lora", "lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0}
    content["model"]["model_config"]["pet_config"] = pet
    (folder / "my.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    [checkpoint] = (folder / "output/checkpoint/rank_0").glob("*-1_10.ckpt")
    command = ["convert-weight", "--input_path", str(checkpoint), "--config", str(folder / "my.yaml")]
    assert main([*command, "--reverse", "--output_path", str(folder / "mine"), "--verify"]) == 0
    names = {file.name for file in (folder / "mine").iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer_config.json", "qwen.tiktoken", "README.md"}
    card = (folder / "mine/README.md").read_text(encoding="utf-8")
    assert "| Steps | 10 |" in card
    assert "Loss" in card
    original = golden_set("a56").config
    handed = json.loads((folder / "mine/config.json").read_text(encoding="utf-8"))
    different = {key for key in original if original[key] != handed.get(key)}
    assert different <= {"fp32", "max_position_embeddings", "initializer_range", "visual", "torch_dtype"}
    assert handed["visual"] == {**original["visual"], "mlp_ratio": handed["visual"]["mlp_ratio"]}

    # The directory opens, and its logits are those of base and adapter.
    text = prompt(golden_set("a56"), "text").tensors
    one = QwenVL.from_pretrained(str(folder / "mine")).set_train(False)(*text)
    adapter = str(folder / "output/adapter/step_10")
    two = QwenVL.from_pretrained(str(checkpoint_dir("a56")), adapter=adapter).set_train(False)(*text)
    one, two = ((found[0] if isinstance(found, tuple) else found).asnumpy() for found in (one, two))
    np.testing.assert_allclose(one, two, atol=5e-5, rtol=0)

    # And its adapter alone can be taken out of the checkpoint.
    assert main([*command, "--adapter_only", "--output_path", str(folder / "taken")]) == 0
    first, second = (load_file(Path(f) / "adapter_model.safetensors") for f in (adapter, folder / "taken"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_a_checkpoint_with_an_adapter_wants_its_settings(trained, checkpoint_dir, capsys):
    folder, _ = trained
    [checkpoint] = (folder / "output/checkpoint/rank_0").glob("*-1_10.ckpt")
    command = ["convert-weight", "--reverse", "--input_path", str(checkpoint), "--config", str(checkpoint_dir("a56"))]
    assert main([*command, "--output_path", str(folder / "never")]) == 1
    assert "output/adapter/step_N" in capsys.readouterr().err
    assert not (folder / "never").exists()
