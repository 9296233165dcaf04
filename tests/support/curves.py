"""A training of ready batches with the stock Trainer, in a process of its own; test_curves.py starts it.

    python curves.py '{"config": "a.yaml", "set": {...}, "batches": "batches.npz", "steps": 10, "with_table": false}'

`set` are settings as in driver.py. batches.npz: BATCH.COLUMN arrays, taken in turns. `with_table`: the resampler's
position table is trained too, as the original's finetune.py does by mistake.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from driver import configured  # beside this file
from mindformers.core.context import build_context
from mindformers.tools.register import MindFormerRegister
from mindformers.trainer import Trainer

try:
    from mindformers.utils.file_utils import set_output_path
except ImportError:  # MindFormers 1.7
    from mindformers.tools.utils import set_output_path
from mindspore.dataset import GeneratorDataset

from mindformers_qwenvl import QwenVL

COLUMNS = ["input_ids", "images", "image_context_pos", "labels"]


class WithTable(QwenVL):
    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.vision_encoder.attn_pool.pos_embed.requires_grad = True


def main(task: dict) -> None:
    config = configured(task)
    if task["with_table"]:
        MindFormerRegister.register_cls(WithTable, "models")
        config.model.arch.type = "WithTable"
    arrays = np.load(task["batches"])
    names = sorted({key.partition(".")[0] for key in arrays})
    batches = [tuple(arrays[f"{name}.{column}"] for column in COLUMNS) for name in names]
    rows = [batches[step % len(batches)] for step in range(task["steps"])]
    set_output_path(config.output_dir)
    build_context(config)
    Trainer(config, train_dataset=GeneratorDataset(rows, COLUMNS, shuffle=False)).train()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
