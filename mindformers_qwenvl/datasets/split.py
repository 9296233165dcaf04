"""A held-out part of a file of conversations that shares no picture with the rest. Plain Python."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mindformers_qwenvl.checks import is_number
from mindformers_qwenvl.datasets.annotations import AnnotationFile
from mindformers_qwenvl.files import Inputs, check_output, replacing
from mindformers_qwenvl.text.tags import tag_pairs

__all__ = ["Split", "held_out_records", "split_file"]


@dataclass(frozen=True)
class Split:
    """The files that were written, and how many records each has."""

    training: Path
    held_out: Path
    training_records: int
    held_out_records: int

    def __str__(self) -> str:
        return (
            f"{self.training}: {self.training_records} records to learn from\n"
            f"{self.held_out}: {self.held_out_records} held out; no picture is in both"
        )


def split_file(path: str | os.PathLike[str], share: float, seed: int = 0) -> Split:
    """Write FILE.train.jsonl and FILE.held_out.jsonl beside a file of conversations.

    Records that have a picture in common, directly or through others, stay together, so the share is met as nearly as
    their groups allow. Which groups are held out depends on the seed and the names of their pictures (for records
    without one: on their text), not on the order of the file.

    Args:
        path: a JSON list or JSON Lines, as training reads it.
        share: of the records to hold out, above 0 and below 1.
        seed: a different seed holds out different groups.

    Raises:
        ValueError: the share is out of range, one of the parts would be empty, or the file changed meanwhile.
        OSError: a file cannot be read or written.
    """
    path = Path(path)
    training, held_out = (path.with_name(f"{path.stem}.{part}.jsonl") for part in ("train", "held_out"))
    for output in (training, held_out):
        check_output(output, path)
    inputs = Inputs(path)
    file = AnnotationFile(path)
    chosen = held_out_records(file, share, seed)
    with ExitStack() as files:
        parts = [files.enter_context(replacing(output, "w")) for output in (training, held_out)]
        for number in range(len(file)):
            line = json.dumps(file.record(number), ensure_ascii=False)
            parts[number in chosen].write(line.encode("utf-8", "replace").decode() + "\n")
        inputs.check()
    return Split(training, held_out, len(file) - len(chosen), len(chosen))


def held_out_records(file: AnnotationFile, share: float, seed: int = 0) -> set[int]:
    """The numbers of the records of a file that `split_file` would hold out; reads every record.

    Raises:
        ValueError: the share is out of range, or one of the parts would be empty.
    """
    if not is_number(share, above=0, below=1):
        raise ValueError(f"the share to hold out must be above 0 and below 1, got {share!r}")
    groups = _groups(file)
    chosen = _chosen(groups, share * len(file), seed)
    if not chosen or len(chosen) == len(file):
        raise ValueError(
            f"{file.path}: {len(file)} records, in {len(groups)} groups that share pictures and stay together: with a "
            f"share of {share:.3g}, one part would be empty"
        )
    return chosen


def _groups(file: AnnotationFile) -> dict[str, list[int]]:
    """Numbers of the records that belong together, by a name that does not depend on their order."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    first: list[str] = []
    for number in range(len(file)):
        _, turns = file.sample(number)
        texts = [text for _, text in turns]
        names = [f"<img>{pair.content}" for text in texts for pair in tag_pairs(text) if pair.kind == "image"]
        names = sorted(set(names)) or ["\n".join(texts)]  # the same text twice is an overlap too
        first.append(names[0])
        for other in names[1:]:
            low, high = sorted((root(names[0]), root(other)))
            parent[high] = low
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(first):
        groups.setdefault(root(name), []).append(number)
    return groups


def _chosen(groups: dict[str, list[int]], wanted: float, seed: int) -> set[int]:
    """Whole groups in the order of a hash, as long as they bring the number nearer to `wanted`."""
    chosen: set[int] = set()
    for name in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "replace")).digest()):
        after = len(chosen) + len(groups[name])
        if abs(after - wanted) < abs(len(chosen) - wanted):
            chosen.update(groups[name])
    return chosen
