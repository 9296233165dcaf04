"""Stock doors: pipeline, the Auto classes, Trainer and `save_pretrained`, in fresh processes that never name this
package, for directories of the original and for ours. Answers are the golden ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.recipes.section import read_yaml
from mindformers_qwenvl.registration import yaml_dir
from mindformers_qwenvl.text.vocabulary import Vocabulary
from tests.support.golden import golden_set
from tests.support.layouts import pads_in_images
from tests.support.small_runs import PREDICT, QUERIES

DRIVER = Path(__file__).parents[1] / "support" / "doors.py"
A56 = golden_set("a56")
VOCABULARY = Vocabulary.from_file(A56.vocab_file)
STOPS = [VOCABULARY.eod_id, VOCABULARY.im_end_id, VOCABULARY.im_start_id]
# Greedy, which the goldens are; the rest is that of the published chat model.
GENERATION = {**json.loads((A56.directory / "generation_config.json").read_text("utf-8")), "do_sample": False}
GENERATION |= {"max_new_tokens": 30}
TEXTS = ["Hello, who are you? 你好", "<ref>the cat</ref><box>(1,2),(30,40)</box>"]


def run(folder: Path, group: str, **task) -> dict[str, dict]:
    """Name of each door -> what was found behind it."""
    folder.mkdir(exist_ok=True)
    driver = shutil.copy(DRIVER, folder)  # MindSpore writes beside it
    done = subprocess.run(
        [sys.executable, driver, group, json.dumps(task)], cwd=folder, capture_output=True, text=True, timeout=400
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-6000:]
    doors = re.findall(r"^DOOR (\w+) (.*)$", done.stdout, re.MULTILINE)
    return {name: json.loads(result) for name, result in doors}


def golden_ids(name: str, prompt: bool = True) -> list[int]:
    """A row as `generate` returns it: the golden prompt and the golden answer, up to the token that stops it."""
    answer = A56.arrays[f"greedy.{name}"].tolist()
    ends = [answer.index(stop) + 1 for stop in STOPS if stop in answer]
    begins = pads_in_images(A56.arrays[f"ids.{name}"].tolist(), VOCABULARY)
    return (begins if prompt else []) + answer[: min(ends, default=len(answer))]


def answer_ids(row: list[int], name: str) -> list[int]:
    return row[len(A56.arrays[f"ids.{name}"]) :]


def assert_golden(door: dict, names=tuple(QUERIES)) -> None:
    assert "error" not in door, door["error"]
    assert len(door["ids"]) == len(names)
    for row, name in zip(door["ids"], names, strict=True):
        assert answer_ids(row, name) == golden_ids(name, prompt=False), name
        assert row == golden_ids(name), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module")
def hf(checkpoint_dir, folder) -> Path:
    """Set a56 as the original publishes it: config.json with auto_map and model_type qwen, shards, vocabulary."""
    shutil.copytree(checkpoint_dir("a56"), folder / "hf")
    (folder / "hf" / "generation_config.json").write_text(json.dumps(GENERATION))
    for module in ("configuration_qwen", "modeling_qwen", "tokenization_qwen"):
        (folder / "hf" / f"{module}.py").write_text("raise SystemExit('this is PyTorch code')\n")
    assert {"auto_map", "visual"} <= A56.config.keys() and A56.config["model_type"] == "qwen"
    return folder / "hf"


@pytest.fixture(scope="module")
def original(hf, folder) -> dict[str, dict]:
    """The directory of the original, then Trainer and names."""
    changes = [f"{key}={json.dumps(value)}" for key, value in PREDICT.items()]
    settings = read_yaml(yaml_dir() / "predict_qwenvl_tiny.yaml", changes).content
    (folder / "predict.yaml").write_text(yaml.safe_dump(settings))
    for output in ("a56.ckpt", "converted"):
        words = ["convert-weight", "--input_path", str(hf), "--output_path", str(folder / output), "--dtype", "fp32"]
        assert main(words) == 0
    return run(
        folder / "work",
        "original",
        model=str(hf),
        queries=list(QUERIES.values()),
        texts=TEXTS,
        config=str(folder / "predict.yaml"),
        checkpoint=str(folder / "a56.ckpt"),
        converted=str(folder / "converted"),
        raw_texts=[VOCABULARY.decode(A56.arrays["ids.text"].tolist())],
    )


@pytest.fixture(scope="module")
def moved(original, folder) -> dict[str, Path]:
    """The directories that the pipeline and the parts of `original` saved, at another place."""
    return {name: Path(shutil.move(folder / "work" / name, folder / f"moved_{name}")) for name in ("saved", "as_yaml")}


@pytest.fixture(scope="module")
def ours(moved, folder) -> dict[str, dict]:
    """What another process finds in them."""
    folders = {"model": str(moved["saved"]), "as_yaml": str(moved["as_yaml"])}
    return run(folder / "work2", "ours", **folders, queries=list(QUERIES.values()), texts=TEXTS)


@pytest.fixture
def found(request, original):
    """What a process found in the directory `request.param`."""
    return original if request.param == "original" else request.getfixturevalue(request.param)


BOTH = pytest.mark.parametrize("found", ["original", pytest.param("ours", marks=pytest.mark.slow)], indirect=True)


def test_the_driver_names_nothing_of_this_package():
    assert "mindformers_qwenvl" not in DRIVER.read_text(encoding="utf-8")


@BOTH
def test_auto_config(found):
    name = "mindformers_qwenvl.config.qwenvl.QwenVLConfig"
    expected = {"class": name, "sizes": [64, 56, 256, 1024, 16], "stops": 800}
    assert found["config"] == {"result": expected}


@BOTH
def test_auto_tokenizer(found):
    ids = [VOCABULARY.encode_text(text, "all") for text in TEXTS]
    expected = {"class": "mindformers_qwenvl.data.tokenizer.QwenVLTokenizer", "ids": ids}
    assert found["tokenizer"] == {"result": expected}


@BOTH
def test_auto_processor(found):
    """In the frame of the chat model, for that is what generation_config.json says."""
    result = found["processor"]["result"]
    assert result["class"] == "mindformers_qwenvl.data.processor.QwenVLProcessor"
    for row, name in zip(result["input_ids"], QUERIES, strict=True):
        ids = pads_in_images(A56.arrays[f"ids.{name}"].tolist(), VOCABULARY)
        assert row == ids + [VOCABULARY.eod_id] * (len(row) - len(ids))


@BOTH
def test_auto_model(found):
    assert found["model"]["result"] == "mindformers_qwenvl.model.qwenvl.QwenVL"
    assert_golden(found["model"])


@BOTH
def test_auto_model_for_causal_lm(found):
    assert found["causal"]["result"] == "mindformers_qwenvl.model.qwenvl.QwenVL"
    assert_golden(found["causal"], list(QUERIES)[:1])


@BOTH
def test_pipeline_of_a_directory(found):
    """It decodes with a cache, and stops where the chat model's answers end."""
    piped = found["pipeline"]
    assert_golden(piped)
    assert piped["use_past"] is True
    assert piped["stops"] == STOPS
    texts = [
        VOCABULARY.decode([i for i in golden_ids(name, prompt=False) if i not in STOPS and i < VOCABULARY.size]).strip()
        for name in QUERIES
    ]
    assert piped["result"] == texts


