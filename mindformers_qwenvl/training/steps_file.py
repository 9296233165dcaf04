"""The CSV file of a run's steps: one row a step, written at once, continued by a resumed run."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from mindformers_qwenvl.files import read_bytes, replacing

__all__ = ["COLUMNS", "StepsFile", "find_steps_files", "read_steps", "rewind_other_ranks", "steps_file_name"]

FOLDER = "steps"
# seconds: the whole step, from the end of the previous one; waited: the part of it before the step began, for data and
# checkpoints. Rates are of all cards together; mfu is a fraction; val_loss is the loss of the held-out samples, after
# steps that evaluated them. An empty cell: not known.
COLUMNS = (
    *("step", "epoch", "loss", "learning_rate", "grad_norm", "loss_scale", "overflow"),
    *("seconds", "waited", "tokens_per_s", "images_per_s", "mfu", "val_loss"),
)
Row = dict[str, "float | None"]


def steps_file_name(output_dir: str | os.PathLike[str], rank: int) -> Path:
    """Where the process `rank` of the run with this `output_dir` keeps its steps."""
    return Path(output_dir, FOLDER, f"rank_{rank}.csv")


def find_steps_files(run_dir: str | os.PathLike[str]) -> list[Path]:
    """The files of a run, by rank.

    Args:
        run_dir: the run's `output_dir`, the folder it was started in (with ./output), the folder of the files, or one.

    Raises:
        FileNotFoundError: there are none; the message names the places that were searched.
    """
    run_dir = Path(run_dir)
    if run_dir.is_file():
        return [run_dir]
    places = [run_dir / FOLDER, run_dir / "output" / FOLDER, run_dir]
    for place in places:
        if found := _by_rank(place):
            return [path for _, path in sorted(found.items())]
    looked = ", ".join(str(place / "rank_*.csv") for place in places)
    raise FileNotFoundError(
        f"{run_dir}: no steps of a run in {looked}; `callbacks: - type: QwenVLMonitor` in the YAML writes them"
    )


def rewind_other_ranks(output_dir: str | os.PathLike[str], ranks: Container[int], first_step: int) -> None:
    """Remove the steps that this run repeats from the files of processes that are not in this run.

    Each process rewinds its own file, see `StepsFile`; the files of other processes would be read as part of this run.

    Args:
        ranks: the processes of this run that write their steps.
        first_step: the first step of this run; if it is 1, the files are moved away.
    """
    for rank, path in _by_rank(Path(output_dir, FOLDER)).items():
        if rank not in ranks:
            kept = _rewind(path, first_step)
            if first_step > 1:
                _write(path, kept)


def _by_rank(folder: Path) -> dict[int, Path]:
    named = [(re.fullmatch(r"rank_(\d+)\.csv", path.name), path) for path in folder.glob("rank_*.csv")]
    return {int(match[1]): path for match, path in named if match}


def _rewind(path: Path, first_step: int) -> list[Row]:
    """The rows before `first_step`; if that is step 1, the file is moved away."""
    if first_step > 1:
        return [row for row in read_steps(path) if row["step"] < first_step]
    path.replace(path.with_suffix(".before.csv"))
    return []


def _write(path: Path, rows: list[Row]) -> None:
    with replacing(path, "w") as file:
        file.write(_line(COLUMNS) + "".join(_line(_cells(row)) for row in rows))


def read_steps(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a file. Its run may be going on or have been killed, so an incomplete last line is left out.

    Raises:
        ValueError: it is not such a file, or a line other than the last is damaged; the message says which file and
            line.
    """
    path = Path(path)
    try:
        *lines, cut = read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected the CSV file that QwenVLMonitor writes, got bytes that are not text (the first one is "
            f"byte {error.start}); move it away"
        ) from None
    del cut  # after the last end of a line comes nothing, or an incomplete line
    if not lines:
        return []
    header = lines[0].split(",")
    if not {"step", "loss"} <= set(header):
        raise ValueError(
            f"{path}: the first line must name the columns, `step` and `loss` among them, got {lines[0][:80]!r}"
        )
    return [_row(path, number, header, line) for number, line in enumerate(lines[1:], 2)]


def _row(path: Path, number: int, header: list[str], line: str) -> Row:
    cells = line.split(",")
    try:
        row = {name: float(cell) if cell else None for name, cell in zip(header, cells, strict=True)}
        step = int(row["step"])
        if step != row["step"]:
            raise ValueError
    except (ValueError, TypeError, OverflowError):  # the last: a step that is infinite
        raise ValueError(
            f"{path}, line {number}: expected {len(header)} numbers, and a whole one for `step`, got {line[:80]!r}; "
            "fix the line or delete it"
        ) from None
    return {**row, "step": step}


class StepsFile:
    """Appends rows to a file, always whole lines.

    A run that begins at `first_step` continues after the rows before that step. Later rows, whose steps came after the
    checkpoint and were lost, are removed, and so is an incomplete last line. A new run moves an existing file to
    `rank_N.before.csv`.

    Args:
        path: see `steps_file_name`.
        first_step: the first step that will be appended, from 1.

    Raises:
        ValueError: the existing file is not a file of steps.
    """

    def __init__(self, path: str | os.PathLike[str], first_step: int = 1) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, _rewind(self.path, first_step) if self.path.exists() else [])
        self._file = self.path.open("ab", buffering=0)

    def append(self, row: Mapping[str, float | None]) -> None:
        """Write one row; it is in the file when this returns. KeyError: a name is not a column."""
        if unknown := row.keys() - set(COLUMNS):
            raise KeyError(f"not columns: {sorted(unknown)}; there are {', '.join(COLUMNS)}")
        self._file.write(_line(_cells(row)).encode())

    def close(self) -> None:
        self._file.close()


def _cells(row: Mapping[str, float | None]) -> list[str]:
    # Nine digits are enough to tell any two float32 numbers apart.
    return ["" if row.get(name) is None else f"{row[name]:.9g}" for name in COLUMNS]


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
