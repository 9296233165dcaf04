"""The calls of MindFormers' run_mindformer.py, which is not in its wheel. test_trainer.py runs it in fresh processes.

    python driver.py '{"config": "a.yaml", "set": {"runner_config.epochs": 1}, "input_data": [[...]], "batch_size": 2}'

`set` are settings as on run_mindformer.py's command line. Prediction prints a line `GENERATED [rows of ids]`.
"""

from __future__ import annotations

import json
import sys

from mindformers.core.context import build_context
from mindformers.tools.register import MindFormerConfig
from mindformers.trainer import Trainer

try:
    from mindformers.utils.file_utils import set_output_path
except ImportError:  # MindFormers 1.7
    from mindformers.tools.utils import set_output_path


def configured(task: dict) -> MindFormerConfig:
    """The YAML of `task`, with its settings."""
    config = MindFormerConfig(task["config"])
    for path, value in task["set"].items():
        section = config
        *folders, key = path.split(".")
        for folder in folders:
            section = section[folder]
        section[key] = value
    return config


def main(task: dict) -> None:
    config = configured(task)
    set_output_path(config.output_dir)
    build_context(config)
    trainer = Trainer(config)
    if config.run_mode == "finetune":
        trainer.train()
        return
    if config.run_mode == "eval":
        trainer.evaluate(eval_checkpoint=config.load_checkpoint or False)
        return
    generated = record_generated_ids()
    texts = trainer.predict(
        predict_checkpoint=config.load_checkpoint,
        input_data=task["input_data"],
        batch_size=task.get("batch_size"),
        adapter_id=None,
    )
    print("GENERATED", json.dumps([row.tolist() for row in generated]))
    print("TEXTS", json.dumps(texts))


def record_generated_ids() -> list:
    """The stock path returns texts; keep the ids as well that `generate` gave it."""
    from mindformers_qwenvl import QwenVL

    stock, rows = QwenVL.generate, []

    def generate(self, *args, **kwargs):
        found = stock(self, *args, **kwargs)
        rows.extend(found)
        return found

    QwenVL.generate = generate
    return rows


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
