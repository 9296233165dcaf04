"""A work-around for trainings that cannot be resumed with another number of processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers.tools.logger import logger
from mindformers.tools.utils import get_real_group_size
from mindformers.trainer import Trainer
from mindformers.utils import load_checkpoint_utils

from mindformers_qwenvl.host.context import is_data_parallel
from mindformers_qwenvl.host.moved import is_publicly_accessible_path, load_path, set_load_path
from mindformers_qwenvl.host.replacements import Replacements
from mindformers_qwenvl.host.resume_file import is_part, latest, named_alike
from mindformers_qwenvl.weights.formats.rank_folders import rank_folders, saved_files

__all__ = ["resume_in_any_number_of_processes"]


def resume_in_any_number_of_processes() -> None:
    """Let a training of one process, or of several in data parallel, be resumed in any number of processes.

    Each process saves the whole state, so any file will do for all of them. Host: mindformers/tools/resume_ckpt.py and
    mindformers/trainer/utils.py, load_resume_context_from_checkpoint, let each process read the file of its own rank;
    that file is missing when resuming with more processes (FileNotFoundError in those, while the others wait). And
    mindformers/utils/load_checkpoint_utils.py, _get_checkpoint_mode, takes a folder `rank_0` of safetensors files for
    that of several processes, although a single one saves there, too, and refuses it without `use_parallel`. Here the
    file is chosen before anything is built. Seen in 1.7-2.1. Can go when the stock Trainer resumes in four processes
    from the `output/checkpoint` of two, and, in safetensors and without `use_parallel`, from that of one.
    """
    replacements = Replacements()
    replacements.add(Trainer, "_check_config_rules", _choosing_a_file)
    replacements.add(load_checkpoint_utils, "_get_checkpoint_mode", _taking_one_file_for_whole)
    replacements.add(load_checkpoint_utils, "_get_src_file", _taking_a_chosen_file)
    replacements.apply()


def _choosing_a_file(stock: Callable) -> Callable:
    def _check_config_rules(self: Any) -> Any:
        result, config = stock(self), self.config
        # 1.7 calls it ckpt_use_legacy_format.
        legacy = config.get("use_legacy_format", config.get("ckpt_use_legacy_format", True))
        if legacy and config.run_mode not in ("predict", "eval"):
            choose_file(config)
        return result

    return _check_config_rules


def _taking_one_file_for_whole(stock: Callable) -> Callable:
    modes = load_checkpoint_utils.CheckpointFileMode

    def _get_checkpoint_mode(config: Any) -> str:
        if not config.use_parallel:
            choose_file(config)  # for predictions too
            path = Path(load_path(config))
            if path.is_file() and path.parent.name.startswith("rank_"):
                return modes.SINGLE_CHECKPOINT_FILE.value
        return stock(config)

    return _get_checkpoint_mode


def _taking_a_chosen_file(stock: Callable) -> Callable:
    def _get_src_file(checkpoint_dir: str, *args: Any, **kwargs: Any) -> str:
        if Path(checkpoint_dir).is_file():
            return checkpoint_dir
        return stock(checkpoint_dir, *args, **kwargs)

    return _get_src_file


def choose_file(config: Any) -> None:
    """If `load_checkpoint` is a folder with rank_0, ...: choose one file for all, unless each process has its own part.

    The host would look for the same file name in the folders of all ranks. Once the number of processes has changed in
    an output_dir, there is none: the number after the rank then differs from folder to folder.
    """
    folder = Path(load_path(config))
    processes = get_real_group_size()
    if config.use_parallel and not (is_data_parallel() and is_publicly_accessible_path(str(folder))):
        return
    ranks = rank_folders(folder)
    if not ranks or config.auto_trans_ckpt:
        return
    suffix = f".{config.load_ckpt_format or 'ckpt'}"
    if config.use_parallel and len(ranks) == processes:
        saved = [saved_files(rank, [suffix]) for rank in ranks.values()]
        parts = [is_part(file.path) for files in saved for file in files]
        if not config.resume_training or not parts or (any(parts) and named_alike(saved)):
            return
    found = f"load_checkpoint {folder}, to resume in {processes} processes: there are folders of {len(ranks)} ranks"
    named = config.resume_training if isinstance(config.resume_training, str) else None
    chosen = latest(folder, suffix, named, found)
    logger.info("%s; using %s", found, chosen)
    set_load_path(config, str(chosen))
    config.resume_training = bool(config.resume_training)
