"""MindFormers' doors, as users open them; this file names nothing but MindFormers. test_doors.py runs it.

    python doors.py original|ours '{"model": "directory", "queries": [[...]], ...}'

Each door prints a line `DOOR name result`, the result as JSON; a door that fails has `{"error": traceback}`. What
`generate` was asked and answered on the way is in `{"ids": [rows], "stops": [ids], "top_p": p, ...}`.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    MindFormerConfig,
    Trainer,
    pipeline,
)
from mindformers.generation import GenerationMixin
from mindformers.mindformer_book import MindFormerBook

TASK = "multi_modal_to_text_generation"
NAME = "qwenvl_9.6b"
generated: list[dict] = []


def record() -> None:
    """Keep what the host's `generate` returns, and the settings it went by."""
    stock, prepare = GenerationMixin.generate, GenerationMixin._get_generation_mode

    def generate(self, *args, **kwargs):
        rows = stock(self, *args, **kwargs)
        generated[-1].update(ids=[np.asarray(row).tolist() for row in rows], use_past=self.config.use_past)
        return rows

    def mode(config):
        settings = ("max_new_tokens", "do_sample", "top_p", "top_k")
        generated.append({"stops": list(config.eos_token_id), **{name: getattr(config, name) for name in settings}})
        return prepare(config)

    GenerationMixin.generate, GenerationMixin._get_generation_mode = generate, staticmethod(mode)


def door(name: str, enter: Callable[[], object]) -> None:
    generated.clear()
    try:
        result = enter()
        result = {"result": result, **(generated[-1] if generated else {})}
    except Exception:
        result = {"error": traceback.format_exc()}
    print("DOOR", name, json.dumps(result), flush=True)


def made(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}"


def described(config) -> dict:
    vision, language = (part["model_config"] for part in (config.vision_model, config.llm_model))
    return {
        "class": made(config),
        "sizes": [vision.hidden_size, vision.image_size, language.hidden_size, language.vocab_size, config.num_queries],
        "stops": config.eos_token_id,
    }


def generate_with(auto, folder: str, queries: list, opened: dict) -> Callable[[], object]:
    def enter():
        network = opened["network"] = auto.from_pretrained(folder, use_past=True)
        network.generate(**AutoProcessor.from_pretrained(folder)(queries))
        return made(network)

    return enter


def directory(task: dict) -> tuple[object, object]:
    """Every door that takes a directory with config.json; what AutoModel and the pipeline opened."""
    folder, queries = task["model"], task["queries"]
    of_model, of_pipeline = {}, {}
    door("config", lambda: described(AutoConfig.from_pretrained(folder)))

    def tokenizer():
        found = AutoTokenizer.from_pretrained(folder)
        return {"class": made(found), "ids": [found(text)["input_ids"] for text in task["texts"]]}

    def processor():
        found = AutoProcessor.from_pretrained(folder)
        return {"class": made(found), "input_ids": np.asarray(found(queries)["input_ids"]).tolist()}

    door("tokenizer", tokenizer)
    door("processor", processor)
    door("model", generate_with(AutoModel, folder, queries, of_model))
    door("causal", generate_with(AutoModelForCausalLM, folder, queries[:1], {}))

    def piped():
        of_pipeline["pipe"] = pipeline(TASK, model=folder)
        return of_pipeline["pipe"](queries, batch_size=len(queries))

    door("pipeline", piped)
    return of_model["network"], of_pipeline["pipe"]


def original(task: dict) -> None:
    def trusting():
        autos = (AutoConfig, AutoTokenizer, AutoProcessor, AutoModel, AutoModelForCausalLM)
        return [made(auto.from_pretrained(task["model"], trust_remote_code=True)) for auto in autos]

    door("trusting", trusting)
    network, pipe = directory(task)
    # Batches of one shape from here on, so that the graphs of these two networks are there already.
    queries, size = task["queries"], {"batch_size": len(task["queries"])}
    door("pipeline_call", lambda: pipe(queries, **size, max_new_tokens=4, eos_token_id=[-1]))
    for number, seed in enumerate((1, 2, 1)):
        door(f"pipeline_sample_{number}", lambda seed=seed: pipe(queries, **size, do_sample=True, seed=seed))

    def of_network():
        return pipeline(TASK, model=network)(queries, **size)

    def of_parts():
        tokenizer = AutoTokenizer.from_pretrained(task["model"])
        return pipeline(TASK, model=network, tokenizer=tokenizer)(queries, **size)

    door("pipeline_network", of_network)
    door("pipeline_parts", of_parts)

    def saved_apart():
        network.save_pretrained("apart", save_json=True)
        network.config.save_pretrained("apart", save_json=True)
        AutoTokenizer.from_pretrained(task["model"]).save_pretrained("apart")
        AutoProcessor.from_pretrained(task["model"]).save_pretrained("apart")

    def saved_as_yaml():
        network.save_pretrained("as_yaml")
        AutoProcessor.from_pretrained(task["model"]).save_pretrained("as_yaml", save_name="mindspore_model")

    door("save_pipeline", lambda: pipe.save_pretrained("saved"))
    door("save_apart", saved_apart)
    door("save_as_yaml", saved_as_yaml)
    trainer(task, network)


def ours(task: dict) -> None:
    """Directories that `save_pretrained` wrote, with `save_json=True` and without."""
    directory(task)
    folder, queries = task["as_yaml"], task["queries"][:1]
    door("yaml_config", lambda: described(AutoConfig.from_pretrained(f"{folder}/mindspore_model.yaml")))
    door("yaml_model", generate_with(AutoModel, folder, queries, {}))
    door("yaml_tokenizer", lambda: made(AutoTokenizer.from_pretrained(folder)))


def trainer(task: dict, network: object) -> None:
    """Trainer.predict, and the pipeline by name: its YAML is exchanged for a small one."""
    config, queries, size = task["config"], task["queries"], len(task["queries"])

    def of_a_yaml():
        predicting = Trainer(args=config, task=TASK, model=NAME)
        return predicting.predict(predict_checkpoint=task["checkpoint"], input_data=queries, batch_size=size)

    def of_a_network():
        return Trainer(args=config, task=TASK, model=network).predict(input_data=queries, batch_size=size)

    def by_name():
        table = MindFormerBook.get_pipeline_support_task_list()[TASK]
        settings = MindFormerConfig(config)
        settings.model.model_config.checkpoint_name_or_path = task["checkpoint"]
        table[NAME] = "by_name.yaml"
        Path("by_name.yaml").write_text(json.dumps(settings.to_dict()), encoding="utf-8")  # JSON is YAML
        return pipeline(TASK, model=NAME)(task["raw_texts"])

    door("pipeline_converted", lambda: pipeline(TASK, model=task["converted"])(queries[:1]))
    door("trainer_yaml", of_a_yaml)
    door("trainer_network", of_a_network)
    door("pipeline_name", by_name)


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    record()
    group, settings = sys.argv[1:]
    {"original": original, "ours": ours}[group](json.loads(settings))
