"""Commands killed with SIGKILL at random moments, and run again: nothing is half there, lost or left behind.

convert-weight, convert-data and check-data are forked from this process, see `kill_forked`. MindSpore has threads after
its import, so the others are processes of their own: predict and evaluate (`kill_answering`), and training
(`kill_training`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.robust.kill_answering import evaluate, predict
from tests.robust.kill_forked import check_data, convert_data, convert_weight
from tests.robust.kill_training import train
from tests.robust.killed import Killed

COMMANDS: dict[str, Callable[[int, int], Killed]] = {
    "convert-weight": convert_weight,
    "convert-data": convert_data,
    "check-data": check_data,
    "predict": predict,
    "evaluate": evaluate,
    "training": partial(train, workers=1),
    "training in two processes": partial(train, workers=2),
}
