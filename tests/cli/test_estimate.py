"""`mindformers-qwenvl estimate`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindformers_qwenvl.cli import main
from mindformers_qwenvl.registration import yaml_dir

STAGE_3 = str(yaml_dir() / "finetune_qwenvl_9.6b.yaml")


def test_it_fits(capsys):
    assert main(["estimate", "--yaml", STAGE_3, "--device-memory", "64GB"]) == 0
    said = capsys.readouterr().out
    assert "9,656,935,168 parameters, 7,796,330,496 of them trained" in said
    assert "8 cards = data_parallel 8 x model_parallel 1 x pipeline_stage 1, optimizer parallel" in said
    assert "fits in 64.0 GB" in said
    for row in ("weights", "optimizer states", "gradients", "activations kept", "more at the loss", "total"):
        assert any(line.strip().startswith(row) for line in said.splitlines()), row


def test_it_does_not_fit(capsys):
    assert main(["estimate", "--yaml", STAGE_3, "--device-memory", "16GB"]) == 1
    assert "DOES NOT FIT in 16.0 GB" in capsys.readouterr().out


def test_the_yaml_says_what_it_has_to_fit_in(capsys):
    assert main(["estimate", "--yaml", STAGE_3]) == 0
    assert "fits in 57.0 GB" in capsys.readouterr().out
    assert main(["estimate", "--yaml", STAGE_3, "--set", "context.max_device_memory=10GB"]) == 1
    assert main(["estimate", "--yaml", "finetune_qwenvl_tiny"]) == 0  # says nothing
    assert "--device-memory 64GB checks whether that fits" in capsys.readouterr().out


def test_a_name_instead_of_a_path(capsys):
    assert main(["estimate", "--yaml", "finetune_qwenvl_9.6b"]) == 0
    by_name = capsys.readouterr().out
    assert main(["estimate", "--yaml", STAGE_3]) == 0
    assert capsys.readouterr().out == by_name


def test_a_column_for_each_stage(capsys):
    stages = ["pipeline_stage=2", "data_parallel=4", "micro_batch_num=2"]
    changes = [f"parallel_config.{change}" for change in stages] + ["model.model_config.layers_per_stage=[56,24]"]
    options = [word for change in changes for word in ("--set", change)]
    assert main(["estimate", "--yaml", STAGE_3, *options, "--device-memory", "80GB"]) == 0
    said = capsys.readouterr().out
    assert "stage 0   stage 1" in said
    loss = next(line for line in said.splitlines() if line.startswith("more at the loss"))
    assert loss.split()[-2] == "-" and float(loss.split()[-1]) > 1


def test_json(capsys):
    assert main(["estimate", "--yaml", STAGE_3, "--json", "--device-memory", "30GB"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 9_656_935_168
    assert found["device_memory"] == 30 * 1024**3 and found["fits"] is False
    (stage,) = found["stages"]
    held = sum(stage[name] for name in ("weights", "optimizer", "accumulated", "computing_weights", "cache"))
    assert stage["total"] == found["total"] == held + stage["moments"][stage["fullest"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("a: [", "not valid YAML"),
        ("- 1\n- 2\n", "sections such as `model:` are expected, got a list"),
        ("run_mode: finetune\n", "model: a section with keys is expected, there is none"),
        ("model: {model_config: {type: Other}}\n", "QwenVLConfig is expected, got 'Other'"),
    ],
)
def test_malformed(content, words, capsys):
    if content is not None:
        Path("mine.yaml").write_text(content)
    assert main(["estimate", "--yaml", "mine.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mindformers-qwenvl estimate: ") and "mine.yaml" in error and words in error


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "an empty path or the current folder"),
        (".", "or the current folder"),
        ("mine", "mine is a folder; the"),
    ],
)
def test_a_folder_instead_of_a_yaml(given, words, capsys):
    Path("mine").mkdir()
    assert main(["estimate", "--yaml", given]) == 2
    error = capsys.readouterr().err
    assert words in error and "no such file" not in error


def test_a_yaml_that_builds_on_another(capsys):
    Path("mine.yaml").write_text(
        f"base_config: {STAGE_3}\nparallel_config:\n  data_parallel: 4\nrunner_config:\n  batch_size: 2\n"
    )
    assert main(["estimate", "--yaml", "mine.yaml", "--device-memory", "100GB"]) == 0
    said = capsys.readouterr().out
    assert "4 cards = data_parallel 4 x model_parallel 1" in said and "2 x 2,048 tokens" in said
    Path("mine.yaml").write_text("base_config: absent.yaml\n")
    assert main(["estimate", "--yaml", "mine.yaml"]) == 2
    assert "mine.yaml: its base_config: absent.yaml: no such file" in capsys.readouterr().err


def test_bad_options(usage_error, capsys):
    assert main(["estimate", "--yaml", STAGE_3, "--device-memory", "plenty"]) == 2
    assert "--device-memory must be a size such as 500MB or 64GB, got 'plenty'" in capsys.readouterr().err
    assert main(["estimate", "--yaml", STAGE_3, "--set", "runner_config.batch_size=many"]) == 2
    assert main(["estimate", "--yaml", STAGE_3, "--set", "runner_config.bach_size=2"]) == 2
    assert "runner_config.bach_size is neither" in capsys.readouterr().err
    assert usage_error("estimate")


def test_help_has_examples(help_text):
    said = help_text("estimate")
    assert "--yaml finetune_qwenvl_9.6b.yaml --device-memory 64GB" in said and "exit code" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device-memory", "64"], "--device-memory is 64 bytes; did you mean 64GB?"),
        (["--device-memory", str(10**400)], "must be a size"),
    ],
)
def test_a_memory_without_a_unit_or_without_end(words, message, capsys):
    assert main(["estimate", "--yaml", "finetune_qwenvl_9.6b", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("key", ["runner_config.batch_size", "model.model_config.llm_model.model_config.hidden_size"])
def test_a_number_without_end_in_the_yaml(key, capsys):
    code = main(["estimate", "--yaml", STAGE_3, "--set", f"{key}={10**400}"])
    assert code in (1, 2) and "Traceback" not in capsys.readouterr().err
