"""driver.py for trainings, with a callback `- type: SeenSamples`: which samples each step of each process has seen.

They are lines `SAMPLE SAMPLE ...`, one a step, in output/seen/rank_N.txt, a sample being a hash of its ids.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import driver  # test_data_parallel.py copies it beside this file
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister
from mindformers.tools.utils import get_real_rank
from mindspore.train.callback import Callback

INPUT_IDS = 0


@MindFormerRegister.register(MindFormerModuleType.CALLBACK)
class SeenSamples(Callback):
    def on_train_step_end(self, run_context):
        params = run_context.original_args()
        rows = params.train_dataset_element[INPUT_IDS].asnumpy()
        file = Path("output/seen", f"rank_{get_real_rank()}.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        hashes = (hashlib.sha256(row.tobytes()).hexdigest()[:12] for row in rows)
        with file.open("a") as seen:
            seen.write(f"{' '.join(hashes)}\n")


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    for name, value in task["set"].items():
        if isinstance(value, dict):  # a section, as it is read from a YAML
            task["set"][name] = MindFormerConfig(**value)
    driver.main(task)
