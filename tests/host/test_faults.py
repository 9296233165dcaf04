"""The faults that this package works around, in a MindFormers without plugins; see the index in host/__init__.py.

If such a test fails, the host has been mended and the work-around can go.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mindformers_qwenvl.versions import release

SCRIPT = Path(__file__).parents[1] / "support" / "unmended.py"


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """What the unmended host does: name -> result, or `ErrorType: message`."""
    folder = tmp_path_factory.mktemp("stock")
    script = shutil.copy(SCRIPT, folder)  # MindSpore writes beside it
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "MINDFORMERS_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return json.loads(line.removeprefix("FOUND "))


@pytest.mark.parametrize("name", ["ImageToTextGenerationTrainer", "FP32StateAdamWeightDecay", "ObsMonitor"])
def test_stock_lacks_names_of_old_yamls(stock, name):
    assert stock[name] is False


def test_stock_auto_register_wants_a_path(stock):
    assert stock["auto_register"].startswith("OSError: ")
    assert "REGISTER_PATH" in stock["auto_register"]


def test_stock_config_by_name(stock):
    assert "is not a supported model type" in stock["by name"]


@pytest.mark.skipif(release(metadata.version("mindspore")) < (2, 9), reason="MindSpore 2.9 brought this fault")
def test_stock_save_pretrained(stock):
    assert stock["save"].startswith("UnboundLocalError")


def test_stock_overflow_check(stock):
    assert "NPUGetFloatStatusV2" in stock["step"]


def test_stock_tables_lack_the_task(stock):
    assert stock["task in tables"] is False


def test_stock_prediction_merges_the_default_yaml(stock):
    assert stock["leaking"] is True


def test_stock_pipeline_wants_a_processor(stock):
    assert stock["pipeline"] == "ValueError: MultiModalToTextPipeline: MultiModalToTextPipeline requires a processor."


def test_stock_runs_the_code_beside_the_weights(stock):
    assert stock["remote code"] is True


def test_stock_generate_makes_settings_of_its_own(stock):
    assert stock["own generation config"] == "LookupError: made of the network's configuration"


def test_stock_pipeline_drops_settings_of_a_call(stock):
    assert stock["pipeline call"] == [{}, {}, {}]


def test_stock_pipeline_saves_a_yaml_and_no_processor(stock):
    assert stock["pipeline saves"] == [[["saved", "mindspore_model"], {}]]


def test_stock_prediction_hands_on_a_top_k_of_its_own(stock):
    assert stock["top_k"] == {"top_k": 1}


def test_stock_trainer_does_not_accumulate_and_trains_on(stock):
    assert stock["accumulation"] == 1


def test_stock_processor_section_is_built_once(stock):
    assert stock["processor twice"].startswith("AttributeError")


def test_stock_does_not_know_the_original(stock):
    assert "not available now" in stock["original"]


def test_stock_sinks_nothing_on_a_cpu(stock):
    """Two epochs of a data set of four batches, to sink one step each: two steps are meant."""
    assert stock["sink"] == 8


def test_stock_takes_a_data_set_without_a_batch(stock):
    assert stock["no batch"] == 0


def test_stock_optimizer_without_parameters(stock):
    assert stock["all frozen"].startswith("ValueError: For 'Optimizer', the argument parameters must not be empty")


def test_stock_adamw_keeps_its_step_to_itself(stock):
    assert stock["adamw"] is True


def test_stock_tells_its_own_callbacks_alone(stock):
    """The count is in a private attribute of one callback, and callbacks of other types are made without arguments."""
    assert stock["callbacks"] == [True, True, True]


def test_stock_tells_no_callback_of_a_checkpoint():
    """The step of the last one is a private attribute of the CheckpointMonitor."""
    from mindformers.core.callback import CheckpointMonitor
    from mindspore.train.callback import Callback

    assert not [name for name in dir(Callback) if "save" in name or "checkpoint" in name]
    assert not [name for name in vars(CheckpointMonitor) if "last" in name and not name.startswith(("_", "record"))]


def test_stock_adapters_are_of_local_names(stock):
    """Wrapped in a cell of mindpet, with names that say nothing of the original's."""
    names = stock["adapters"]
    assert any("mindpet_delta_lora" in name for name in names), names


def test_stock_sampler_fills_up_shards(stock):
    assert stock["shards"] == [[0, 2], [1, 0]]


def test_stock_generates_by_the_name_of_a_phase(stock):
    assert stock["phases"].startswith("RuntimeError: For 'Reshape'")


def test_stock_generate_keeps_the_blocks_of_a_broken_answer(stock):
    assert stock["broken"] == [True, False]


def test_stock_trains_on_without_missing_tensors(stock):
    assert stock["missing"] == [["bias"], False]


def test_stock_cells_are_told_of_every_call(stock):
    assert stock["told"] == 3


def test_stock_top_p_drops_the_token_that_crosses_it(stock):
    """0.5 + 0.3 crosses 0.6, so transformers keeps both."""
    assert stock["top_p"] == [[True, False, False]]


def test_stock_argmax_has_no_cpu_operator(stock):
    assert "ArgMaxExt unregistered" in stock["argmax"]


def test_stock_cache_splits_keys_but_not_slots(stock):
    assert stock["cache"] == [2, 1]
