"""Work-arounds of MindFormers' faults where a training is resumed, or done by several processes; as in host.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers import version_control
from mindformers.core.callback import callback
from mindformers.tools.utils import get_real_rank
from mindformers.trainer import utils as trainer_utils
from mindformers.utils import load_checkpoint_utils
from mindspore import ops
from mindspore.communication import GlobalComm, comm_func
from safetensors import safe_open

__all__ = ["barrier_on_cpu", "resume_in_data_parallel"]


def barrier_on_cpu() -> None:
    """Let processes wait for each other on a CPU, as the host has them do before a training is resumed.

    Host: mindformers/utils/parallel_utils.py and others call mindspore.communication.comm_func.barrier, whose operator
    has no CPU kernel (RuntimeError: Unsupported op [Barrier] on CPU); here they add up a number instead. Seen in 1.9 on
    MindSpore 2.9. Can go when `barrier()` works in two processes on a CPU.
    """
    stock = comm_func.barrier
    if stock.__module__ == __name__:
        return

    def barrier(group: str = GlobalComm.WORLD_COMM_GROUP) -> None:
        if ms.get_context("device_target") == "CPU":
            ops.AllReduce(group=group)(ms.Tensor([1.0], ms.float32)).asnumpy()
        else:
            stock(group)

    for module in (comm_func, callback, load_checkpoint_utils, trainer_utils, version_control):
        if getattr(module, "barrier", None) is stock:
            module.barrier = barrier


def resume_in_data_parallel() -> None:
    """Let a training go on from the safetensors files of its processes: one, or several in data parallel.

    Host: mindformers/utils/load_checkpoint_utils.py, _get_checkpoint_mode. It takes a folder `rank_0`, which one
    process saves to as well, for that of several, and refuses it without `use_parallel`. Here one process loads the
    file as it is. Seen in 1.9. Can go when the stock Trainer resumes from `output/checkpoint` without `use_parallel`.

    Files saved with `remove_redundancy: True` have each parameter once; mindspore/train/serialization.py,
    load_param_into_net, fetches the others from their processes, but only for a compiled network, and the host compiles
    none in data parallel; nor would it take `global_step`, which each file has. Here they are fetched. Seen in
    MindSpore 2.9. Can go when `resume_training: True, remove_redundancy: True` goes on with `parallel_mode: 0`.
    """
    stock_mode, stock_load = load_checkpoint_utils._get_checkpoint_mode, ms.load_param_into_net
    if stock_mode.__module__ == __name__:
        return

    def _get_checkpoint_mode(config: Any) -> str:
        single = None if config.use_parallel else _file_of_one_process(config)
        if single is None:
            return stock_mode(config)
        config.checkpoint.load_path = single
        return load_checkpoint_utils.CheckpointFileMode.SINGLE_CHECKPOINT_FILE.value

    def load_param_into_net(net, parameter_dict, strict_load=False, remove_redundancy=False):
        if remove_redundancy and ms.get_auto_parallel_context("parallel_mode") == "data_parallel":
            parameter_dict, remove_redundancy = {**parameter_dict, **_fetch(net, parameter_dict)}, False
        return stock_load(net, parameter_dict, strict_load, remove_redundancy)

    load_checkpoint_utils._get_checkpoint_mode = _get_checkpoint_mode
    ms.load_param_into_net = load_param_into_net


def _file_of_one_process(config: Any) -> str | None:
    """The file to load, where `load_checkpoint` is one in a folder rank_N, or a folder with rank_0."""
    path = Path(config.checkpoint.load_path)
    if path.is_file():
        if not path.parent.name.startswith("rank_"):
            return None
    elif not (path / "rank_0").is_dir():
        return None
    else:
        name = config.resume_training
        path = Path(
            load_checkpoint_utils._get_src_file(str(path), name if isinstance(name, str) else None, "safetensors")
        )
    with safe_open(path, framework="np") as file:
        if (file.metadata() or {}).get("remove_redundancy") == "True":
            raise ValueError(
                f"load_checkpoint {path}: has a part of the parameters only (saved with remove_redundancy: True by "
                "several processes), so it takes as many processes and use_parallel: True to load"
            )
    return str(path)


def _fetch(network: Any, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `network` that this process has not `loaded`, but another one has."""
    parameters = sorted(network.parameters_dict().items())
    mine = ms.Tensor([name in loaded for name, _ in parameters], ms.int32)
    owners = ops.AllGather()(mine).asnumpy().reshape(-1, len(parameters))
    found = {}
    for (name, parameter), owned in zip(parameters, owners.T, strict=True):
        if owned.any() and not owned.all():
            if owned.argmax() == get_real_rank():
                value = loaded[name].value().astype(parameter.dtype)
            else:
                value = ops.zeros(parameter.shape, parameter.dtype)
            found[name] = ms.Parameter(ops.AllReduce()(value), name=name)  # a sum, with zeros of all the others
    return found
