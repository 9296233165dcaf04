"""Opens a checkpoint of any kind as one with the original's names or ours, and with plain numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers_qwenvl.weights.formats.gptq import as_numbers
from mindformers_qwenvl.weights.formats.readable import Readable
from mindformers_qwenvl.weights.formats.reader import Checkpoint
from mindformers_qwenvl.weights.in_tree import as_ours

__all__ = ["Overlay", "opened"]

Overlay = Callable[[Readable, dict[str, Any], str | None], Readable]
"""(checkpoint, config.json, dtype code of the result or None) -> what is read instead of the checkpoint."""


def opened(path: Path, config: dict[str, Any], strategy: str | os.PathLike | None = None) -> Readable:
    """The checkpoint at `path`: as it is, or a view of it if it is quantised or comes from the in-tree port.

    Raises:
        ValueError, FileNotFoundError: see `Checkpoint`, `as_numbers` and `as_ours`.
    """
    checkpoint = Checkpoint(path, strategy)
    try:
        return as_ours(as_numbers(checkpoint, config), config)
    except BaseException:
        checkpoint.close()
        raise
