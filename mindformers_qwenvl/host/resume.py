"""Work-arounds of MindFormers' faults where a training is resumed, or done by several processes; as in host.py.

tests/host/test_resume_faults.py shows each stock fault in a process without plugins, and fails once it is mended;
tests/host/test_resume.py and tests/stock/test_data_parallel.py test what stands here.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
from mindformers import version_control
from mindformers.checkpoint import checkpoint as new_format
from mindformers.core.callback import callback
from mindformers.tools.logger import logger
from mindformers.tools.utils import get_real_group_size, get_real_rank
from mindformers.trainer import trainer
from mindformers.trainer import utils as trainer_utils
from mindformers.utils import load_checkpoint_utils
from mindformers.utils.file_utils import is_publicly_accessible_path
from mindspore import ops
from mindspore.communication import GlobalComm, comm_func
from safetensors import safe_open

from mindformers_qwenvl.host.device import device_target

__all__ = ["barrier_on_cpu", "resume_in_data_parallel"]

# The host puts a number behind the rank where a folder has files of an earlier run, or which parameters they are.
SAVED_FILE = re.compile(r"(?P<prefix>.+)_rank_\d+(?P<more>.*)-(?P<epoch>\d+)_(?P<step>\d+)\.(ckpt|safetensors)")


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
        if device_target() == "CPU":
            ops.AllReduce(group=group)(ms.Tensor([1.0], ms.float32)).asnumpy()
        else:
            stock(group)

    for module in (comm_func, callback, load_checkpoint_utils, trainer_utils, version_control):
        if getattr(module, "barrier", None) is stock:
            module.barrier = barrier


def resume_in_data_parallel() -> None:
    """Let a training of one process, or of several in data parallel, go on in any number of processes.

    Each process saves the whole state, so any file will do for all of them. Host: mindformers/tools/resume_ckpt.py and
    mindformers/trainer/utils.py, load_resume_context_from_checkpoint, have each process read the file of its own rank,
    and there is none if there are more of them than there were (FileNotFoundError in those, while the others wait). And
    mindformers/utils/load_checkpoint_utils.py, _get_checkpoint_mode, takes a folder `rank_0` of safetensors files,
    which one process saves to as well, for that of several, and refuses it without `use_parallel`. Here the file is
    chosen before anything is built. Seen in 1.9. Can go when the stock Trainer goes on from `output/checkpoint` of two
    processes in four, and from that of one, in safetensors, without `use_parallel`.

    Files saved with `remove_redundancy: True` have each parameter once; mindspore/train/serialization.py,
    load_param_into_net, fetches the others from their processes, but only for a compiled network, and the host compiles
    none in data parallel; nor would it take `global_step`, which each file has. Here they are fetched, or where the
    number of processes is another, all files are read. Seen in MindSpore 2.9. Can go when `resume_training: True,
    remove_redundancy: True` goes on with `parallel_mode: 0`.

    The host's newer section `checkpoint:` wants to save and load how weights are sharded, of which there is nothing in
    data parallel: mindformers/checkpoint/sharded_tensor.py, get_all_sharded_tensor (RuntimeError at the first
    checkpoint) and get_cur_sharded_tensor (TypeError). Here the first process saves, as one process does, and all load
    as one process does. Seen in 1.9. Can go when two processes save with that section and `parallel_mode: 0`.
    """
    if trainer.convert_checkpoint_config.__module__ == __name__:
        return
    _choose_files()
    _load_parts()
    _save_new_format_as_one_process()


def _choose_files() -> None:
    stock_convert = trainer.convert_checkpoint_config
    stock_mode, stock_file = load_checkpoint_utils._get_checkpoint_mode, load_checkpoint_utils._get_src_file
    modes = load_checkpoint_utils.CheckpointFileMode

    def convert_checkpoint_config(config: Any) -> None:
        stock_convert(config)
        if config.get("use_legacy_format", True) and config.run_mode not in ("predict", "eval"):
            _choose(config)

    def _get_checkpoint_mode(config: Any) -> str:
        if not config.use_parallel:
            _choose(config)  # predicting as well
            path = Path(config.checkpoint.load_path)
            if path.is_file() and path.parent.name.startswith("rank_"):
                return modes.SINGLE_CHECKPOINT_FILE.value
        return stock_mode(config)

    def _get_src_file(checkpoint_dir: str, checkpoint_name: str | None = None, ckpt_format: str = "ckpt") -> str:
        if Path(checkpoint_dir).is_file():  # chosen already
            return checkpoint_dir
        return stock_file(checkpoint_dir, checkpoint_name, ckpt_format)

    trainer.convert_checkpoint_config = convert_checkpoint_config
    load_checkpoint_utils._get_checkpoint_mode = _get_checkpoint_mode
    load_checkpoint_utils._get_src_file = _get_src_file


def _choose(config: Any) -> None:
    """Where `load_checkpoint` is a folder with rank_0 ...: one file for all, unless each process has a part of its own.

    The host would look for one name in the folders of all ranks, of which there is none once the number of processes
    has changed in an output_dir: the number behind the rank is then another in each.
    """
    folder = Path(config.checkpoint.load_path or "")
    processes = get_real_group_size()
    if config.use_parallel and not (_is_data_parallel() and is_publicly_accessible_path(str(folder))):
        return
    ranks = list(folder.glob("rank_*")) if folder.is_dir() else []
    if not ranks or config.auto_trans_ckpt:
        return
    suffix = config.load_ckpt_format or "ckpt"
    if config.use_parallel and len(ranks) == processes:
        files = list(folder.glob(f"rank_*/*.{suffix}"))
        if not config.resume_training or not files or (any(map(_is_part, files)) and _are_named_alike(files)):
            return
    found = f"load_checkpoint {folder}: has files of {len(ranks)} processes, and {processes} are to go on from them"
    named = config.resume_training if isinstance(config.resume_training, str) else None
    chosen = _latest(folder, suffix, named, found)
    logger.info("%s: %s", found, chosen)
    config.checkpoint.load_path = str(chosen)
    config.resume_training = bool(config.resume_training)


def _latest(folder: Path, suffix: str, named: str | None, found: str) -> Path:
    """The file to go on from, or one of the step of the file `named`.

    It is the last one of rank 0, which every run has: the folders of other ranks may be of an earlier run that had more
    processes. Of files with parts of the parameters it is the last step that all ranks have saved.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the ranks have parts, and are not at one step, nor a checkpoint apart, as those of a killed job may
            be; or the host's note beside the files is damaged.
    """
    files = sorted(folder.glob(f"rank_*/*.{suffix}"), key=lambda file: file.stat().st_mtime)
    if named:
        named = named if named.endswith(f".{suffix}") else f"{named}.{suffix}"
        for file in files:
            if _without_rank(file.name) == _without_rank(named):
                return file
        raise FileNotFoundError(f"{found}; but there is no file {named} in them, of any rank")
    steps = {rank.name: _complete(rank, suffix) for rank in folder.glob("rank_*")}
    steps = {rank: steps[rank] for rank in sorted(steps, key=_number) if steps[rank]}
    if not steps and files:  # of other names, which the host takes by their time
        return files[-1]
    if not steps:
        raise FileNotFoundError(f"{found}; but there is no *.{suffix} in them: see load_ckpt_format")
    of_first = next(iter(steps.values()))
    if not _is_part(of_first[max(of_first)]):
        return of_first[max(of_first)]
    common = max(set.intersection(*map(set, steps.values())), default=(0, 0))
    if any(sum(step > common for step in files) > 1 for files in steps.values()) or common == (0, 0):
        last = ", ".join(f"{rank} at epoch {max(files)[0]}, step {max(files)[1]}" for rank, files in steps.items())
        raise ValueError(
            f"{found}; but they are not of one run: {last}. Move away the rank folders that are not to be gone on from"
        )
    return of_first[common]


def _are_named_alike(files: Iterable[Path]) -> bool:
    """Whether each rank has the same runs, whose number is in the names."""
    runs: dict[str, set[str]] = defaultdict(set)
    for file in files:
        name = SAVED_FILE.fullmatch(file.name)
        runs[file.parent.name].add(name["more"] if name else "")
    return len(set(map(frozenset, runs.values()))) == 1


def _number(rank: str) -> tuple[int, str]:
    number = rank.removeprefix("rank_")
    return (int(number) if number.isdecimal() else sys.maxsize, rank)


def _without_rank(name: str) -> tuple[str, ...]:
    """What the files of one step have in common; the number of the run differs from rank to rank."""
    parts = SAVED_FILE.fullmatch(name)
    if not parts:
        return (name,)
    return parts["prefix"], re.sub(r"^_\d+", "", parts["more"]), parts["epoch"], parts["step"]


def _complete(rank: Path, suffix: str) -> dict[tuple[int, int], Path]:
    """What this rank has saved to the end, by epoch and step; of files for one step the last written."""
    last, files = _last_complete(rank), {}
    for file in sorted(rank.glob(f"*.{suffix}"), key=lambda file: file.stat().st_mtime):
        name = SAVED_FILE.fullmatch(file.name)
        if name and (step := (int(name["epoch"]), int(name["step"]))) <= last:
            files[step] = file
    return files


def _last_complete(rank: Path) -> tuple[float, float]:
    """Epoch and step that the host notes behind each checkpoint; without a note every file counts."""
    try:
        meta = json.loads((rank / "meta.json").read_text(encoding="utf-8"))
        return int(meta["last_epoch"]), int(meta["last_step"])
    except FileNotFoundError:
        return float("inf"), 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{rank / 'meta.json'}: not MindFormers' note of the last checkpoint ({error}); take it away if the "
            "checkpoints beside it are whole"
        ) from error


def _is_part(file: Path) -> bool:
    """Whether it was saved with `remove_redundancy: True` by several processes."""
    if file.suffix != ".safetensors":
        return False
    with safe_open(file, framework="np") as opened:
        return (opened.metadata() or {}).get("remove_redundancy") == "True"


def _is_data_parallel() -> bool:
    return ms.get_auto_parallel_context("parallel_mode") == "data_parallel"


def _load_parts() -> None:
    stock_files, stock_load = load_checkpoint_utils.load_safetensors_checkpoint, ms.load_param_into_net

    def load_safetensors_checkpoint(config, load_checkpoint_files, *args, **kwargs):
        part = Path(load_checkpoint_files[0])
        if _is_part(part) and Path(config.checkpoint.load_path).is_file():
            load_checkpoint_files = sorted(map(str, _parts_beside(part)))
        return stock_files(config, load_checkpoint_files, *args, **kwargs)

    def load_param_into_net(net, parameter_dict, strict_load=False, remove_redundancy=False):
        if remove_redundancy and ms.get_auto_parallel_context("parallel_mode") in ("data_parallel", "stand_alone"):
            if _is_data_parallel():
                parameter_dict = {**parameter_dict, **_fetch(net, parameter_dict)}
            missing = sorted(set(net.parameters_dict()) - set(parameter_dict))
            if missing:
                raise ValueError(
                    f"the files of load_checkpoint have parts of the parameters (remove_redundancy: True), and "
                    f"{len(missing)} of {len(net.parameters_dict())} are in none of them: {', '.join(missing[:3])} ... "
                    "It takes the files of all processes that saved them"
                )
            remove_redundancy = False
        return stock_load(net, parameter_dict, strict_load, remove_redundancy)

    load_checkpoint_utils.load_safetensors_checkpoint = load_safetensors_checkpoint
    ms.load_param_into_net = load_param_into_net


def _parts_beside(part: Path) -> list[Path]:
    """`part` and the file of the same step of each other rank; of two in one folder the later."""
    others = sorted(part.parents[1].glob("rank_*/*.safetensors"), key=lambda file: file.stat().st_mtime)
    same = {file.parent: file for file in others if _without_rank(file.name) == _without_rank(part.name)}
    return list({**same, part.parent: part}.values())


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


def _save_new_format_as_one_process() -> None:
    stock_size, stock_save = new_format.get_real_group_size, new_format.ms_save_checkpoint
    stock_sharded = callback.get_all_sharded_tensor

    def get_real_group_size() -> int:
        return 1 if _is_data_parallel() else stock_size()

    def ms_save_checkpoint(*args, **kwargs):
        if not _is_data_parallel() or get_real_rank() == 0:
            stock_save(*args, **kwargs)

    def get_all_sharded_tensor(*args, **kwargs):
        return None if _is_data_parallel() else stock_sharded(*args, **kwargs)

    new_format.get_real_group_size, new_format.ms_save_checkpoint = get_real_group_size, ms_save_checkpoint
    callback.get_all_sharded_tensor = get_all_sharded_tensor
