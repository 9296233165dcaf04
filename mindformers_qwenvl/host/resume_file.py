"""Which file of a training to resume from, according to its folders `rank_0`, `rank_1`, ...."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors import safe_open

from mindformers_qwenvl.weights.formats.rank_folders import (
    SavedFile,
    last_common,
    last_noted,
    rank_folders,
    saved_files,
)

__all__ = ["is_part", "latest", "named_alike", "parts_beside"]


def is_part(file: Path) -> bool:
    """Whether the file was saved with `remove_redundancy: True` by several processes."""
    if file.suffix != ".safetensors":
        return False
    with safe_open(file, framework="np") as opened:
        return (opened.metadata() or {}).get("remove_redundancy") == "True"


def latest(folder: Path, suffix: str, named: str | None, found: str) -> Path:
    """The file to resume from: the latest, or one of the same step as the file `named`.

    The latest is the last one of rank 0, which every run has: the folders of other ranks may be of an earlier run with
    more processes. If each file has a part of the parameters, it is of the last step that all ranks have saved.

    Args:
        folder: with `rank_*` folders.
        suffix: of the files, `.ckpt` or `.safetensors`.
        named: a file's name, of any rank; None: the last step.
        found: what is in the folder, as the beginning of an error message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ranks have parts whose last steps differ by more than the one checkpoint that a killed job may
            leave behind; or the host's note beside the files is damaged.
    """
    saved = {rank: saved_files(ranks, [suffix]) for rank, ranks in rank_folders(folder).items()}
    if named:
        named = named if named.endswith(suffix) else f"{named}{suffix}"
        wanted = SavedFile.of(Path(named))
        same = [file for files in saved.values() for file in files if file.is_same_step(wanted)]
        if not same:
            raise FileNotFoundError(f"{found}, but no file {named} of any rank")
        # The same run number need not mean the same run in another rank: the file itself takes precedence.
        return max(same, key=lambda file: (file.path.name == named, file.run == wanted.run)).path
    complete = {rank: _complete(files) for rank, files in saved.items()}
    complete = {rank: files for rank, files in complete.items() if files}
    if not complete:
        unnamed = [file.path for files in saved.values() for file in files if not file.order]
        if unnamed:  # the host orders these by their time
            return max(unnamed, key=lambda file: file.stat().st_mtime)
        raise FileNotFoundError(f"{found}, but no *{suffix} in them; see load_ckpt_format")
    last = {rank: files[-1] for rank, files in complete.items()}
    of_first = next(iter(last.values()))
    if not is_part(of_first.path):
        return of_first.path
    common = last_common(complete)
    if not common or any(len({file.step for file in _after(common[rank], complete[rank])}) > 1 for rank in complete):
        steps = ", ".join(f"rank_{rank} at epoch {file.step[0]}, step {file.step[1]}" for rank, file in last.items())
        raise ValueError(
            f"{found}, which are not of one run: {steps}. Move away the rank folders you do not want to resume from"
        )
    return next(iter(common.values())).path


def named_alike(saved: Iterable[Sequence[SavedFile]]) -> bool:
    """Whether each rank has files of the same runs, by the run numbers in their names."""
    return len({frozenset((file.run, file.kind[1:]) for file in files) for files in saved}) == 1


def parts_beside(part: Path) -> list[Path]:
    """`part`, and the file of the same step of each other rank; if a folder has several, the last one."""
    chosen = SavedFile.of(part)
    parts = []
    for folder in rank_folders(part.parents[1]).values():
        same = [file.path for file in saved_files(folder, [part.suffix]) if file.is_same_step(chosen)]
        parts += [part] if folder == part.parent else same[-1:]
    return parts


def _complete(files: Sequence[SavedFile]) -> list[SavedFile]:
    """The files that have a step in their names, except those after the host's note, which may be half written."""
    if not files:
        return []
    noted = last_noted(files[0].path.parent)
    return [file for file in files if file.order and (noted is None or file.step <= noted)]


def _after(chosen: SavedFile, files: Sequence[SavedFile]) -> list[SavedFile]:
    return [file for file in files if file.order > chosen.order and file.step != chosen.step]
