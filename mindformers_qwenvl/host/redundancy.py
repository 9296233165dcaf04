"""A work-around for checkpoints whose files each have a part of the parameters (`remove_redundancy: True`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers.tools.utils import get_real_rank
from mindformers.utils import load_checkpoint_utils
from mindspore import ops

from mindformers_qwenvl.host.context import is_data_parallel, parallel_mode
from mindformers_qwenvl.host.moved import load_path
from mindformers_qwenvl.host.replacements import Replacements
from mindformers_qwenvl.host.resume_file import is_part, parts_beside

__all__ = ["load_parts_in_data_parallel"]


def load_parts_in_data_parallel() -> None:
    """Let a training in data parallel resume from files saved with `remove_redundancy: True`.

    Together such files have each parameter once. Host: mindspore/train/serialization.py, load_param_into_net, fetches
    missing parameters from other processes, but only for a compiled network, and MindFormers compiles none in data
    parallel; nor would it accept `global_step`, which each file has. Here they are fetched; if the number of processes
    has changed, all files are read. Seen in MindSpore 2.7-2.10. Can go when `resume_training: True,
    remove_redundancy: True` works with `parallel_mode: 0`.
    """
    replacements = Replacements()
    replacements.add(load_checkpoint_utils, "load_safetensors_checkpoint", _loading_all_parts)
    replacements.add(ms, "load_param_into_net", _fetching_parts)
    replacements.apply()


def _loading_all_parts(stock: Callable) -> Callable:
    def load_safetensors_checkpoint(config: Any, load_checkpoint_files: list[str], *args: Any, **kwargs: Any) -> Any:
        part = Path(load_checkpoint_files[0])
        if is_part(part) and Path(load_path(config)).is_file():
            load_checkpoint_files = sorted(map(str, parts_beside(part)))
        return stock(config, load_checkpoint_files, *args, **kwargs)

    return load_safetensors_checkpoint


def _fetching_parts(stock: Callable) -> Callable:
    def load_param_into_net(net, parameter_dict, strict_load=False, remove_redundancy=False, *args, **kwargs):
        if remove_redundancy and parallel_mode() in ("data_parallel", "stand_alone"):
            if is_data_parallel():
                parameter_dict = {**parameter_dict, **_fetch(net, parameter_dict)}
            missing = sorted(set(net.parameters_dict()) - set(parameter_dict))
            if missing:
                raise ValueError(
                    "load_checkpoint: each of its files has a part of the parameters (remove_redundancy: True), and "
                    f"{len(missing)} of {len(net.parameters_dict())} are in none of them: {', '.join(missing[:3])} ... "
                    "The files of all processes that saved the checkpoint are needed"
                )
            remove_redundancy = False
        return stock(net, parameter_dict, strict_load, remove_redundancy, *args, **kwargs)

    return load_param_into_net


def _fetch(network: Any, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `network` that this process has not `loaded` but another process has."""
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
            found[name] = ms.Parameter(ops.AllReduce()(value), name=name)  # a sum, with zeros from all others
    return found
