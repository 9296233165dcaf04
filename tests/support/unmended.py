"""What a host without plugins does: prints FOUND and a JSON of name -> result, or `ErrorType: message`.

tests/host/test_faults.py runs it in a process of its own. It is a file: MindSpore compiles nothing that comes from -c.
"""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import mindspore as ms
import numpy as np
from mindformers import (
    AutoConfig,
    MindFormerConfig,
    MindFormerRegister,
    PretrainedConfig,
    PreTrainedModel,
    pet,
)
from mindformers.core.callback import CheckpointMonitor
from mindformers.core.optim import adamw
from mindformers.generation import GenerationConfig
from mindformers.generation.logits_process import TopPLogitsWarper
from mindformers.generation.text_generator import GenerationMixin
from mindformers.mindformer_book import MindFormerBook
from mindformers.models.build_processor import build_processor
from mindformers.modules.layers import Linear
from mindformers.modules.paged_attention_mgr import PagedAttentionMgr
from mindformers.pipeline import MultiModalToTextPipeline
from mindformers.tools.hub.dynamic_module_utils import resolve_trust_remote_code
from mindformers.tools.register.config import DictConfig
from mindformers.trainer import BaseTrainer, MultiModalToTextGenerationTrainer
from mindformers.utils import load_checkpoint_utils
from mindformers.wrapper import MFTrainOneStepCell
from mindspore import mint, nn
from mindspore.dataset import DistributedSampler, NumpySlicesDataset


class Network(PreTrainedModel):
    def __init__(self):
        super().__init__(PretrainedConfig())
        self.dense = nn.Dense(2, 2)

    def construct(self, x):
        return self.dense(x).sum()


class Attention(PreTrainedModel):
    def __init__(self):
        super().__init__(PretrainedConfig())
        self.transformer = nn.Cell()
        self.transformer.query = Linear(4, 4)
        self._support_list = []

    def construct(self, x):
        return self.transformer.query(x).sum()


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


ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")


def step():
    network = Network()
    MFTrainOneStepCell(network, nn.SGD(network.trainable_params()))(ms.ops.ones((1, 2)))


def leaking():
    class Processor:
        tokenizer = "a tokenizer"

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
    calls = []  # noqa: RUF012

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


class Flat(PreTrainedModel):
    def __init__(self):
        super().__init__(PretrainedConfig(is_dynamic=False))
        self.reshape = ms.ops.Reshape()

    def construct(self, input_ids, batch_valid_length=None):
        return self.reshape(input_ids, (input_ids.shape[0] * input_ids.shape[1],))


def phases():
    network, sizes = Flat(), []
    for rows in (1, 2):
        inputs = {"input_ids": ms.ops.ones((rows, 4), ms.int32), "batch_valid_length": np.full(rows, 4, np.int32)}
        sizes.append(network._incremental_infer(inputs, True, None).shape[0])
    return sizes


def top_p():
    logits = np.log(np.array([[0.5, 0.3, 0.2]], np.float32))
    return (TopPLogitsWarper(0.6).process_np(logits, None) > -1000).tolist()


def shards():
    samplers = [DistributedSampler(2, shard, shuffle=False) for shard in range(2)]
    datasets = [NumpySlicesDataset(np.arange(3), sampler=sampler) for sampler in samplers]
    return [[int(row[0]) for row in dataset.create_tuple_iterator(output_numpy=True)] for dataset in datasets]


def cache():
    class Parallel:
        data_parallel, model_parallel = 2, 1

    manager = PagedAttentionMgr(4, 64, 4, (8, 16, 4, 64), compute_dtype=ms.float16)
    manager.shard(Parallel)
    keys, _, _, _, slots = manager.reshape_and_cache.in_strategy
    return [keys[0], slots[0]]


@MindFormerRegister.register("processor")
class PartOfAProcessor:
    pass


@MindFormerRegister.register("processor")
class WholeProcessor:
    def __init__(self, image_processor=None, tokenizer=None):
        pass


def processor_twice():
    section = MindFormerConfig(type="WholeProcessor", image_processor=MindFormerConfig(type="PartOfAProcessor"))
    build_processor(section)
    build_processor(section)


def original():
    folder = Path("original")
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen", "visual": {}}')
    return type(AutoConfig.from_pretrained("original")).__name__


class Steps(ms.Callback):
    count = 0

    def step_end(self, run_context):
        Steps.count += 1


def sink():
    network = nn.Dense(2, 1)
    rows = (np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))
    model = ms.Model(network, nn.MSELoss(), nn.SGD(network.trainable_params()))
    model.train(2, NumpySlicesDataset(rows).batch(1), callbacks=[Steps()], dataset_sink_mode=True, sink_size=1)
    return Steps.count


def no_batch():
    dataset = NumpySlicesDataset(np.zeros((3, 2))).batch(4, drop_remainder=True)
    MultiModalToTextGenerationTrainer("any").set_train_dataset(dataset)
    return dataset.get_dataset_size()


def callbacks():
    source = inspect.getsource(BaseTrainer.training_process)
    saved = "_append_step_num" in vars(CheckpointMonitor("any", directory="checkpoints"))
    return [saved, "build_callback(callback, default_args=default_args)" in source, "default_args = None" in source]


def adapters():
    pet_config = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 2, "target_modules": ".*query"}
    wrapped = pet.get_pet_model(Attention(), DictConfig(**pet_config))
    return sorted(parameter.name for parameter in wrapped.trainable_params())


def missing():
    lacking = ms.load_param_into_net(nn.Dense(2, 1), {"weight": ms.Parameter(np.ones((1, 2), np.float32))})[0]
    return [lacking, "strict_load" in inspect.getsource(load_checkpoint_utils)]


def broken():
    source = inspect.getsource(GenerationMixin)
    return ["clear_cache()" in source, "finally:" in source]


class Told(nn.Cell):
    times = 0

    def __setattr__(self, name, value):
        Told.times += name == "compile_phase"
        super().__setattr__(name, value)

    def construct(self, x):
        return x + 1


class Outer(nn.Cell):
    def __init__(self):
        super().__init__()
        self.inner = Told()

    def construct(self, x):
        return self.inner(x)


def told():
    network = Outer()
    for _ in range(3):
        network(ms.Tensor([1.0]))
    return Told.times


fault("told", told)
fault("missing", missing)
fault("broken", broken)
fault("adapters", adapters)
fault("phases", phases)
fault("argmax", lambda: mint.argmax(ms.Tensor([1.0, 2.0]), -1))
fault("top_p", top_p)
fault("shards", shards)
fault("cache", cache)
fault("processor twice", processor_twice)
fault("original", original)
fault("sink", sink)
fault("no batch", no_batch)
fault("all frozen", lambda: adamw.AdamW([]))
fault("adamw", lambda: "_adamw_opt" in inspect.getsource(adamw.AdamW) and hasattr(adamw, "_adamw_opt"))
fault("callbacks", callbacks)
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
    ("trainer", "ImageToTextGenerationTrainer"),
    ("optimizer", "FP32StateAdamWeightDecay"),
    ("callback", "ObsMonitor"),
):
    found[name] = MindFormerRegister.is_exist(kind, name)
print("FOUND", json.dumps(found))