def test_pipeline_takes_settings_of_a_call(original):
    """Before those of generation_config.json."""
    door = original["pipeline_call"]
    for row, name in zip(door["ids"], QUERIES, strict=True):
        assert answer_ids(row, name) == A56.arrays[f"greedy.{name}"][:4].tolist(), name
    assert (door["stops"], door["max_new_tokens"]) == ([-1], 4)


def test_pipeline_samples_as_generation_config_says(original):
    """top_p of the file, reproducible by seed."""
    first, second, third = (original[f"pipeline_sample_{number}"] for number in range(3))
    assert first["do_sample"] is True
    assert (first["top_p"], first["top_k"], first["max_new_tokens"]) == (GENERATION["top_p"], 0, 30)
    assert first["ids"] == third["ids"] != second["ids"]


@pytest.mark.parametrize("door", ["pipeline_network", "pipeline_parts"])
def test_pipeline_of_a_network(original, door):
    assert_golden(original[door])


def test_code_beside_the_weights_is_never_run(original):
    """trust_remote_code=True, as the original's README has it."""
    classes = [name.rpartition(".")[2] for name in original["trusting"]["result"]]
    assert classes == ["QwenVLConfig", "QwenVLTokenizer", "QwenVLProcessor", "QwenVL", "QwenVL"]


# ---- save_pretrained


def test_what_the_pipeline_saves(original, moved):
    assert original["save_pipeline"] == {"result": None}
    saved = json.loads((moved["saved"] / "generation_config.json").read_text())
    assert saved == {key: value for key, value in GENERATION.items() if key != "do_sample"} | {"eos_token_id": [800]}
    assert (moved["saved"] / "qwen.tiktoken").read_bytes() == A56.vocab_file.read_bytes()
    import mindspore as ms

    names = ms.load_checkpoint(str(moved["saved"] / "mindspore_model.ckpt"))
    assert not [name for name in names if "cache" in name]


def test_parts_that_are_saved_one_by_one(original, moved, folder):
    """save_pretrained of network, configuration, tokenizer and processor write what the pipeline's writes."""
    assert original["save_apart"] == {"result": None}
    apart, whole = folder / "work" / "apart", moved["saved"]
    assert sorted(file.name for file in apart.iterdir()) == sorted(file.name for file in whole.iterdir())
    for name in ("generation_config.json", "tokenizer_config.json", "preprocessor_config.json", "mindspore_model.ckpt"):
        assert (apart / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_directory_with_a_yaml(original, ours):
    """What `save_pretrained` writes when it is not told `save_json=True`."""
    assert original["save_as_yaml"] == {"result": None}
    assert ours["yaml_config"]["result"]["sizes"] == [64, 56, 256, 1024, 16]
    assert ours["yaml_tokenizer"]["result"] == "mindformers_qwenvl.data.tokenizer.QwenVLTokenizer"
    assert_golden(ours["yaml_model"], list(QUERIES)[:1])


# ---- Trainer, names


def test_pipeline_of_a_converted_directory(original):
    """What convert-weight writes: our tensors beside the original's JSON files."""
    assert_golden(original["pipeline_converted"], list(QUERIES)[:1])


def test_trainer_predict_with_a_yaml(original):
    door = original["trainer_yaml"]
    assert "error" not in door, door["error"]
    for row, name in zip(door["ids"], QUERIES, strict=True):
        assert answer_ids(row, name)[:30] == A56.arrays[f"greedy.{name}"].tolist(), name


def test_trainer_predict_with_a_network(original):
    assert_golden(original["trainer_network"])


def test_pipeline_of_a_name(original):
    door = original["pipeline_name"]
    assert "error" not in door, door["error"]
    assert answer_ids(door["ids"][0], "text")[:30] == A56.arrays["greedy.text"].tolist()
