"""Where the vocabulary file is, and what it says. Plain Python.

The file is tiktoken's: one line a token, its bytes in base64 and its rank.
"""

from __future__ import annotations

import base64
import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from mindformers_qwenvl.checks import is_whole

__all__ = [
    "FILE_NAME",
    "IMAGE_START_OFFSET",
    "MAX_BYTES",
    "PUBLISHED_IMAGE_START",
    "check_file",
    "check_model",
    "find_vocabulary",
    "parse_ranks",
]

FILE_NAME = "qwen.tiktoken"
NOT_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))  # a pruned vocabulary may lack these bytes
# The special ids follow the ranks in a fixed order: end of text, then <|im_start|>, <|im_end|>, ..., <img>.
IMAGE_START_OFFSET = 214
PUBLISHED_IMAGE_START = 151857
MAX_BYTES = 16 << 20  # of the file; the published one is 2.6 MB


def find_vocabulary(vocab_file: str | os.PathLike | None = None) -> Path:
    """Path of the vocabulary file: `vocab_file` (a file, or a folder that holds qwen.tiktoken), or else the copy that
    the package dashscope carries. dashscope is located, never imported.

    Raises:
        FileNotFoundError: there is no such file; the message says how to get one.
    """
    how = (
        "It is qwen.tiktoken in the model's folder at huggingface.co/Qwen/Qwen-VL; "
        "`pip install 'mindformers-qwenvl[vocab]'` brings the same file, which is used when no vocab_file is given."
    )
    if vocab_file is not None and os.fspath(vocab_file) != "":
        path = Path(vocab_file)
        if path.is_dir():
            path = path / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"vocabulary file {str(path)!r} does not exist. {how}")
        return path
    try:
        spec = importlib.util.find_spec("dashscope")
    except (ImportError, ValueError):  # ValueError: a half-made module of that name is in sys.modules
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "resources" / FILE_NAME
        if path.is_file():
            return path
    raise FileNotFoundError(f"no vocab_file was given, and the package dashscope, which has one, is missing. {how}")


def check_model(ranks: int, name: object, image_start_id: Any, model: str = "the model") -> None:
    """Raise ValueError, with both numbers, unless a vocabulary of that many ranks belongs to a model.

    Args:
        ranks: of the vocabulary.
        name: what the message calls the vocabulary.
        image_start_id: of the model, the id of <img>; it follows the ranks at a fixed distance. A value that is not a
            whole number is not checked here, but where the configuration is read.
        model: what the message calls the model.
    """
    if is_whole(image_start_id) and ranks != image_start_id - IMAGE_START_OFFSET:
        raise ValueError(
            f"the vocabulary {str(name)!r} has {ranks} ranks, but "
            f"{model} has {image_start_id - IMAGE_START_OFFSET} (image_start_id {image_start_id} minus "
            f"{IMAGE_START_OFFSET}), so all special tokens would be wrong: use the {FILE_NAME} that belongs to "
            "the model, or set image_start_id to that of the vocabulary"
        )


def check_file(path: Path, image_start_id: Any, model: str = "the model") -> None:
    """`check_model` for the vocabulary file `path`."""
    check_model(len(parse_ranks(path.read_bytes(), str(path))), str(path), image_start_id, model)


@lru_cache(maxsize=8)
def parse_ranks(source: bytes, name: str) -> dict[bytes, int]:
    """Token bytes -> rank from the content of a tiktoken file: lines `base64 rank`, ranks 0, 1, 2, … in order.

    Raises:
        ValueError: a line is not of that form, repeats a token or breaks the order, or a byte has no token of its own;
            the message names `name` and the line.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(source.splitlines(), 1):
        if not line.strip():
            continue
        where = f"vocabulary file {name!r}, line {number}"
        try:
            text, rank = line.split()
            token, rank = base64.b64decode(text, validate=True), int(rank)
        except ValueError:  # binascii.Error is one
            hint = " (a git-lfs pointer: run `git lfs pull`)" if source.startswith(b"version https://git-lfs") else ""
            # The line itself is not shown: a link may lead to any file, with any content.
            reason = f"expected `base64 rank`, found {len(line):,} bytes of another form{hint}"
            raise ValueError(f"{where}: {reason}") from None
        if not token:
            raise ValueError(f"{where}: the token is empty")
        if rank != len(ranks):
            raise ValueError(f"{where}: expected rank {len(ranks)}, got {rank}; ranks must be 0, 1, 2, … in order")
        if token in ranks:
            raise ValueError(f"{where}: token {token!r} is repeated; it already has rank {ranks[token]}")
        ranks[token] = rank
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks and byte not in NOT_IN_UTF8]
    if missing:
        raise ValueError(
            f"vocabulary file {name!r}: {len(missing)} of the single bytes that UTF-8 uses have no token "
            f"(the first is 0x{missing[0]:02x}); the file is empty or cut short"
        )
    return ranks
