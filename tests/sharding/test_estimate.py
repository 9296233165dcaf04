"""Which weights optimizer parallelism shares out: the estimate against the network that MindSpore compiles."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.estimate import read_job
from mindformers_qwenvl.estimate.weights import weights_of
from mindformers_qwenvl.recipes import yaml_dir
from tests.support.sharding_worker import SMALL


@pytest.mark.slow
@pytest.mark.parametrize(("dp", "mp"), [(4, 2), (8, 1)])
def test_what_optimizer_parallel_shares(compiled, dp, mp):
    found = compiled(8, 5, optimizer_parallel=True, dp=dp, mp=mp)
    changes = [
        *(f"parallel_config.data_parallel={dp}", f"parallel_config.model_parallel={mp}"),
        "parallel.parallel_optimizer_config.parallel_optimizer_threshold=0",  # as in tests/sharding
        f"model.model_config.num_queries={SMALL['num_queries']}",
        "model.model_config.freeze_vision=False",
    ]
    for part in ("vision_model", "llm_model"):
        changes += [f"model.model_config.{part}.model_config.{key}={value}" for key, value in SMALL[part].items()]
    counted = {
        weight.name: weight for weight in weights_of(read_job(yaml_dir() / "finetune_qwenvl_9.6b.yaml", changes))
    }
    assert counted.keys() == found.shapes.keys()
    for name, layout in found.layouts.items():
        if name in counted:
            assert (counted[name].shares > 1) == bool(layout["optimizer_group"]), name
            assert max(found.slices(name)) == counted[name].cuts, name
