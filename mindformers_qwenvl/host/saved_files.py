"""Checkpoints of a training in folders `rank_0`, `rank_1`, ...: which file to resume from. Plain Python.

The host names a file PREFIX_rank_0-EPOCH_STEP, and adds a number after the rank if the folder has files of an earlier
run, or the parameters that the file holds.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

__all__ = ["latest", "named_alike", "parts_beside"]

SAVED_FILE = re.compile(r"(?P<prefix>.+)_rank_\d+(?P<more>.*)-(?P<epoch>\d+)_(?P<step>\d+)\.(ckpt|safetensors)")


def latest(folder: Path, suffix: str, named: str | None, found: str, is_part: Callable[[Path], bool]) -> Path:
    """The file to resume from, or one of the step of the file `named`.

    It is the last one of rank 0, which every run has: the folders of other ranks may be of an earlier run that had more
    processes. If files have a part of the parameters each, it is the last step that all ranks have saved.

    Args:
        folder: with `rank_*` folders.
        suffix: of the files, `ckpt` or `safetensors`.
        named: a file's name, of any rank; None: the last step.
        found: the beginning of an error: what is in the folder.
        is_part: whether a file has only a part of the parameters.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ranks have parts whose steps differ by more than the one checkpoint that a killed job may leave
            behind; or the host's note beside the files is damaged.
    """
    files = sorted(folder.glob(f"rank_*/*.{suffix}"), key=lambda file: file.stat().st_mtime)
    if named:
        named = named if named.endswith(f".{suffix}") else f"{named}.{suffix}"
        for file in files:
            if _without_rank(file.name) == _without_rank(named):
                return file
        raise FileNotFoundError(f"{found}, but no file {named} of any rank")
    steps = {rank.name: _complete(rank, suffix) for rank in folder.glob("rank_*")}
    steps = {rank: steps[rank] for rank in sorted(steps, key=_number) if steps[rank]}
    if not steps and files:  # files of other names, which the host takes by their time
        return files[-1]
    if not steps:
        raise FileNotFoundError(f"{found}, but no *.{suffix} in them; see load_ckpt_format")
    of_first = next(iter(steps.values()))
    if not is_part(of_first[max(of_first)]):
        return of_first[max(of_first)]
    common = max(set.intersection(*map(set, steps.values())), default=(0, 0))
    if any(sum(step > common for step in files) > 1 for files in steps.values()) or common == (0, 0):
        last = ", ".join(f"{rank} at epoch {max(files)[0]}, step {max(files)[1]}" for rank, files in steps.items())
        raise ValueError(
            f"{found}, which are not of one run: {last}. Move away the rank folders that you do not want to resume from"
        )
    return of_first[common]


def named_alike(files: Iterable[Path]) -> bool:
    """Whether each rank has the same runs, whose number is in the names."""
    runs: dict[str, set[str]] = defaultdict(set)
    for file in files:
        name = SAVED_FILE.fullmatch(file.name)
        runs[file.parent.name].add(name["more"] if name else "")
    return len(set(map(frozenset, runs.values()))) == 1


def parts_beside(part: Path) -> list[Path]:
    """`part` and the file of the same step of each other rank; of two in one folder the later."""
    others = sorted(part.parents[1].glob(f"rank_*/*{part.suffix}"), key=lambda file: file.stat().st_mtime)
    same = {file.parent: file for file in others if _without_rank(file.name) == _without_rank(part.name)}
    return list({**same, part.parent: part}.values())


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
    """The files that this rank has finished, by epoch and step; of several for one step the last written."""
    last, files = _last_complete(rank), {}
    for file in sorted(rank.glob(f"*.{suffix}"), key=lambda file: file.stat().st_mtime):
        name = SAVED_FILE.fullmatch(file.name)
        if name and (step := (int(name["epoch"]), int(name["step"]))) <= last:
            files[step] = file
    return files


def _last_complete(rank: Path) -> tuple[float, float]:
    """Epoch and step that the host notes after each checkpoint; without a note every file counts."""
    try:
        meta = json.loads((rank / "meta.json").read_text(encoding="utf-8"))
        return int(meta["last_epoch"]), int(meta["last_step"])
    except FileNotFoundError:
        return float("inf"), 0
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{rank / 'meta.json'}: not MindFormers' note of the last checkpoint ({error}); delete it if the "
            "checkpoints beside it are complete"
        ) from error
