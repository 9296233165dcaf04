"""Public names of MindFormers whose module depends on the version, and one setting whose place does."""

from __future__ import annotations

from typing import Any

from mindformers.trainer import utils as trainer_utils

try:  # 1.8 and later
    from mindformers.utils.file_utils import is_publicly_accessible_path, set_output_path
except ImportError:
    from mindformers.tools.utils import is_publicly_accessible_path, set_output_path

__all__ = ["is_publicly_accessible_path", "load_path", "set_load_path", "set_output_path"]


def _in_section() -> bool:
    """Whether this host moves `load_checkpoint` into a section `checkpoint`, as 1.9 and later do."""
    return hasattr(trainer_utils, "convert_checkpoint_config")


def load_path(config: Any) -> str:
    """What a job loads, file or folder; "" for nothing. `config`: the trainer's, after its rules have been checked."""
    return (config.checkpoint.load_path if _in_section() else config.load_checkpoint) or ""


def set_load_path(config: Any, path: str) -> None:
    """Let a job load `path`."""
    if _in_section():
        config.checkpoint.load_path = path
    else:
        config.load_checkpoint = path
