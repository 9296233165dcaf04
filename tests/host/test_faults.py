"""The faults that host.py and train.py work around, in a MindFormers without plugins.

Where such a test fails, the host has been mended and the work-around can go.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

STOCK = """
import json, os, sys
import mindspore as ms
from mindspore import nn
from mindformers import AutoConfig, MindFormerConfig, MindFormerRegister, PretrainedConfig, PreTrainedModel, pipeline
from mindformers.core import build_optim
from mindformers.generation import GenerationConfig
from mindformers.mindformer_book import MindFormerBook
from mindformers.pipeline import MultiModalToTextPipeline
from mindformers.tools.hub.dynamic_module_utils import resolve_trust_remote_code
from mindformers.trainer import MultiModalToTextGenerationTrainer
from mindformers.wrapper import MFTrainOneStepCell

class Network(PreTrainedModel):
    def __init__(self):
        super().__init__(PretrainedConfig())
        self.dense = nn.Dense(2, 2)
    def construct(self, x):
        return self.dense(x).sum()

found = {}
task = "multi_modal_to_text_generation"
def fault(name, function):
    try:
        found[name] = function()
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"

def auto_register():
    MindFormerRegister.register_cls(Network, "models")
    return MindFormerRegister.auto_register("some_file.Network", "models")

def step():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    network = Network()
    MFTrainOneStepCell(network, nn.SGD(network.trainable_params()))(ms.ops.ones((1, 2)))

def leaking():
    class Processor: tokenizer = "a tokenizer"
    tables = MindFormerBook.get_trainer_support_task_list()
    found["task in tables"] = task in tables or task in MindFormerBook.get_pipeline_support_task_list()
    tables[task] = {"common": tables["general"]["common"]}
    os.environ["RUN_MODE"] = "predict"
    trainer = MultiModalToTextGenerationTrainer("any")
    trainer.predict_process = lambda config, **kwargs: config
    config = MindFormerConfig(run_mode="predict", parallel_config={}, moe_config={}, recompute_config={})
    return "layer_decay" in trainer.predict(config, [""], processor=Processor(), is_full_config=True)

def own_generation():
    network, made = Network(), GenerationConfig.from_model_config
    network.generation_config = GenerationConfig(max_new_tokens=1)
    def complain(config):
        raise LookupError("made of the network's configuration")
    GenerationConfig.from_model_config = complain
    try:
        network.generate([[1, 2]])
    finally:
        GenerationConfig.from_model_config = made

class Model:
    calls = []
    def save_pretrained(self, *args, **kwargs):
        self.calls.append([args, kwargs])

def pipeline_saves():
    pipe = object.__new__(MultiModalToTextPipeline)
    pipe.model = pipe.processor = Model()
    pipe.tokenizer = pipe.feature_extractor = pipe.image_processor = None
    pipe.save_pretrained("saved")
    return Model.calls

def top_k():
    handed = {}
    trainer = MultiModalToTextGenerationTrainer("any")
    trainer.pipeline_task = lambda data, **settings: handed.update(settings) or []
    section = MindFormerConfig(top_k=None, llm_model=MindFormerConfig(model_config=MindFormerConfig(top_k=7)))
    trainer.predict_process(MindFormerConfig(model=MindFormerConfig(model_config=section)), [], "any")
    return handed

def accumulation():
    trainer = MultiModalToTextGenerationTrainer("any")
    trainer.config = MindFormerConfig(
        runner_config={"gradient_accumulation_steps": 4}, model={"model_config": {}}, parallel_config={}
    )
    trainer._check_grad_accumulation_steps()
    return trainer.config.runner_config.gradient_accumulation_steps

fault("accumulation", accumulation)
fault("remote code", lambda: resolve_trust_remote_code(True, ".", has_local_code=True, has_remote_code=True))
fault("own generation config", own_generation)
fault("pipeline call", lambda: MultiModalToTextPipeline._sanitize_parameters(None, max_new_tokens=8))
fault("pipeline saves", pipeline_saves)
fault("top_k", top_k)
fault("auto_register", auto_register)
fault("by name", lambda: AutoConfig.from_pretrained("glm4_9b"))
fault("save", lambda: Network().save_pretrained("saved", save_json=True))
fault("step", step)
fault("leaking", leaking)
fault("pipeline", lambda: MindFormerRegister.get_instance("pipeline", task, model=Network()))
for kind, name in (
    ("trainer", "ImageToTextGenerationTrainer"), ("optimizer", "FP32StateAdamWeightDecay"), ("callback", "ObsMonitor")
):
    found[name] = MindFormerRegister.is_exist(kind, name)
print("FOUND", json.dumps(found))
"""


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """What the unmended host does: name -> result, or `ErrorType: message`."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "stock.py").write_text(STOCK)  # a file: MindSpore compiles nothing that comes from -c
    done = subprocess.run(
        [sys.executable, "stock.py"],
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
